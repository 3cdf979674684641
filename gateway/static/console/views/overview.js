/** Overview: throughput, outcomes, time to accept, queue and the newest notifications. */

import { get, queryString } from "../lib/api.js";
import {
  badge,
  card,
  element,
  field,
  link,
  mutedText,
  OUTCOMES,
  outcomeBar,
  outcomeLinks,
  pageHeading,
} from "../lib/elements.js";
import { formatCount, formatDuration, formatShare } from "../lib/format.js";
import { notificationRow } from "../lib/notification_row.js";
import { createTimeChart } from "../lib/time_chart.js";
import { replaceKeepingFocus } from "../lib/updates.js";

const POLL_INTERVAL_MS = 2000;
const MAX_LIVE_POINTS = 150;
// A share of accepted deliveries below this is highlighted.
const MIN_ACCEPTED_SHARE = 0.9;
// By time range: name of a step, length of a step in seconds, number of steps.
const RANGES = { hour: ["minute", 60, 60], day: ["hour", 3600, 24], month: ["day", 86_400, 30] };
const RANGE_OPTIONS = [
  { value: "hour", text: "Last hour" },
  { value: "day", text: "Last 24 hours" },
  { value: "month", text: "Last 30 days" },
];
// By state of the circuit breaker: badge colour, badge text, explanation.
const BREAKERS = {
  open: ["rejected", "paused", "Too many failures. Sending to it resumes automatically."],
  closed: ["accepted", "normal", "It accepts messages."],
  unknown: ["", "no recent traffic", "No response was received from it recently."],
};

