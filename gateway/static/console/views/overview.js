/** What goes on now: how much settles, what it comes to, how long it takes, what waits. */

import { get, query } from "../lib/api.js";
import {
  badge,
  bar,
  card,
  count,
  element,
  field,
  heading,
  lasting,
  link,
  OUTCOMES,
  renew,
  share,
  soft,
} from "../lib/elements.js";
import { plot } from "../lib/time_chart.js";
import { line } from "./campaigns.js";

const EVERY_MS = 2000;
const BREAKERS = {
  open: ["rejected", "breaker open", "It does not answer and is left alone for a while"],
  closed: ["accepted", "answers", "The breaker is closed"],
  unknown: ["", "silent", "Nothing was sent to it lately, or nothing came back"],
};
const LIVE_POINTS = 150;
const RANGES = { hour: ["minute", 60, 60], day: ["hour", 3600, 24], month: ["day", 86_400, 30] };

export async function open(body, { signal, live, session }) {
  const range = field("Range", "range", {
    options: [
      { value: "hour", text: "Last hour" },
      { value: "day", text: "Last 24 hours" },
      { value: "month", text: "Last 30 days" },
    ],
  });
  const select = range.querySelector("select");
  const tiles = element("div", { className: "tiles" });
  const now = plot("Settled a second, now", [{ label: "a second", colour: "blue", as: "line" }], {
    signal,
    value: (n) => count(Math.round(n * 10) / 10),
  });
  const throughput = plot(
    "Settled in each step",
    [
      { label: "settled", colour: "green", as: "bars" },
      { label: "not accepted", colour: "red", as: "bars" },
    ],
    { signal, value: count },
  );
  const times = plot(
    "Time to accept",
    [
      { label: "p50", colour: "blue", as: "points" },
      { label: "p95", colour: "violet", as: "points" },
    ],
    { signal, value: lasting, logarithmic: true },
  );
  const services = element("div", {});
  const queue = element("div", {});
  const newest = element("ol", { className: "notifications" });
  const estimated = element("p", { className: "soft small" });

  body.replaceChildren(
    heading(
      "Overview",
      range,
      session.scopes.includes("send") &&
        element("a", { className: "button primary", href: "#/compose" }, "New campaign"),
    ),
    tiles,
    element(
      "div",
      { className: "columns" },
      card("Deliveries a second, live", now.node),
      card("Settled over time", throughput.node, estimated),
    ),
    element(
      "div",
      { className: "columns" },
      card("Time to accept, from start to the push service’s 201", times.node),
      card("Outcomes by push service", services),
    ),
    element(
      "div",
      { className: "columns" },
      card("Queue by lane", queue),
      card("Newest", newest, element("p", {}, link("campaigns", "All campaigns and notifications"))),
    ),
  );

  const seen = { at: 0, since: "", total: 0, points: [[], []] };

  async function refresh() {
    const [by, seconds, steps] = RANGES[select.value];
    const until = Math.ceil(Date.now() / 1000 / seconds) * seconds;
    const since = new Date((until - steps * seconds) * 1000).toISOString();
    const [told, { items }] = await Promise.all([
      get(`/v1/stats${query({ by, since, until: new Date(until * 1000).toISOString() })}`),
      get("/v1/notifications?limit=5"),
    ]);
    if (signal.aborted) return;
    live("live");
    const total = told.steps.reduce((sum, step) => sum + step.settled, 0);
    const mix = told.steps.reduce(
      (sum, { outcomes }) => Object.fromEntries(OUTCOMES.map((name) => [name, (sum[name] ?? 0) + outcomes[name]])),
      {},
    );
    drawNow(since, total);
    drawTiles(told, total, mix);
    const at = told.steps.map((step) => new Date(step.at).getTime() / 1000);
    const failed = told.steps.map(({ outcomes }) => OUTCOMES.slice(1).reduce((sum, name) => sum + outcomes[name], 0));
    throughput.show([at, told.steps.map((step) => step.settled), failed], `${count(total)} settled`);
    times.show([
      at,
      ...["p50", "p95"].map((name) => told.steps.map((step) => step.accept_ms && Math.max(1, step.accept_ms[name]))),
    ]);
    estimated.textContent = told.estimated ? "Mix and times of a busy step are those of its last 200 deliveries." : "";
    renew(
      services,
      ...(told.push_services.length ? told.push_services.map(service) : [soft("Nothing settled in this time.")]),
    );
    queue.replaceChildren(...lanes(told.queue));
    renew(
      newest,
      ...(items.length
        ? items.map((one) => line(one, refresh, session))
        : [element("li", { className: "soft" }, "Nothing has been sent yet.")]),
    );
  }

  /** Between two looks at the same stretch of time its sum has grown by what settled meanwhile. */
  function drawNow(since, total) {
    const moment = Date.now() / 1000;
    const [at, rate] = seen.points;
    if (seen.since === since) {
      at.push(moment);
      rate.push(Math.max(0, (total - seen.total) / (moment - seen.at)));
    }
    while (at.length > LIVE_POINTS) {
      at.shift();
      rate.shift();
    }
    Object.assign(seen, { at: moment, since, total });
    now.show(
      at.length > 1
        ? seen.points
        : [
            [moment - 2, moment],
            [0, 0],
          ],
      rate.length ? `${rate.at(-1).toFixed(1)} a second` : "",
    );
  }

  function drawTiles(told, total, mix) {
    const timed = told.steps.filter((step) => step.accept_ms).at(-1);
    const waiting = told.queue.reduce((sum, lane) => sum + lane.due, 0);
    const open = told.push_services.filter(({ breaker }) => breaker === "open");
    const answering = told.push_services.filter(({ breaker }) => breaker === "closed").length;
    tiles.replaceChildren(
      tile("Settled", count(total), select.selectedOptions[0].text.toLowerCase()),
      tile(
        "Accepted",
        share(mix.accepted, total),
        `${count(total - mix.accepted)} were not`,
        total && mix.accepted / total < 0.9 ? "warn" : "",
      ),
      tile("p50 to accept", timed ? lasting(timed.accept_ms.p50) : "–", "of the newest"),
      tile("p95 to accept", timed ? lasting(timed.accept_ms.p95) : "–", "of the newest"),
      tile(
        "Jobs due",
        count(waiting),
        waiting
          ? `the oldest for ${lasting(1000 * Math.max(...told.queue.map((lane) => lane.oldest_s)))}`
          : "nothing waits",
      ),
      tile(
        "Breakers",
        open.length ? `${open.length} open` : answering ? "closed" : "–",
        open.map((one) => one.push_service).join(", ") ||
          (answering ? `${answering} of ${told.push_services.length} answer` : "nothing came back lately"),
        open.length ? "bad" : "",
      ),
    );
  }

  select.addEventListener("change", () => refresh().catch(() => {}));
  await refresh();
  const beat = setInterval(() => {
    if (!document.hidden) refresh().catch(() => live("reconnecting"));
  }, EVERY_MS);
  signal.addEventListener("abort", () => clearInterval(beat));
}

