/**
 * Plots that move, drawn as SVG so that the style sheet colours them: lines, bars and points over time, with the values
 * of the moment that is pointed at (else of the newest) beside their names, and told in words as well.
 */

import { drawn, element } from "./elements.js";

const HEIGHT = 190;
const [LEFT, RIGHT, TOP, BOTTOM] = [58, 18, 10, 24];
const MINUTE = 60;
const DAY = 86_400;
const STEPS = [
  5,
  15,
  30,
  MINUTE,
  5 * MINUTE,
  10 * MINUTE,
  15 * MINUTE,
  30 * MINUTE,
  DAY / 24,
  DAY / 8,
  DAY / 4,
  DAY / 2,
  DAY,
  2 * DAY,
  5 * DAY,
  10 * DAY,
];

/**
 * `series`: [{label, colour, as: "line", "bars" or "points"}]. Answers {node, show(data, words)}, whose data are times in
 * seconds, then one list of values a series, null where there is none.
 */
export function plot(label, series, { value = String, logarithmic = false, signal }) {
  const svg = drawn("svg", { role: "img", "aria-label": label });
  const named = series.map((one) => element("b", {}));
  const moment = element("span", {});
  const node = element(
    "div",
    { className: "plot" },
    svg,
    element(
      "p",
      { className: "mix legend" },
      moment,
      series.map((one, n) => element("span", {}, element("i", { className: one.colour }), one.label, " ", named[n])),
    ),
  );
  const scale = logarithmic ? Math.log10 : (number) => number;
  let data = null;
  let pointed = null;

  function draw() {
    if (!data) return;
    const [at, ...values] = data;
    const width = Math.max(LEFT + RIGHT + 1, node.clientWidth || 300);
    const known = values.flat().filter((number) => number !== null && number !== undefined);
    const ticks = logarithmic ? decades(known) : rounds(Math.max(1, ...known));
    const [low, high] = [scale(ticks[0]), scale(ticks.at(-1))];
    // A bar stands on its moment, so that the first and the last need half of their width beside them.
    const beside = series.some((one) => one.as === "bars") ? (at[1] - at[0]) / 2 : 0;
    const [first, last] = [at[0] - beside, at.at(-1) + beside];
    const x = (time) => LEFT + ((time - first) / (last - first || 1)) * (width - LEFT - RIGHT);
    const y = (number) => HEIGHT - BOTTOM - ((scale(number) - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
    const lines = ticks.map((tick) => [
      drawn("path", { class: "net", d: `M${LEFT} ${y(tick)}H${width - RIGHT}` }),
      drawn("text", { x: LEFT - 8, y: y(tick) + 4, "text-anchor": "end" }, value(tick)),
    ]);
    const times = moments(first, last, Math.max(2, (width - LEFT - RIGHT) / 75)).map((time) => [
      drawn("path", { class: "net", d: `M${x(time)} ${TOP}V${HEIGHT - BOTTOM}` }),
      drawn(
        "text",
        { x: Math.min(x(time), width - 26), y: HEIGHT - 6, "text-anchor": "middle" },
        clock(time, last - first),
      ),
    ]);
    const shapes = series.map((one, n) =>
      shape(
        one,
        at
          .map((time, k) => [x(time), values[n][k]])
          .filter(([, number]) => number !== null && number !== undefined)
          .map(([across, number]) => [across, y(number)]),
        y(ticks[0]),
        (width - LEFT - RIGHT) / at.length,
      ),
    );
    const shown = pointed === null ? at.length - 1 : nearest(at.map(x), pointed);
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    svg.replaceChildren(
      ...lines.flat(),
      ...times.flat(),
      ...shapes.flat(),
      ...(pointed === null
        ? []
        : [drawn("path", { class: "pointed", d: `M${x(at[shown])} ${TOP}V${HEIGHT - BOTTOM}` })]),
    );
    moment.textContent = clock(at[shown], last - first < 2 * DAY ? 0 : last - first);
    named.forEach((one, n) => {
      one.textContent = values[n][shown] === null || values[n][shown] === undefined ? "–" : value(values[n][shown]);
    });
  }
  svg.addEventListener("pointermove", (event) => {
    pointed = event.clientX - svg.getBoundingClientRect().left;
    draw();
  });
  svg.addEventListener("pointerleave", () => {
    pointed = null;
    draw();
  });
  const watching = new ResizeObserver(draw);
  watching.observe(node);
  signal.addEventListener("abort", () => watching.disconnect());
  return {
    node,
    show(now, words) {
      if (words) svg.setAttribute("aria-label", `${label}: ${words}`);
      data = now;
      draw();
    },
  };
}

function shape({ colour, as }, points, floor, room) {
  const line = points.map((point) => point.map((n) => n.toFixed(1)).join(" ")).join("L");
  if (as === "bars") {
    const wide = Math.min(40, room * 0.8);
    return [
      drawn("path", {
        class: `bars ${colour}`,
        d: points
          .filter(([, y]) => y < floor)
          .map(([x, y]) => `M${x - wide / 2} ${floor}V${y}h${wide}V${floor}Z`)
          .join(""),
      }),
    ];
  }
  if (!points.length) return [];
  const made = [drawn("path", { class: `line ${colour}`, d: `M${line}` })];
  if (as === "points")
    made.push(...points.map(([cx, cy]) => drawn("circle", { class: `point ${colour}`, cx, cy, r: 3 })));
  else made.push(drawn("path", { class: `under ${colour}`, d: `M${points[0][0]} ${floor}L${line}V${floor}Z` }));
  return made;
}

const nearest = (places, wanted) =>
  places.reduce((best, place, n) => (Math.abs(place - wanted) < Math.abs(places[best] - wanted) ? n : best), 0);

/** From 0 to what is at least the highest, in three to five round steps. */
function rounds(highest) {
  const power = 10 ** Math.floor(Math.log10(highest / 3));
  const step = power * [1, 2, 5, 10].find((times) => highest / (power * times) <= 5);
  return Array.from({ length: Math.ceil(highest / step) + 1 }, (_, n) => Number((n * step).toPrecision(6)));
}

/** Whole powers of ten around what there is. */
function decades(known) {
  const [low, high] = [
    Math.floor(Math.log10(Math.max(1, Math.min(...known, 1e9)))),
    Math.ceil(Math.log10(Math.max(10, ...known))),
  ];
  const [from, to] = known.length ? [Math.min(low, high - 1), high] : [0, 1];
  return Array.from({ length: to - from + 1 }, (_, n) => 10 ** (from + n));
}

/** Round moments of our own clock between two, at most so many. */
function moments(from, to, most) {
  const step = STEPS.find((seconds) => (to - from) / seconds <= most) ?? 30 * DAY;
  const offset = new Date(from * 1000).getTimezoneOffset() * MINUTE;
  const start = Math.ceil((from - offset) / step) * step + offset;
  return Array.from({ length: Math.max(0, Math.floor((to - start) / step) + 1) }, (_, n) => start + n * step);
}

function clock(at, span) {
  return new Date(at * 1000).toLocaleString(
    [],
    span > 2 * DAY
      ? { month: "short", day: "numeric" }
      : { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...(span < 10 * MINUTE ? { second: "2-digit" } : {}) },
  );
}
