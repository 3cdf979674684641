/**
 * A map that needs nothing but itself: outlines of the land and a graticule in Web Mercator. Where the operator has set
 * a tile server, its pictures lie on top of the land. Units are those of one world of 256 by 256.
 */

import { CITIES } from "./city_labels.js";
import { button, drawn, element } from "./elements.js";
import { LAND } from "./land_outlines.js";

const WORLD = 256;
const [WIDEST, NARROWEST] = [WORLD, 0.004];
const MOST_LATITUDE = 85;
const STEPS = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30];

const project = ([lon, lat]) => {
  const sine = Math.sin((Math.max(-MOST_LATITUDE, Math.min(MOST_LATITUDE, lat)) * Math.PI) / 180);
  return [((lon + 180) / 360) * WORLD, (0.5 - Math.log((1 + sine) / (1 - sine)) / (4 * Math.PI)) * WORLD];
};
const rounded = (degrees) => Math.round(degrees * 1e5) / 1e5;
const locate = ([x, y]) => [
  rounded((x / WORLD) * 360 - 180),
  rounded((Math.atan(Math.sinh(Math.PI * (1 - (2 * y) / WORLD))) * 180) / Math.PI),
];

const path = (rings) =>
  rings
    .map(
      (ring) =>
        `M${ring
          .map((point) =>
            project(point)
              .map((n) => n.toFixed(4))
              .join(" "),
          )
          .join("L")}Z`,
    )
    .join("");
const land = path(LAND.split("|").map((ring) => ring.split(" ").map((pair) => pair.split(",").map(Number))));
const rings = (area) => (area.type === "MultiPolygon" ? area.coordinates.flat() : area.coordinates);

