/** Plots that move: uPlot (vendored beside this file) with our colours, resized with the page and told in words as well. */

import { element } from "./elements.js";

const probe = element("span", { hidden: true });

/** What a colour of the style sheet is now: a canvas knows no variables. */
function colour(name) {
  if (!probe.isConnected) document.body.append(probe);
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

/**
 * `series`: [{label, colour, bars?, value?}]. Answers {node, show(data)}, whose data are uPlot's: times in seconds, then
 * one list of values a series.
 */
export function plot(label, series, { height = 190, value = (number) => `${number}`, signal } = {}) {
  const node = element("div", { className: "plot", role: "img", "aria-label": label });
  let chart = null;
  const axis = { stroke: colour("soft"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
  const make = (data) => new globalThis.uPlot({
    width: node.clientWidth || 300, height,
    cursor: { y: false, points: { size: 7 } },
    legend: { live: true },
    scales: { y: { range: (_, low, high) => [0, Math.max(1, high * 1.1)] } },
    axes: [{ ...axis, space: 70, size: 30, values: hours }, { ...axis, size: 58, values: (_, ticks) => ticks.map(value) }],
    series: [{ value: (_, at) => (at ? new Date(at * 1000).toLocaleTimeString() : "–") }, ...series.map((one) => ({
      label: one.label, stroke: colour(one.colour), width: 2, spanGaps: true, points: { show: Boolean(one.points), size: 6, fill: colour(one.colour) },
      fill: one.fill ? colour(one.colour).replace(/^rgb\((.*)\)$/, "rgba($1, .18)") : undefined,
      paths: one.bars ? globalThis.uPlot.paths.bars({ size: [0.8, 40] }) : undefined,
      ...(one.bars ? { fill: colour(one.colour), width: 0 } : {}),
      value: (_, number) => (number === null || number === undefined ? "–" : value(number)),
    }))],
  }, data, node);
  const watching = new ResizeObserver(() => chart?.setSize({ width: node.clientWidth, height }));
  watching.observe(node);
  signal.addEventListener("abort", () => {
    watching.disconnect();
    chart?.destroy();
  });
  return {
    node,
    show(data, words) {
      if (signal.aborted) return;
      if (words) node.setAttribute("aria-label", `${label}: ${words}`);
      if (chart) chart.setData(data);
      else chart = make(data);
    },
  };
}

function hours(chart, ticks) {
  const [low, high] = [chart.scales.x.min, chart.scales.x.max];
  const days = high - low > 2 * 86_400;
  return ticks.map((at) => new Date(at * 1000).toLocaleString([], days ? { month: "short", day: "numeric" }
    : { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...(high - low < 600 ? { second: "2-digit" } : {}) }));
}
