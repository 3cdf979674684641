/** Delivery log: a table with filters. New deliveries are added at its top. */

import { followDeliveries, get, queryString } from "../lib/api.js";
import { deliveryRow, deliveryTable, openDelivery } from "../lib/delivery_table.js";
import { runAction } from "../lib/dialogs.js";
import { button, element, field, formValues, mutedText, OUTCOMES, pageHeading } from "../lib/elements.js";

const MAX_ROWS = 500;
const PAGE_SIZE = 100;

export async function open(body, { query, id, signal, live }) {
  const filters = element(
    "form",
    { className: "filters", role: "search" },
    field("Outcome", "outcome", { options: [{ value: "", text: "All" }, ...OUTCOMES], value: query.outcome }),
    field("Push service", "host", { placeholder: "fcm.googleapis.com", value: query.host }),
    field("User ID", "user_id", { placeholder: "u-42", value: query.user_id }),
    field("Notification ID", "notification_id", { placeholder: "ntf_…", value: query.notification_id }),
    field("Device ID", "device_id", { placeholder: "dev_…", value: query.device_id }),
    field("Processed since", "since", { type: "datetime-local", value: query.since }),
    field("Processed until", "until", { type: "datetime-local", value: query.until }),
    element("button", { type: "reset" }, "Clear filters"),
  );
  const pause = button("Pause", null, { "aria-pressed": "false" });
  const problem = element("p", { className: "problem", role: "alert" });
  const rows = element("tbody", {});
  const emptyText = mutedText("No deliveries match. New ones appear here when they are processed.");
  const older = button("Load older", null, { hidden: true });
  body.replaceChildren(
    pageHeading("Delivery log", pause),
    element("section", { className: "card" }, filters, problem, deliveryTable(rows), emptyText, older),
  );

  let stream = new AbortController();
  let paused = false;
  let pending = [];
  let drawScheduled = false;
  let cursor = null;
  signal.addEventListener("abort", () => stream.abort());

  function filterParameters() {
    const values = formValues(filters);
    const toUtc = (localTime) => localTime && new Date(localTime).toISOString();
    return { ...values, since: toUtc(values.since), until: toUtc(values.until) };
  }
  const loadPage = (from) =>
    get(`/v1/deliveries${queryString({ ...filterParameters(), limit: PAGE_SIZE, cursor: from })}`);

  /** Load the newest deliveries that match the filters, then follow the log. */
  async function reload() {
    stream.abort();
    stream = new AbortController();
    const { signal: current } = stream;
    history.replaceState(null, "", `#/log${queryString(formValues(filters))}`);
    problem.textContent = "";
    pending = [];
    let page = { items: [] };
    try {
      page = await loadPage();
    } catch (error) {
      if (!current.aborted) problem.textContent = error.message;
    }
    if (current.aborted) return;
    rows.replaceChildren();
    append(page);
    const loaded = new Set(page.items.map((delivery) => delivery.id));
    const addPending = (deliveries) => {
      pending.push(...deliveries.filter((delivery) => !loaded.has(delivery.id)));
      if (pending.length > MAX_ROWS) pending = pending.slice(-MAX_ROWS);
      scheduleDraw();
    };
    const showState = (state) => live(paused ? "paused" : state);
    followDeliveries(queryString(filterParameters()).slice(1), addPending, showState, current);
  }
  function append(page) {
    rows.append(...page.items.map(deliveryRow));
    emptyText.hidden = rows.childElementCount > 0;
    cursor = page.next_cursor;
    older.hidden = !cursor;
  }
  /** Draw the pending deliveries with the next frame, so at most once a frame. */
  function scheduleDraw() {
    if (drawScheduled || paused || !pending.length) return;
    drawScheduled = true;
    requestAnimationFrame(() => {
      drawScheduled = false;
      rows.prepend(...pending.reverse().map(deliveryRow));
      pending = [];
      while (rows.childElementCount > MAX_ROWS) rows.lastElementChild.remove();
      emptyText.hidden = true;
    });
  }

  older.onclick = () => runAction(older, async () => append(await loadPage(cursor)));
  pause.onclick = () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Resume" : "Pause";
    live(paused ? "paused" : "live");
    scheduleDraw();
  };
  filters.addEventListener("change", reload);
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("reset", () => setTimeout(reload));
  await reload();
  if (id) await openDelivery(id);
}
