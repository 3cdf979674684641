/** The log: a table that grows at the top, and one delivery in full. */

import { follow, get, query } from "../lib/api.js";
import {
  button,
  dialog,
  doing,
  element,
  exactly,
  facts,
  field,
  heading,
  lasting,
  link,
  OUTCOMES,
  soft,
  when,
} from "../lib/elements.js";

const MOST_ROWS = 500;
const PAGE = 100;

export async function open(body, { query: asked, id, signal, live }) {
  const filters = element(
    "form",
    { className: "filters", role: "search" },
    field("Outcome", "outcome", { options: [{ value: "", text: "all" }, ...OUTCOMES], value: asked.outcome }),
    field("Push service", "host", { placeholder: "fcm.googleapis.com", value: asked.host }),
    field("User", "user_id", { placeholder: "u-42", value: asked.user_id }),
    field("Notification", "notification_id", { placeholder: "ntf_…", value: asked.notification_id }),
    field("Device", "device_id", { placeholder: "dev_…", value: asked.device_id }),
    field("Settled since", "since", { type: "datetime-local", value: asked.since }),
    field("Until", "until", { type: "datetime-local", value: asked.until }),
    element("button", { type: "reset" }, "Clear"),
  );
  const pause = button("Pause", null, { "aria-pressed": "false" });
  const problem = element("p", { className: "problem", role: "alert" });
  const rows = element("tbody", {});
  const nothing = soft("No delivery matches. They appear here as they settle.");
  const older = button("Older", null, { hidden: true });
  body.replaceChildren(
    heading("Delivery log", pause),
    element(
      "section",
      { className: "card" },
      filters,
      problem,
      element(
        "div",
        { className: "scroll" },
        element(
          "table",
          { className: "log" },
          element(
            "thead",
            {},
            element(
              "tr",
              {},
              ["Settled", "Outcome", "Push service", "User", "Tries", "Browser", "Why"].map((name) =>
                element("th", { scope: "col" }, name),
              ),
            ),
          ),
          rows,
        ),
      ),
      nothing,
      older,
    ),
  );

  let following = new AbortController();
  let paused = false;
  let waiting = [];
  let drawing = false;
  let cursor = null;
  signal.addEventListener("abort", () => following.abort());

  function wanted() {
    const said = Object.fromEntries([...new FormData(filters)].map(([name, value]) => [name, value.trim()]));
    return said;
  }
  const asMoments = (said) => ({
    ...said,
    since: said.since && new Date(said.since).toISOString(),
    until: said.until && new Date(said.until).toISOString(),
  });

  /** The newest that match the filters, and then whatever settles. */
  async function show() {
    following.abort();
    following = new AbortController();
    const mine = following.signal;
    const said = wanted();
    history.replaceState(null, "", `#/log${query(said)}`);
    problem.textContent = "";
    waiting = [];
    let page = { items: [] };
    try {
      page = await get(`/v1/deliveries${query({ ...asMoments(said), limit: PAGE })}`);
    } catch (error) {
      if (!mine.aborted) problem.textContent = error.message;
    }
    if (mine.aborted) return;
    fill(page, true);
    const shown = new Set(page.items.map((one) => one.id));
    follow(
      query(asMoments(said)).slice(1),
      (deliveries) => {
        waiting.push(...deliveries.filter((one) => !shown.has(one.id)));
        if (waiting.length > MOST_ROWS) waiting = waiting.slice(-MOST_ROWS);
        draw();
      },
      (state) => live(paused ? "paused" : state),
      mine,
    );
  }
  function fill(page, anew) {
    if (anew) rows.replaceChildren();
    rows.append(...page.items.map(row));
    nothing.hidden = rows.childElementCount > 0;
    cursor = page.next_cursor;
    older.hidden = !cursor;
  }
  /** Once a frame at the most, however fast they come. */
  function draw() {
    if (drawing || paused || !waiting.length) return;
    drawing = true;
    requestAnimationFrame(() => {
      drawing = false;
      rows.prepend(...waiting.reverse().map(row));
      waiting = [];
      while (rows.childElementCount > MOST_ROWS) rows.lastElementChild.remove();
      nothing.hidden = true;
    });
  }

  older.onclick = () =>
    doing(older, async () =>
      fill(await get(`/v1/deliveries${query({ ...asMoments(wanted()), limit: PAGE, cursor })}`), false),
    );
  pause.onclick = () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Go on" : "Pause";
    live(paused ? "paused" : "live");
    draw();
  };
  filters.addEventListener("change", show);
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("reset", () => setTimeout(show));
  await show();
  if (id) await inFull(id);
}

/** One delivery in a table of them. */
export function row(delivery) {
  const told = ["clicked", "dismissed", "displayed"].find((event) => delivery[`${event}_at`]);
  const line = element(
    "tr",
    {},
    element(
      "td",
      {},
      button(when(delivery.settled_at), null, { className: "plain", title: exactly(delivery.settled_at) }),
    ),
    element("td", {}, element("span", { className: `outcome ${delivery.outcome}` }, delivery.outcome)),
    element("td", {}, delivery.push_service ?? delivery.host),
    element("td", {}, delivery.user_id ?? ""),
    element("td", {}, String(delivery.attempts)),
    element("td", {}, told ?? ""),
    element("td", {}, delivery.cause),
  );
  line.addEventListener("click", () => inFull(delivery.id));
  return line;
}

async function inFull(id) {
  const delivery = await doing(null, () => get(`/v1/deliveries/${encodeURIComponent(id)}`));
  if (!delivery) return;
  const shown = dialog(
    "Delivery",
    facts([
      ["Outcome", element("span", { className: `outcome ${delivery.outcome}` }, delivery.outcome)],
      ["Why", delivery.cause],
      ["User", delivery.user_id],
      ["Push service", delivery.host],
      ["Displayed", exactly(delivery.displayed_at)],
      ["Clicked", exactly(delivery.clicked_at)],
      ["Button", delivery.action],
      ["Dismissed", exactly(delivery.dismissed_at)],
      ["Held for", delivery.granted_ttl && `${delivery.granted_ttl} s`],
      ["Notification", link(`campaigns/${delivery.notification_id}`, delivery.notification_id)],
      ["Device", link(`devices/${delivery.device_id}`, delivery.device_id)],
      ["Delivery", delivery.id],
    ]),
    element("h3", {}, delivery.attempts.length === 1 ? "One attempt" : `${delivery.attempts.length} attempts`),
    element(
      "ol",
      { className: "attempts" },
      delivery.attempts.map((attempt) =>
        element(
          "li",
          {},
          `${exactly(attempt.at)} · ${attempt.status ?? "no answer"} after ${lasting(attempt.duration_ms)}`,
          element("div", {}, attempt.cause),
          element("small", {}, attempt.retry_at ? `tried again at ${exactly(attempt.retry_at)}` : attempt.next),
        ),
      ),
    ),
  );
  for (const one of shown.querySelectorAll("a")) one.addEventListener("click", () => shown.close());
}
