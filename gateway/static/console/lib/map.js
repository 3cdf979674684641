/**
 * A map without external services: land outlines, city labels and a graticule in Web Mercator.
 *
 * If the operator has configured a tile server, its tiles cover the land outlines. In world units the whole world is a
 * square of 256 by 256, as in the single tile of level 0.
 */

import { CITIES } from "./city_labels.js";
import { button, element, svgElement } from "./elements.js";
import { LAND_RINGS } from "./land_outlines.js";

const WORLD = 256;
// Widths of the view, in world units.
const MAX_WIDTH = WORLD;
const MIN_WIDTH = 0.004;
const MAX_LATITUDE = 85;
const MAX_TILE_LEVEL = 18;
// Distances between two lines of the graticule, in degrees.
const GRATICULE_STEPS = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30];
// A pointer that moves less than this, in pixels, is a click.
const MIN_DRAG = 4;

function project([lon, lat]) {
  const sine = Math.sin((Math.max(-MAX_LATITUDE, Math.min(MAX_LATITUDE, lat)) * Math.PI) / 180);
  return [((lon + 180) / 360) * WORLD, (0.5 - Math.log((1 + sine) / (1 - sine)) / (4 * Math.PI)) * WORLD];
}

const roundDegrees = (degrees) => Math.round(degrees * 1e5) / 1e5;

function unproject([x, y]) {
  const lat = (Math.atan(Math.sinh(Math.PI * (1 - (2 * y) / WORLD))) * 180) / Math.PI;
  return [roundDegrees((x / WORLD) * 360 - 180), roundDegrees(lat)];
}

function svgPath(rings) {
  const vertex = (point) =>
    project(point)
      .map((n) => n.toFixed(4))
      .join(" ");
  return rings.map((ring) => `M${ring.map(vertex).join("L")}Z`).join("");
}

const ringsOf = (area) => (area.type === "MultiPolygon" ? area.coordinates.flat() : area.coordinates);

/** All vertices of a GeoJSON Polygon or MultiPolygon. */
export const pointsOf = (area) => ringsOf(area).flat();

const LAND_PATH = svgPath(LAND_RINGS);

/**
 * Create a map. With `onArea` the user can draw a polygon on it; the callback gets the polygon, or null while it has
 * fewer than three corners. Returns {node, area, setCorners, clear, undo, visibleCorners, show, fit}.
 */