function tile(name, value, said, state = "") {
  return element(
    "section",
    { className: `tile ${state}` },
    element("small", {}, name),
    element("b", {}, value),
    element("small", {}, said),
  );
}

function service({ push_service: name, breaker, outcomes }) {
  const whole = OUTCOMES.reduce((sum, one) => sum + outcomes[one], 0);
  const said = OUTCOMES.filter((one) => outcomes[one]).map((one) =>
    element("a", { className: `outcome ${one}`, href: `#/log?outcome=${one}` }, `${count(outcomes[one])} ${one}`),
  );
  return element(
    "div",
    { className: "measure" },
    element(
      "b",
      {},
      name,
      " ",
      element(
        "span",
        { className: `badge ${BREAKERS[breaker][0]}`, title: BREAKERS[breaker][2] },
        BREAKERS[breaker][1],
      ),
    ),
    bar(outcomes, whole),
    element("small", { className: "mix" }, said),
  );
}

function lanes(queue) {
  const most = Math.max(1, ...queue.map(({ due, later, paused }) => due + later + paused));
  return queue.map(({ lane, due, later, paused, oldest_s: oldest }) =>
    element(
      "div",
      { className: "measure" },
      element("b", {}, lane, " ", due ? badge(`${lasting(oldest * 1000)} old`) : null),
      element(
        "div",
        { className: "bar", role: "img", "aria-label": `${due} due, ${later} later, ${paused} paused` },
        [
          ["due", due],
          ["later", later],
          ["paused", paused],
        ].map(([name, n]) => element("i", { className: name, style: { width: `${(100 * n) / most}%` } })),
      ),
      element("small", {}, `${count(due)} jobs due, ${count(later)} for later, ${count(paused)} paused`),
    ),
  );
}
