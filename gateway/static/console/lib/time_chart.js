/**
 * Line, bar and point charts over time, drawn as SVG so that the style sheet colours them.
 *
 * The legend shows the values at the pointer, or the newest values while the pointer is elsewhere. The accessible label
 * has a summary in words.
 */

import { element, svgElement } from "./elements.js";

// Height of the chart and margins of its plot, in pixels.
const HEIGHT = 190;
const [LEFT, RIGHT, TOP, BOTTOM] = [58, 18, 10, 24];
const MAX_BAR_WIDTH = 40;
const PIXELS_PER_TIME_LABEL = 75;
// Distances between two time labels, in seconds.
const MINUTE = 60;
const HOUR = 3600;
const DAY = 86_400;
const TIME_STEPS = [
  ...[5, 15, 30],
  ...[1, 5, 10, 15, 30].map((n) => n * MINUTE),
  ...[1, 3, 6, 12].map((n) => n * HOUR),
  ...[1, 2, 5, 10].map((n) => n * DAY),
];

const isNumber = (value) => value !== null && value !== undefined;

/**
 * Create a chart. `series` are [{label, colour, type: "line", "bars" or "points"}].
 *
 * Returns {node, show(data, summary)}. `data` is [times, values of the first series, values of the second, ...]: the
 * times are in seconds, and a missing value is null.
 */