/** `onArea(polygon or null)` makes the map one that is drawn on. Answers {node, show, fit, area}. */
export function map({ label, tiles, onArea, small = false }) {
  const net = drawn("g");
  const pictures = drawn("g");
  const told = drawn("g");
  const places = drawn("g");
  const outline = drawn("path", { class: "area", d: "" });
  const handles = drawn("g");
  const svg = drawn(
    "svg",
    { tabindex: "0", role: "application", "aria-label": label },
    drawn("path", { class: "land", d: land }),
    pictures,
    net,
    told,
    places,
    outline,
    handles,
  );
  const node = element(
    "div",
    { className: small ? "map small" : "map" },
    svg,
    element(
      "div",
      { className: "tools" },
      button("+", () => zoom(0.5), { "aria-label": "Zoom in" }),
      button("−", () => zoom(2), { "aria-label": "Zoom out" }),
    ),
  );
  const view = { x: 0, y: 20, w: WORLD };
  let corners = [];
  let spots = [];

  const size = () => [svg.clientWidth || 600, svg.clientHeight || 400];
  const height = () => (view.w * size()[1]) / size()[0];
  const unit = () => view.w / size()[0];

  function draw() {
    view.w = Math.max(NARROWEST, Math.min(WIDEST * Math.max(1, size()[0] / size()[1]), view.w));
    view.y = Math.max(-height() / 3, Math.min(WORLD - (2 * height()) / 3, view.y));
    view.x = Math.max(-view.w / 2, Math.min(WORLD - view.w / 2, view.x));
    svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.w} ${height()}`);
    net.replaceChildren(...graticule(), ...cities());
    outline.setAttribute("d", corners.length > 1 ? path([corners]) : "");
    handles.replaceChildren(...corners.map((corner, n) => dot(corner, "corner", 7, `corner ${n + 1}`, n)));
    places.replaceChildren(...spots.map((spot) => dot(spot, "place", 6, "a device")));
    if (tiles) tile();
  }
  function dot(at, name, pixels, said, n) {
    const [cx, cy] = project(at);
    const made = drawn(
      "circle",
      { class: name, cx, cy, r: pixels * unit(), "stroke-width": 2 * unit() },
      drawn("title", {}, said),
    );
    if (n !== undefined) made.dataset.corner = n;
    return made;
  }
  /** About six lines across, whatever the scale, with their degrees. */
  function graticule() {
    const [[west, north], [east, south]] = [locate([view.x, view.y]), locate([view.x + view.w, view.y + height()])];
    const step = STEPS.find((degrees) => (east - west) / degrees <= 7) ?? 60;
    const lines = [];
    const from = (edge) => Math.ceil(edge / step) * step;
    for (let lon = from(Math.max(-180, west)); lon <= Math.min(180, east); lon += step) {
      const [x] = project([lon, 0]);
      lines.push(
        drawn("path", { class: "net", d: `M${x} ${view.y}v${height()}` }),
        word(degrees(lon, "E", "W"), x + 4 * unit(), view.y + height() - 6 * unit()),
      );
    }
    for (let lat = from(Math.max(-MOST_LATITUDE, south)); lat <= Math.min(MOST_LATITUDE, north); lat += step) {
      const [, y] = project([0, lat]);
      lines.push(
        drawn("path", { class: "net", d: `M${view.x} ${y}h${view.w}` }),
        word(degrees(lat, "N", "S"), view.x + 4 * unit(), y - 3 * unit()),
      );
    }
    return lines;
  }
  function cities() {
    if (tiles) return [];
    const shown = CITIES.slice(0, view.w > 120 ? 14 : view.w > 40 ? 52 : CITIES.length);
    return shown.flatMap(([name, lon, lat]) => {
      const [cx, cy] = project([lon, lat]);
      return [
        drawn("circle", { class: "city", cx, cy, r: 2.5 * unit() }),
        word(name, cx + 5 * unit(), cy + 4 * unit()),
      ];
    });
  }
  const word = (said, x, y) => drawn("text", { x, y, "font-size": 11 * unit() }, said);
  function tile() {
    const level = Math.max(0, Math.min(18, Math.round(Math.log2((size()[0] * WORLD) / view.w / 256))));
    const side = WORLD / 2 ** level;
    const shown = [];
    for (let x = Math.max(0, Math.floor(view.x / side)); x * side < view.x + view.w && x < 2 ** level; x += 1) {
      for (let y = Math.max(0, Math.floor(view.y / side)); y * side < view.y + height() && y < 2 ** level; y += 1) {
        const href = tiles.replace("{z}", level).replace("{x}", x).replace("{y}", y);
        shown.push(drawn("image", { href, x: x * side, y: y * side, width: side, height: side }));
      }
    }
    pictures.replaceChildren(...shown);
  }
  function zoom(by, [px, py] = size().map((n) => n / 2)) {
    const [x, y] = [view.x + px * unit(), view.y + py * unit()];
    view.w = Math.max(NARROWEST, Math.min(WIDEST * 2, view.w * by));
    Object.assign(view, { x: x - px * unit(), y: y - py * unit() });
    draw();
  }
  const at = (event) => {
    const box = svg.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const world = ([px, py]) => locate([view.x + px * unit(), view.y + py * unit()]);
  function area() {
    return corners.length < 3 ? null : { type: "Polygon", coordinates: [[...corners, corners[0]]] };
  }
  function set(points, silently) {
    corners = points;
    draw();
    if (!silently) onArea?.(area());
  }

  svg.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      zoom(event.deltaY > 0 ? 1.25 : 0.8, at(event));
    },
    { passive: false },
  );
  svg.addEventListener("pointerdown", (event) => {
    const corner = event.target.dataset?.corner;
    const begin = at(event);
    let last = begin;
    let moved = false;
    svg.setPointerCapture(event.pointerId);
    const held = new AbortController();
    const during = (name, work) =>
      svg.addEventListener(
        name,
        (now) => {
          if (now.pointerId === event.pointerId) work(now);
        },
        { signal: held.signal },
      );
    const end = () => {
      held.abort();
      if (corner !== undefined) onArea?.(area());
    };
    during("pointermove", (now) => {
      const here = at(now);
      moved ||= Math.hypot(here[0] - begin[0], here[1] - begin[1]) > 4;
      if (corner !== undefined) set(corners.with(Number(corner), world(here)), true);
      else if (moved) {
        Object.assign(view, { x: view.x - (here[0] - last[0]) * unit(), y: view.y - (here[1] - last[1]) * unit() });
        draw();
      }
      last = here;
    });
    during("pointerup", () => {
      end();
      if (onArea && corner === undefined && !moved) set([...corners, world(begin)]);
    });
    during("pointercancel", end);
  });
  svg.addEventListener("keydown", (event) => {
    const step = view.w / 8;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (moves[event.key]) {
      view.x += moves[event.key][0];
      view.y += moves[event.key][1];
      draw();
    } else if (event.key === "+" || event.key === "=") zoom(0.5);
    else if (event.key === "-") zoom(2);
    else if (event.key === "Enter" && onArea) set([...corners, world(size().map((n) => n / 2))]);
    else if (event.key === "Backspace" && onArea) set(corners.slice(0, -1));
    else return;
    event.preventDefault();
  });
  new ResizeObserver(draw).observe(svg);

  return {
    node,
    area,
    set,
    clear: () => set([]),
    undo: () => set(corners.slice(0, -1)),
    /** The four corners of what is seen, a little inside. */
    frame() {
      const [w, h] = size();
      return [
        [0.1, 0.1],
        [0.9, 0.1],
        [0.9, 0.9],
        [0.1, 0.9],
      ].map(([x, y]) => world([x * w, y * h]));
    },
    show(areas, points = []) {
      told.replaceChildren(
        ...areas.map(({ area: one, title }) =>
          drawn("path", { class: "told", d: path(rings(one)) }, drawn("title", {}, title)),
        ),
      );
      spots = points;
      draw();
    },
    /** So near that all of these points are seen. */
    fit(points, least = 0.02) {
      if (!points.length) return draw();
      const seen = points.map(project);
      const [xs, ys] = [0, 1].map((n) => seen.map((point) => point[n]));
      const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
      const [w, h] = size();
      view.w = Math.max(least, (right - left) * 2, ((bottom - top) * 2 * w) / h);
      Object.assign(view, { x: (left + right - view.w) / 2, y: (top + bottom - height()) / 2 });
      return draw();
    },
  };
}

export const pointsOf = (area) => rings(area).flat();

function degrees(number, positive, negative) {
  return `${Math.abs(Math.round(number * 1000) / 1000)}° ${number < 0 ? negative : number > 0 ? positive : ""}`;
}
