/** Who did what, on what, when. */

import { get, query } from "../lib/api.js";
import { button, doing, element, exactly, field, heading, table, when } from "../lib/elements.js";

export async function open(body, { query: asked, session }) {
  const act = field("Only acts of the kind", "act", { value: asked.act, placeholder: "keys.remove" });
  const filters = element("form", { className: "filters", role: "search" }, act);
  const shown = element("div", {});
  const more = button("Older", null, { hidden: true });
  body.replaceChildren(heading("Audit log"), element("section", { className: "card" }, filters, shown, more));
  let items = [];
  let cursor = null;

  async function load(next) {
    const said = { act: act.lastChild.value.trim() };
    const page = await get(`/v1/audit${query({ ...said, limit: 50, cursor: next })}`);
    history.replaceState(null, "", `#/audit${query(said)}`);
    items = next ? [...items, ...page.items] : page.items;
    cursor = page.next_cursor;
    more.hidden = !cursor;
    shown.replaceChildren(
      table(
        [
          ["When", (one) => element("span", { title: exactly(one.at) }, when(one.at))],
          ["Act", (one) => element("b", {}, one.act)],
          ["Who", (one) => element("code", {}, one.who)],
          ["On", (one) => one.target && element("code", {}, one.target)],
          ["Given", (one) => (Object.keys(one.details).length ? element("code", {}, JSON.stringify(one.details)) : "")],
        ],
        items,
        "Nothing was noted yet.",
      ),
    );
  }
  filters.addEventListener("change", () => doing(null, () => load()));
  filters.addEventListener("submit", (event) => event.preventDefault());
  more.onclick = () => doing(more, () => load(cursor));
  if (!session.scopes.includes("manage"))
    throw new Error("The audit log is for keys that may manage; this one may not.");
  await load();
}