export function createTimeChart(label, series, { format = String, logarithmic = false, signal }) {
  const svg = svgElement("svg", { role: "img", "aria-label": label });
  const legendValues = series.map(() => element("b", {}));
  const legendTime = element("span", {});
  const legend = series.map(({ colour, label: name }, n) =>
    element("span", {}, element("i", { className: colour }), name, " ", legendValues[n]),
  );
  const node = element("div", { className: "chart" }, svg, element("p", { className: "legend" }, legendTime, legend));
  const scale = logarithmic ? Math.log10 : (number) => number;
  let data = null;
  let pointerX = null;

  function draw() {
    if (!data) return;
    const [times, ...values] = data;
    const width = Math.max(LEFT + RIGHT + 1, node.clientWidth || 300);
    const plotWidth = width - LEFT - RIGHT;
    const numbers = values.flat().filter(isNumber);
    const ticks = logarithmic ? decades(numbers) : roundTicks(Math.max(1, ...numbers));
    const [low, high] = [scale(ticks[0]), scale(ticks.at(-1))];
    // Bars are centred on their times, so the first and the last one need half a step of space.
    const padding = series.some(({ type }) => type === "bars") ? (times[1] - times[0]) / 2 : 0;
    const [first, last] = [times[0] - padding, times.at(-1) + padding];
    const x = (time) => LEFT + ((time - first) / (last - first || 1)) * plotWidth;
    const y = (number) => HEIGHT - BOTTOM - ((scale(number) - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);

    const valueLines = ticks.map((tick) => [
      svgElement("path", { class: "grid-line", d: `M${LEFT} ${y(tick)}H${width - RIGHT}` }),
      svgElement("text", { x: LEFT - 8, y: y(tick) + 4, "text-anchor": "end" }, format(tick)),
    ]);
    const labelled = timeTicks(first, last, Math.max(2, plotWidth / PIXELS_PER_TIME_LABEL));
    const timeLines = labelled.map((time) => {
      const position = { x: Math.min(x(time), width - 26), y: HEIGHT - 6, "text-anchor": "middle" };
      return [
        svgElement("path", { class: "grid-line", d: `M${x(time)} ${TOP}V${HEIGHT - BOTTOM}` }),
        svgElement("text", position, timeLabel(time, last - first)),
      ];
    });
    const shapes = series.map((style, n) => {
      const points = times.map((time, k) => [time, values[n][k]]).filter(([, number]) => isNumber(number));
      const positions = points.map(([time, number]) => [x(time), y(number)]);
      return drawSeries(style, positions, y(ticks[0]), plotWidth / times.length);
    });
    const selected = pointerX === null ? times.length - 1 : indexOfNearest(times.map(x), pointerX);
    const cursor = svgElement("path", { class: "cursor", d: `M${x(times[selected])} ${TOP}V${HEIGHT - BOTTOM}` });

    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    svg.replaceChildren(
      ...valueLines.flat(),
      ...timeLines.flat(),
      ...shapes.flat(),
      ...(pointerX === null ? [] : [cursor]),
    );
    legendTime.textContent = timeLabel(times[selected], last - first < 2 * DAY ? 0 : last - first);
    legendValues.forEach((valueNode, n) => {
      const value = values[n][selected];
      valueNode.textContent = isNumber(value) ? format(value) : "–";
    });
  }

  svg.addEventListener("pointermove", (event) => {
    pointerX = event.clientX - svg.getBoundingClientRect().left;
    draw();
  });
  svg.addEventListener("pointerleave", () => {
    pointerX = null;
    draw();
  });
  const observer = new ResizeObserver(draw);
  observer.observe(node);
  signal.addEventListener("abort", () => observer.disconnect());
  return {
    node,
    show(newData, summary) {
      if (summary) svg.setAttribute("aria-label", `${label}: ${summary}`);
      data = newData;
      draw();
    },
  };
}

function drawSeries({ colour, type }, points, floor, stepWidth) {
  if (type === "bars") {
    const width = Math.min(MAX_BAR_WIDTH, stepWidth * 0.8);
    const bars = points.filter(([, y]) => y < floor);
    const path = bars.map(([x, y]) => `M${x - width / 2} ${floor}V${y}h${width}V${floor}Z`).join("");
    return [svgElement("path", { class: `bars ${colour}`, d: path })];
  }
  if (!points.length) return [];
  const line = points.map((point) => point.map((n) => n.toFixed(1)).join(" ")).join("L");
  const nodes = [svgElement("path", { class: `line ${colour}`, d: `M${line}` })];
  if (type === "points")
    nodes.push(...points.map(([cx, cy]) => svgElement("circle", { class: `point ${colour}`, cx, cy, r: 3 })));
  else nodes.push(svgElement("path", { class: `fill ${colour}`, d: `M${points[0][0]} ${floor}L${line}V${floor}Z` }));
  return nodes;
}

function indexOfNearest(positions, target) {
  const distance = (n) => Math.abs(positions[n] - target);
  return positions.reduce((nearest, _, n) => (distance(n) < distance(nearest) ? n : nearest), 0);
}

/** Ticks from 0 to at least `maximum`, in three to five round steps. */
function roundTicks(maximum) {
  const power = 10 ** Math.floor(Math.log10(maximum / 3));
  const step = power * [1, 2, 5, 10].find((factor) => maximum / (power * factor) <= 5);
  return Array.from({ length: Math.ceil(maximum / step) + 1 }, (_, n) => Number((n * step).toPrecision(6)));
}

/** The powers of ten from the one below the smallest number to the one above the largest. */
function decades(numbers) {
  const low = Math.floor(Math.log10(Math.max(1, Math.min(...numbers, 1e9))));
  const high = Math.ceil(Math.log10(Math.max(10, ...numbers)));
  const [from, to] = numbers.length ? [Math.min(low, high - 1), high] : [0, 1];
  return Array.from({ length: to - from + 1 }, (_, n) => 10 ** (from + n));
}

/** At most `maxTicks` round times, such as full hours of the local time zone, between two times. */
function timeTicks(from, to, maxTicks) {
  const step = TIME_STEPS.find((seconds) => (to - from) / seconds <= maxTicks) ?? 30 * DAY;
  const offset = new Date(from * 1000).getTimezoneOffset() * MINUTE;
  const start = Math.ceil((from - offset) / step) * step + offset;
  return Array.from({ length: Math.max(0, Math.floor((to - start) / step) + 1) }, (_, n) => start + n * step);
}

/** Format a time for a chart of `span` seconds: the date, or the time, with seconds for a short span. */
function timeLabel(time, span) {
  const options =
    span > 2 * DAY
      ? { month: "short", day: "numeric" }
      : {
          hour: "2-digit",
          minute: "2-digit",
          hourCycle: "h23",
          ...(span < 10 * MINUTE ? { second: "2-digit" } : {}),
        };
  return new Date(time * 1000).toLocaleString([], options);
}
