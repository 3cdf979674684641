/** Audit log: who did what, on which object, and when. */

import { get, queryString } from "../lib/api.js";
import { runAction } from "../lib/dialogs.js";
import { button, element, field, pageHeading, table, textOf } from "../lib/elements.js";
import { formatDateTime, formatTime } from "../lib/format.js";

const PAGE_SIZE = 50;

const code = (text) => element("code", {}, text);

const COLUMNS = [
  ["Time", (entry) => element("span", { title: formatDateTime(entry.at) }, formatTime(entry.at))],
  ["Action", (entry) => element("b", {}, entry.action)],
  ["Actor", (entry) => code(entry.actor)],
  ["Object", (entry) => entry.target && code(entry.target)],
  ["Details", (entry) => (Object.keys(entry.details).length ? code(JSON.stringify(entry.details)) : "")],
];

export async function open(body, { query, session }) {
  const action = field("Action", "action", { value: query.action, placeholder: "keys.remove" });
  const filters = element("form", { className: "filters", role: "search" }, action);
  const results = element("div", {});
  const more = button("Load older", null, { hidden: true });
  body.replaceChildren(pageHeading("Audit log"), element("section", { className: "card" }, filters, results, more));
  let items = [];
  let cursor = null;

  async function load(from) {
    const criteria = { action: textOf(action) };
    const page = await get(`/v1/audit${queryString({ ...criteria, limit: PAGE_SIZE, cursor: from })}`);
    history.replaceState(null, "", `#/audit${queryString(criteria)}`);
    items = from ? [...items, ...page.items] : page.items;
    cursor = page.next_cursor;
    more.hidden = !cursor;
    results.replaceChildren(table(COLUMNS, items, "No audit entries match."));
  }
  filters.addEventListener("change", () => runAction(null, () => load()));
  filters.addEventListener("submit", (event) => event.preventDefault());
  more.onclick = () => runAction(more, () => load(cursor));
  if (!session.scopes.includes("manage")) throw new Error("The audit log needs a key with the scope “manage”.");
  await load();
}
