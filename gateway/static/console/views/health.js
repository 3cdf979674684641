/** Health: readiness of the server, depth of the queue and state of the push services. */

import { get } from "../lib/api.js";
import { badge, card, definitionList, element, mutedText, pageHeading, table } from "../lib/elements.js";
import { formatCount, formatDateTime, formatDuration } from "../lib/format.js";
import { poll } from "../lib/updates.js";

const POLL_INTERVAL_MS = 3000;
const QUEUE_COLUMNS = [
  ["Lane", (lane) => element("b", {}, lane.lane)],
  ["Due", (lane) => formatCount(lane.due)],
  ["Scheduled", (lane) => formatCount(lane.later)],
  ["Paused", (lane) => formatCount(lane.paused)],
  ["Oldest due job", (lane) => (lane.due ? formatDuration(1000 * lane.oldest_s) : "–")],
];
// By state of the circuit breaker: text, class and title of the badge.
const BREAKER_BADGES = {
  open: ["paused", "failing", "Too many failures. Sending to it resumes automatically."],
  closed: ["normal", "ok", "It accepts messages."],
};
const NO_TRAFFIC = ["no recent traffic", "", "No response was received from it recently."];
const SERVICE_COLUMNS = [
  ["Push service", (service) => service.push_service],
  ["Status", (service) => badge(...(BREAKER_BADGES[service.breaker] ?? NO_TRAFFIC))],
  ["Limit", (service) => describeLimit(service.limit)],
  ["Accepted", (service) => formatCount(service.outcomes.accepted)],
  ["Gone", (service) => formatCount(service.outcomes.gone)],
  ["Rejected", (service) => formatCount(service.outcomes.rejected)],
  ["Expired", (service) => formatCount(service.outcomes.expired)],
];

export async function open(body, { signal, live }) {
  async function refresh() {
    const startedAt = performance.now();
    const readiness = await fetch("/readyz").then(
      (response) => response.json(),
      () => ({ status: "unreachable", checks: {} }),
    );
    const responseTime = performance.now() - startedAt;
    const statistics = await get("/v1/stats?by=minute");
    if (signal.aborted) return;
    const isReady = readiness.status === "ready";
    live(isReady ? "live" : "reconnecting");
    body.replaceChildren(
      pageHeading("Health", badge(isReady ? "ok" : "failing")),
      card(
        "This server",
        definitionList([
          ["Status", readiness.status],
          ...Object.entries(readiness.checks).map(([name, result]) => [capitalize(name), result]),
          ["Response time", formatDuration(responseTime)],
        ]),
      ),
      card("Queue of this application", table(QUEUE_COLUMNS, statistics.queue, "No lanes.")),
      card(
        "Push services, last hour",
        table(SERVICE_COLUMNS, statistics.push_services, "No messages were sent in the last hour."),
      ),
      card(
        "Monitoring",
        mutedText(
          "Prometheus metrics have a port of their own, ",
          element("code", {}, "GATEWAY_METRICS_PORT"),
          ". On the server, ",
          element("code", {}, "gateway doctor"),
          " finds common problems and says how to solve them.",
        ),
      ),
    );
  }
  await refresh();
  poll(refresh, POLL_INTERVAL_MS, signal);
}

function describeLimit(limit) {
  if (!limit) return "–";
  const pace = `${formatCount(Number(limit.per_second.toPrecision(2)))}/s`;
  return limit.held_until ? `${pace}, nothing until ${formatDateTime(limit.held_until)}` : pace;
}

const capitalize = (text) => text[0].toUpperCase() + text.slice(1);