export function createMap({ label, tiles, onArea, small = false }) {
  const grid = svgElement("g");
  const tileLayer = svgElement("g");
  const areaLayer = svgElement("g");
  const deviceLayer = svgElement("g");
  const outline = svgElement("path", { class: "area", d: "" });
  const handles = svgElement("g");
  const svg = svgElement(
    "svg",
    { tabindex: "0", role: "application", "aria-label": label },
    svgElement("path", { class: "land", d: LAND_PATH }),
    tileLayer,
    grid,
    areaLayer,
    deviceLayer,
    outline,
    handles,
  );
  const node = element(
    "div",
    { className: small ? "map small" : "map" },
    svg,
    element(
      "div",
      { className: "map-controls" },
      button("+", () => zoom(0.5), { "aria-label": "Zoom in" }),
      button("−", () => zoom(2), { "aria-label": "Zoom out" }),
    ),
  );
  // The visible rectangle, in world units: its top left corner and its width. The height follows from the element.
  const view = { x: 0, y: 20, w: WORLD };
  let corners = [];
  let devices = [];

  const size = () => [svg.clientWidth || 600, svg.clientHeight || 400];
  const viewHeight = () => (view.w * size()[1]) / size()[0];
  const unitsPerPixel = () => view.w / size()[0];
  const toLocation = ([px, py]) => unproject([view.x + px * unitsPerPixel(), view.y + py * unitsPerPixel()]);

  /** Draw the view, after limiting its zoom and keeping most of it on the world. */
  function draw() {
    view.w = Math.max(MIN_WIDTH, Math.min(MAX_WIDTH * Math.max(1, size()[0] / size()[1]), view.w));
    view.y = Math.max(-viewHeight() / 3, Math.min(WORLD - (2 * viewHeight()) / 3, view.y));
    view.x = Math.max(-view.w / 2, Math.min(WORLD - view.w / 2, view.x));
    svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.w} ${viewHeight()}`);
    grid.replaceChildren(...graticule(), ...cityLabels());
    outline.setAttribute("d", corners.length > 1 ? svgPath([corners]) : "");
    handles.replaceChildren(...corners.map((corner, n) => marker(corner, "corner", 7, `corner ${n + 1}`, n)));
    deviceLayer.replaceChildren(...devices.map((device) => marker(device, "device", 6, "device")));
    if (tiles) drawTiles();
  }

  function marker(location, className, pixels, title, cornerIndex) {
    const [cx, cy] = project(location);
    const radius = { r: pixels * unitsPerPixel(), "stroke-width": 2 * unitsPerPixel() };
    const circle = svgElement("circle", { class: className, cx, cy, ...radius }, svgElement("title", {}, title));
    if (cornerIndex !== undefined) circle.dataset.corner = cornerIndex;
    return circle;
  }

  const text = (content, x, y) => svgElement("text", { x, y, "font-size": 11 * unitsPerPixel() }, content);

  /** At most seven lines in each direction at any scale, labelled with their degrees. */
  function graticule() {
    const [west, north] = unproject([view.x, view.y]);
    const [east, south] = unproject([view.x + view.w, view.y + viewHeight()]);
    const step = GRATICULE_STEPS.find((degrees) => (east - west) / degrees <= 7) ?? 60;
    const pixel = unitsPerPixel();
    const lines = [];
    const firstLine = (edge) => Math.ceil(edge / step) * step;
    for (let lon = firstLine(Math.max(-180, west)); lon <= Math.min(180, east); lon += step) {
      const [x] = project([lon, 0]);
      lines.push(
        svgElement("path", { class: "grid-line", d: `M${x} ${view.y}v${viewHeight()}` }),
        text(degreeLabel(lon, "E", "W"), x + 4 * pixel, view.y + viewHeight() - 6 * pixel),
      );
    }
    for (let lat = firstLine(Math.max(-MAX_LATITUDE, south)); lat <= Math.min(MAX_LATITUDE, north); lat += step) {
      const [, y] = project([0, lat]);
      lines.push(
        svgElement("path", { class: "grid-line", d: `M${view.x} ${y}h${view.w}` }),
        text(degreeLabel(lat, "N", "S"), view.x + 4 * pixel, y - 3 * pixel),
      );
    }
    return lines;
  }

  function cityLabels() {
    if (tiles) return [];
    // The more of the world is visible, the fewer cities have a label.
    const visible = CITIES.slice(0, view.w > 120 ? 14 : view.w > 40 ? 52 : CITIES.length);
    const pixel = unitsPerPixel();
    return visible.flatMap(([name, lon, lat]) => {
      const [cx, cy] = project([lon, lat]);
      return [
        svgElement("circle", { class: "city", cx, cy, r: 2.5 * pixel }),
        text(name, cx + 5 * pixel, cy + 4 * pixel),
      ];
    });
  }

  /** Draw the tiles of the level whose resolution is closest to that of the screen. */
  function drawTiles() {
    const level = Math.max(0, Math.min(MAX_TILE_LEVEL, Math.round(Math.log2((size()[0] * WORLD) / view.w / 256))));
    const tilesPerSide = 2 ** level;
    const side = WORLD / tilesPerSide;
    const [right, bottom] = [view.x + view.w, view.y + viewHeight()];
    const images = [];
    for (let x = Math.max(0, Math.floor(view.x / side)); x * side < right && x < tilesPerSide; x += 1) {
      for (let y = Math.max(0, Math.floor(view.y / side)); y * side < bottom && y < tilesPerSide; y += 1) {
        const href = tiles.replace("{z}", level).replace("{x}", x).replace("{y}", y);
        images.push(svgElement("image", { href, x: x * side, y: y * side, width: side, height: side }));
      }
    }
    tileLayer.replaceChildren(...images);
  }

  /** Multiply the width of the view; the point at the pixel position, by default the centre, stays where it is. */
  function zoom(factor, [px, py] = size().map((n) => n / 2)) {
    const [x, y] = [view.x + px * unitsPerPixel(), view.y + py * unitsPerPixel()];
    view.w = Math.max(MIN_WIDTH, Math.min(MAX_WIDTH * 2, view.w * factor));
    Object.assign(view, { x: x - px * unitsPerPixel(), y: y - py * unitsPerPixel() });
    draw();
  }

  function area() {
    return corners.length < 3 ? null : { type: "Polygon", coordinates: [[...corners, corners[0]]] };
  }

  function setCorners(points, { silent = false } = {}) {
    corners = points;
    draw();
    if (!silent) onArea?.(area());
  }

  const undo = () => setCorners(corners.slice(0, -1));

  const positionOf = (event) => {
    const box = svg.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  svg.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      zoom(event.deltaY > 0 ? 1.25 : 0.8, positionOf(event));
    },
    { passive: false },
  );
  svg.addEventListener("pointerdown", (event) => {
    const corner = event.target.dataset?.corner;
    const start = positionOf(event);
    let last = start;
    let moved = false;
    svg.setPointerCapture(event.pointerId);
    const drag = new AbortController();
    const onPointerEvent = (name, handle) => {
      const handleSamePointer = (current) => {
        if (current.pointerId === event.pointerId) handle(current);
      };
      svg.addEventListener(name, handleSamePointer, { signal: drag.signal });
    };
    const end = () => {
      drag.abort();
      if (corner !== undefined) onArea?.(area());
    };
    onPointerEvent("pointermove", (current) => {
      const position = positionOf(current);
      moved ||= Math.hypot(position[0] - start[0], position[1] - start[1]) > MIN_DRAG;
      if (corner !== undefined) setCorners(corners.with(Number(corner), toLocation(position)), { silent: true });
      else if (moved) {
        view.x -= (position[0] - last[0]) * unitsPerPixel();
        view.y -= (position[1] - last[1]) * unitsPerPixel();
        draw();
      }
      last = position;
    });
    onPointerEvent("pointerup", () => {
      end();
      if (onArea && corner === undefined && !moved) setCorners([...corners, toLocation(start)]);
    });
    onPointerEvent("pointercancel", end);
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
    else if (event.key === "Enter" && onArea) setCorners([...corners, toLocation(size().map((n) => n / 2))]);
    else if (event.key === "Backspace" && onArea) undo();
    else return;
    event.preventDefault();
  });
  new ResizeObserver(draw).observe(svg);

  return {
    node,
    area,
    setCorners,
    clear: () => setCorners([]),
    undo,
    /** The corners of a rectangle a little smaller than the visible area. */
    visibleCorners() {
      const [w, h] = size();
      const rectangle = [
        [0.1, 0.1],
        [0.9, 0.1],
        [0.9, 0.9],
        [0.1, 0.9],
      ];
      return rectangle.map(([x, y]) => toLocation([x * w, y * h]));
    },
    /** Draw the areas ({area, title}) of sent alerts, and the locations of devices. */
    show(areas, locations = []) {
      const paths = areas.map(({ area: shape, title }) =>
        svgElement("path", { class: "sent-area", d: svgPath(ringsOf(shape)) }, svgElement("title", {}, title)),
      );
      areaLayer.replaceChildren(...paths);
      devices = locations;
      draw();
    },
    /** Move and zoom so that all points are visible; `minWidth` limits the zoom, in world units. */
    fit(points, minWidth = 0.02) {
      if (!points.length) return draw();
      const [xs, ys] = [0, 1].map((axis) => points.map(project).map((point) => point[axis]));
      const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
      const [w, h] = size();
      view.w = Math.max(minWidth, (right - left) * 2, ((bottom - top) * 2 * w) / h);
      Object.assign(view, { x: (left + right - view.w) / 2, y: (top + bottom - viewHeight()) / 2 });
      return draw();
    },
  };
}

function degreeLabel(degrees, positive, negative) {
  const hemisphere = degrees < 0 ? negative : degrees > 0 ? positive : "";
  return `${Math.abs(Math.round(degrees * 1000) / 1000)}° ${hemisphere}`;
}
