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
export function plot(label, series, { height = 190, value = (number) => `${number}`, logarithmic = false, signal } = {}) {
  const node = element("div", { className: "plot", role: "img", "aria-label": label });
  let chart = null;
  const axis = () => ({ stroke: colour("soft"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" });
  const make = (data) => new globalThis.uPlot({
    width: node.clientWidth || 300, height,
    cursor: { y: false, points: { size: 7 } },
    legend: { live: true },
    scales: { y: logarithmic ? { distr: 3, range: decades } : { range: (_, low, high) => [0, Math.max(1, high * 1.1)] } },
    axes: [{ ...axis(), space: 70, size: 30, values: hours }, { ...axis(), size: 58, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : value(tick))) }],
    series: [{ value: (_, at) => (at ? new Date(at * 1000).toLocaleTimeString([], { hourCycle: "h23" }) : "–") }, ...series.map((one) => ({
      label: one.label, stroke: colour(one.colour), width: 2, spanGaps: true, points: { show: Boolean(one.points), size: 6, fill: colour(one.colour) },
      fill: one.fill ? colour(one.colour).replace(/^rgb\((.*)\)$/, "rgba($1, .18)") : undefined,
      paths: one.bars ? globalThis.uPlot.paths.bars({ size: [0.8, 40] }) : undefined,
      ...(one.bars ? { fill: colour(one.colour), width: 0 } : {}),
      value: (_, number) => (number === null || number === undefined ? "–" : value(number)),
    }))],
  }, data, node);
  const watching = new ResizeObserver(() => chart?.setSize({ width: node.clientWidth, height }));
  watching.observe(node);
  document.addEventListener("theme", () => {
    if (!chart) return;
    const { data } = chart;
    chart.destroy();
    chart = make(data);
  }, { signal });
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
      if (!(chart.cursor.left >= 0)) chart.setLegend({ idx: data[0].length - 1 }); // the newest, while nobody points at another
    },
  };
}

function hours(chart, ticks) {
  const [low, high] = [chart.scales.x.min, chart.scales.x.max];
  const days = high - low > 2 * 86_400;
  return ticks.map((at) => new Date(at * 1000).toLocaleString([], days ? { month: "short", day: "numeric" }
    : { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...(high - low < 600 ? { second: "2-digit" } : {}) }));
}

/** Whole powers of ten around what there is. */
function decades(_, low, high) {
  return [10 ** Math.floor(Math.log10(Math.max(1, low ?? 1))), 10 ** Math.ceil(Math.log10(Math.max(10, (high ?? 10) * 1.01)))];
}