export async function open(body, { signal, live, session }) {
  const range = field("Range", "range", { options: RANGE_OPTIONS });
  const select = range.querySelector("select");
  const tiles = element("div", { className: "tiles" });
  const rateChart = createTimeChart(
    "Deliveries per second, live",
    [{ label: "per second", colour: "blue", type: "line" }],
    { signal, format: (rate) => formatCount(Math.round(rate * 10) / 10) },
  );
  const volumeChart = createTimeChart(
    "Deliveries processed",
    [
      { label: "processed", colour: "green", type: "bars" },
      { label: "not accepted", colour: "red", type: "bars" },
    ],
    { signal, format: formatCount },
  );
  const latencyChart = createTimeChart(
    "Time to accept",
    [
      { label: "median", colour: "blue", type: "points" },
      { label: "95th percentile", colour: "violet", type: "points" },
    ],
    { signal, format: formatDuration, logarithmic: true },
  );
  const services = element("div", {});
  const queue = element("div", {});
  const newest = element("ol", { className: "notification-list" });
  const estimateNotice = element("p", { className: "muted small" });

  const newCampaign = element("a", { className: "button primary", href: "#/compose" }, "New campaign");
  body.replaceChildren(
    pageHeading("Overview", range, session.scopes.includes("send") && newCampaign),
    tiles,
    element(
      "div",
      { className: "columns" },
      card("Deliveries per second, live", rateChart.node),
      card("Deliveries processed", volumeChart.node, estimateNotice),
    ),
    element(
      "div",
      { className: "columns" },
      card("Time from start to acceptance by the push service", latencyChart.node),
      card("Outcomes by push service", services),
    ),
    element(
      "div",
      { className: "columns" },
      card("Queue by lane", queue),
      card("Newest notifications", newest, element("p", {}, link("campaigns", "All campaigns and notifications"))),
    ),
  );

  const liveRate = { sampledAt: 0, since: "", total: 0, points: [[], []] };

  async function refresh() {
    const [by, seconds, steps] = RANGES[select.value];
    const until = Math.ceil(Date.now() / 1000 / seconds) * seconds;
    const since = new Date((until - steps * seconds) * 1000).toISOString();
    const [statistics, { items }] = await Promise.all([
      get(`/v1/stats${queryString({ by, since, until: new Date(until * 1000).toISOString() })}`),
      get("/v1/notifications?limit=5"),
    ]);
    if (signal.aborted) return;
    live("live");
    const total = sum(statistics.steps, (step) => step.settled);
    const outcomes = Object.fromEntries(
      OUTCOMES.map((name) => [name, sum(statistics.steps, (step) => step.outcomes[name])]),
    );
    drawLiveRate(since, total);
    drawTiles(statistics, total, outcomes);
    const times = statistics.steps.map((step) => new Date(step.at).getTime() / 1000);
    const failed = statistics.steps.map((step) => sum(OUTCOMES.slice(1), (name) => step.outcomes[name]));
    volumeChart.show([times, statistics.steps.map((step) => step.settled), failed], `${formatCount(total)} processed`);
    const percentile = (name) => statistics.steps.map((step) => step.accept_ms && Math.max(1, step.accept_ms[name]));
    latencyChart.show([times, percentile("p50"), percentile("p95")]);
    estimateNotice.textContent = statistics.estimated
      ? "Outcomes and times of a busy step are estimated from its last 200 deliveries."
      : "";
    const serviceRows = statistics.push_services.map(serviceRow);
    replaceKeepingFocus(
      services,
      ...(serviceRows.length ? serviceRows : [mutedText("No deliveries in this time range.")]),
    );
    queue.replaceChildren(...laneRows(statistics.queue));
    const rows = items.map((item) => notificationRow(item, refresh, session));
    const emptyRow = element(
      "li",
      { className: "muted" },
      "No notifications yet. Create a campaign to send the first.",
    );
    replaceKeepingFocus(newest, ...(rows.length ? rows : [emptyRow]));
  }

  /** Draw the rate since the last poll: the growth of the total. Totals of different time ranges are not compared. */
  function drawLiveRate(since, total) {
    const now = Date.now() / 1000;
    const [times, rates] = liveRate.points;
    if (liveRate.since === since) {
      times.push(now);
      rates.push(Math.max(0, (total - liveRate.total) / (now - liveRate.sampledAt)));
    }
    while (times.length > MAX_LIVE_POINTS) {
      times.shift();
      rates.shift();
    }
    Object.assign(liveRate, { sampledAt: now, since, total });
    const flat = [
      [now - 2, now],
      [0, 0],
    ];
    rateChart.show(
      times.length > 1 ? liveRate.points : flat,
      rates.length ? `${rates.at(-1).toFixed(1)} per second` : "",
    );
  }

  function drawTiles(statistics, total, outcomes) {
    const latest = statistics.steps.filter((step) => step.accept_ms).at(-1);
    const due = sum(statistics.queue, (lane) => lane.due);
    const oldest = Math.max(...statistics.queue.map((lane) => lane.oldest_s));
    const isLow = total && outcomes.accepted / total < MIN_ACCEPTED_SHARE;
    tiles.replaceChildren(
      tile("Processed", formatCount(total), select.selectedOptions[0].text.toLowerCase()),
      tile(
        "Accepted",
        formatShare(outcomes.accepted, total),
        `${formatCount(total - outcomes.accepted)} not accepted`,
        isLow ? "warning" : "",
      ),
      tile("Time to accept", latest ? formatDuration(latest.accept_ms.p50) : "–", "median"),
      tile("95th percentile", latest ? formatDuration(latest.accept_ms.p95) : "–", "time to accept"),
      tile("Jobs due", formatCount(due), due ? `oldest: ${formatDuration(1000 * oldest)}` : "queue is empty"),
      pushServiceTile(statistics.push_services),
    );
  }

  select.addEventListener("change", () => refresh().catch(() => {}));
  await refresh();
  const timer = setInterval(() => {
    if (!document.hidden) refresh().catch(() => live("reconnecting"));
  }, POLL_INTERVAL_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
}

const sum = (items, amountOf) => items.reduce((total, item) => total + amountOf(item), 0);

function tile(name, value, detail, className = "") {
  return element(
    "section",
    { className: `tile ${className}` },
    element("small", {}, name),
    element("b", {}, value),
    element("small", { title: detail }, detail),
  );
}

function pushServiceTile(services) {
  const paused = services.filter(({ breaker }) => breaker === "open");
  const normal = services.filter(({ breaker }) => breaker === "closed");
  if (paused.length) {
    const names = paused.map((service) => service.push_service).join(", ");
    return tile("Push services", `${paused.length} paused`, names, "error");
  }
  if (normal.length) return tile("Push services", "normal", `${normal.length} of ${services.length} with traffic`);
  return tile("Push services", "–", "no recent traffic");
}

function serviceRow({ push_service: name, breaker, outcomes }) {
  const total = sum(OUTCOMES, (outcome) => outcomes[outcome]);
  const [colour, text, explanation] = BREAKERS[breaker];
  return element(
    "div",
    { className: "meter" },
    element("b", {}, name, " ", badge(text, colour, explanation)),
    outcomeBar(outcomes, total),
    element(
      "small",
      { className: "counts" },
      outcomeLinks(outcomes, (outcome) => `#/log?outcome=${outcome}`),
    ),
  );
}

function laneRows(queue) {
  const largest = Math.max(1, ...queue.map(({ due, later, paused }) => due + later + paused));
  return queue.map(({ lane, due, later, paused, oldest_s: oldest }) => {
    const counts = { due, later, paused };
    const segments = Object.entries(counts).map(([name, jobs]) =>
      element("i", { className: name, style: { width: `${(100 * jobs) / largest}%` } }),
    );
    const label = `${formatCount(due)} jobs due, ${formatCount(later)} scheduled, ${formatCount(paused)} paused`;
    return element(
      "div",
      { className: "meter" },
      element("b", {}, lane, " ", oldest >= 1 && badge(`oldest ${formatDuration(oldest * 1000)}`, "")),
      element("div", { className: "bar", role: "img", "aria-label": label }, segments),
      element("small", {}, label),
    );
  });
}
