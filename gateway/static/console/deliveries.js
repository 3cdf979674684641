/** The log: a table that grows at the top, and one delivery in full. */

import { call, follow } from "./api.js";
import { $, element, exactly, when } from "./elements.js";

const MOST_ROWS = 500;

let following = new AbortController();
let paused = false;
let waiting = [];
let drawing = false;

export function query() {
  const filters = new URLSearchParams(new FormData($("filters")));
  for (const [name, value] of [...filters]) if (!value.trim()) filters.delete(name);
  return filters;
}

/** Show the newest that match the filters, and then whatever settles. */
export async function open(onState, onNews) {
  following.abort();
  following = new AbortController();
  const { signal } = following;
  const filters = query();
  history.replaceState(null, "", filters.size ? `?${filters}` : location.pathname);
  const problem = document.querySelector("#console .problem");
  problem.textContent = "";
  waiting = [];
  let page;
  try {
    page = await call("GET", `/v1/deliveries?limit=200&${filters}`);
  } catch (error) {
    if (signal.aborted) return;
    problem.textContent = error.message;
    page = { items: [] };
  }
  if (signal.aborted) return;
  $("deliveries").replaceChildren(...page.items.map(row));
  $("no-deliveries").hidden = page.items.length > 0;
  const shown = new Set(page.items.map(({ id }) => id));
  follow(filters, (deliveries) => {
    onNews(deliveries);
    waiting.push(...deliveries.filter(({ id }) => !shown.has(id)));
    if (waiting.length > MOST_ROWS) waiting = waiting.slice(-MOST_ROWS);
    draw();
  }, (state) => onState(paused ? "paused" : state), signal);
}

export function close() {
  following.abort();
  $("deliveries").replaceChildren();
}

export function pause(now) {
  paused = now;
  draw();
}

/** Once a frame at the most, however fast they come. */
function draw() {
  if (drawing || paused || !waiting.length) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    const table = $("deliveries");
    table.prepend(...waiting.reverse().map(row));
    waiting = [];
    while (table.childElementCount > MOST_ROWS) table.lastElementChild.remove();
    $("no-deliveries").hidden = true;
  });
}

function row(delivery) {
  const told = ["clicked", "dismissed", "displayed"].find((event) => delivery[`${event}_at`]);
  const line = element("tr", { className: delivery.outcome },
    element("td", {}, element("button", { type: "button", title: exactly(delivery.settled_at) }, when(delivery.settled_at))),
    element("td", { className: "outcome" }, delivery.outcome),
    element("td", {}, delivery.push_service ?? delivery.host),
    element("td", {}, delivery.user_id ?? ""),
    element("td", {}, String(delivery.attempts)),
    element("td", {}, told ?? ""),
    element("td", {}, delivery.cause));
  line.addEventListener("click", () => show(delivery.id));
  return line;
}

async function show(id) {
  const body = $("detail-body");
  body.replaceChildren(element("p", { className: "soft" }, "Loading…"));
  $("detail").showModal();
  let delivery;
  try {
    delivery = await call("GET", `/v1/deliveries/${id}`);
  } catch (error) {
    body.replaceChildren(element("p", { className: "problem" }, error.message));
    return;
  }
  const said = [
    ["Outcome", element("span", { className: `outcome ${delivery.outcome}` }, delivery.outcome)],
    ["Why", delivery.cause], ["User", delivery.user_id], ["Push service", delivery.host],
    ["Displayed", exactly(delivery.displayed_at)], ["Clicked", exactly(delivery.clicked_at)], ["Button", delivery.action],
    ["Dismissed", exactly(delivery.dismissed_at)], ["Held for", delivery.granted_ttl && `${delivery.granted_ttl} s`],
    ["Notification", delivery.notification_id], ["Device", delivery.device_id], ["Delivery", delivery.id],
  ].filter(([, value]) => value);
  body.replaceChildren(
    element("dl", {}, ...said.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])),
    element("h2", {}, delivery.attempts.length === 1 ? "One attempt" : `${delivery.attempts.length} attempts`),
    element("ol", {}, ...delivery.attempts.map((attempt) => element("li", {},
      `${exactly(attempt.at)} · ${attempt.status ?? "no answer"} after ${attempt.duration_ms} ms`,
      element("div", {}, attempt.cause),
      element("div", { className: "soft" }, attempt.retry_at ? `tried again at ${exactly(attempt.retry_at)}` : attempt.next)))));
}
