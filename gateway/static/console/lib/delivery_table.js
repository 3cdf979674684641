/** A table of deliveries, and a dialog with all attempts of one delivery. */

import { get } from "./api.js";
import { openDialog, runAction } from "./dialogs.js";
import { button, definitionList, element, link, outcomeLabel, scrollable } from "./elements.js";
import { formatDateTime, formatDuration, formatQuantity, formatTime } from "./format.js";

const COLUMNS = ["Processed", "Outcome", "Push service", "User", "Attempts", "Receipt", "Details"];
// The receipt that says most first: a clicked notification was also displayed.
const RECEIPTS = ["clicked", "dismissed", "displayed"];

export function deliveryTable(rows) {
  const header = COLUMNS.map((name) => element("th", { scope: "col" }, name));
  const head = element("thead", {}, element("tr", {}, header));
  return scrollable(element("table", { className: "log" }, head, rows));
}

export function deliveryRow(delivery) {
  const receipt = RECEIPTS.find((event) => delivery[`${event}_at`]);
  const processedAt = button(formatTime(delivery.settled_at), null, {
    className: "link-button",
    title: formatDateTime(delivery.settled_at),
  });
  const cells = [
    processedAt,
    outcomeLabel(delivery.outcome),
    delivery.push_service ?? delivery.host,
    delivery.user_id ?? "",
    String(delivery.attempts),
    receipt ?? "",
    delivery.cause,
  ];
  const row = element(
    "tr",
    {},
    cells.map((cell) => element("td", {}, cell)),
  );
  row.addEventListener("click", () => openDelivery(delivery.id));
  return row;
}

/** Load one delivery and show it in a dialog. */
export async function openDelivery(id) {
  const delivery = await runAction(null, () => get(`/v1/deliveries/${encodeURIComponent(id)}`));
  if (!delivery) return;
  const node = openDialog(
    "Delivery",
    definitionList([
      ["Outcome", outcomeLabel(delivery.outcome)],
      ["Details", delivery.cause],
      ["User", delivery.user_id],
      ["Push service", delivery.host],
      ["Displayed", formatDateTime(delivery.displayed_at)],
      ["Clicked", formatDateTime(delivery.clicked_at)],
      ["Button", delivery.action],
      ["Dismissed", formatDateTime(delivery.dismissed_at)],
      ["Time to live granted", delivery.granted_ttl && formatDuration(1000 * delivery.granted_ttl)],
      ["Notification", link(`campaigns/${delivery.notification_id}`, delivery.notification_id)],
      ["Device", link(`devices/${delivery.device_id}`, delivery.device_id)],
      ["Delivery ID", delivery.id],
    ]),
    element("h3", {}, formatQuantity(delivery.attempts.length, "attempt")),
    element("ol", { className: "attempts" }, delivery.attempts.map(attemptItem)),
  );
  for (const anchor of node.querySelectorAll("a")) anchor.addEventListener("click", () => node.close());
}

function attemptItem(attempt) {
  const status = attempt.status ? `HTTP ${attempt.status}` : "no response";
  return element(
    "li",
    {},
    `${formatDateTime(attempt.at)} · ${status} after ${formatDuration(attempt.duration_ms)}`,
    element("div", {}, attempt.cause),
    element("small", {}, attempt.retry_at ? `next attempt at ${formatDateTime(attempt.retry_at)}` : attempt.next),
  );
}
