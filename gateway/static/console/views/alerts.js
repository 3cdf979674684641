/** Alerts on a map: where they hold, and a new one for whoever is inside of what is drawn. */

import { get, post } from "../lib/api.js";
import {
  button,
  card,
  count,
  element,
  field,
  heading,
  repeating,
  settledTyping,
  soft,
  sure,
  when,
} from "../lib/elements.js";
import { map, pointsOf } from "../lib/map.js";
import { line } from "./campaigns.js";

const SEVERITIES = ["Extreme", "Severe", "Moderate", "Minor", "Unknown"];
const URGENCIES = ["Immediate", "Expected", "Future", "Past", "Unknown"];
const CERTAINTIES = ["Observed", "Likely", "Possible", "Unlikely", "Unknown"];
const EVERY_MS = 3000;

export async function open(body, { signal, live, session }) {
  const settings = await get("/console/settings.json");
  const may = session.scopes.includes("send");
  const reach = element("p", { className: "reach", "aria-live": "polite" }, "Draw an area.");
  const area = field("Area: longitude, latitude of each corner", "corners", {
    type: "textarea",
    className: "code",
    rows: 3,
    placeholder: "16.1,48.1  16.6,48.1  16.6,48.4",
  });
  const text = area.lastChild;
  const chart = map({
    label:
      "Map. Arrow keys move, plus and minus zoom, Enter sets a corner in the middle, Backspace takes the last away.",
    tiles: settings.map_tiles,
    onArea: may ? drawnArea : undefined,
  });
  const list = element("ol", { className: "notifications" });
  const form = element(
    "form",
    { className: "form" },
    reach,
    element(
      "div",
      { className: "orders" },
      button("Take what is seen", () => chart.set(chart.frame())),
      button("Undo", chart.undo),
      button("Clear", chart.clear),
    ),
    area,
    field("Zones beside it, comma separated", "zones", { placeholder: "TXC201, TXC202" }),
    field("Event", "event", { required: true, placeholder: "Severe Thunderstorm Warning", maxLength: 200 }),
    field("Headline", "headline", { placeholder: "Severe thunderstorms over Vienna until 18:00", maxLength: 500 }),
    field("What to do", "instruction", { type: "textarea", placeholder: "Stay inside, away from windows." }),
    element(
      "div",
      { className: "pair" },
      field("Severity", "severity", { options: SEVERITIES, value: "Severe" }),
      field("Urgency", "urgency", { options: URGENCIES }),
      field("Certainty", "certainty", { options: CERTAINTIES }),
    ),
    element(
      "div",
      { className: "pair" },
      field("Holds until", "expires", { type: "datetime-local" }),
      field("Status", "status", {
        options: [
          { value: "Actual", text: "Actual: everybody there" },
          { value: "Test", text: "Test: who opted in" },
          { value: "Exercise", text: "Exercise: who opted in" },
        ],
      }),
    ),
    element("p", { className: "problem", role: "alert" }),
    element("div", { className: "orders" }, element("button", { className: "primary" }, "Send the alert")),
  );
  body.replaceChildren(
    heading("Alerts"),
    element(
      "div",
      { className: "columns" },
      element(
        "section",
        { className: "card sticky", "aria-label": "Map" },
        chart.node,
        soft(
          may
            ? "Click to set corners, drag them to move; drag the map to pan. Amber is what alerts before this one were for."
            : "Amber is what alerts were for.",
        ),
      ),
      may && card("New alert", form),
    ),
    card("Told", list),
  );
  const problem = form.querySelector(".problem");
  const said = (name) => form.elements[name].value.trim();

  let asked = 0;
  const counted = settledTyping(async () => {
    const mine = (asked += 1);
    const where = leaves();
    let words = "Draw an area, or name zones.";
    if (where) {
      words = await post("/v1/audiences/preview", { audience: where }).then(
        ({ devices, users }) =>
          `${count(devices)} ${devices === 1 ? "device" : "devices"} inside, of ${count(users)} known users`,
        (error) => error.message,
      );
    }
    if (mine === asked && !signal.aborted) reach.textContent = words;
  });
  function leaves() {
    const where = [];
    if (chart.area()) where.push({ within: chart.area() });
    const zones = said("zones")
      .split(",")
      .map((zone) => zone.trim())
      .filter(Boolean);
    if (zones.length) where.push({ zone: zones });
    return where.length > 1 ? { any: where } : where[0];
  }
  function drawnArea(polygon) {
    text.value = polygon
      ? polygon.coordinates[0]
          .slice(0, -1)
          .map((point) => point.join(","))
          .join("  ")
      : "";
    counted();
  }
  text.addEventListener("change", () => {
    const said = text.value.trim().split(/\s+/).filter(Boolean);
    const points = said.map((pair) => pair.split(",").map(Number));
    const wrong = points.findIndex((pair) => pair.length !== 2 || !pair.every(Number.isFinite));
    problem.textContent = wrong < 0 ? "" : `“${said[wrong]}” is not longitude,latitude.`;
    if (wrong >= 0) return;
    chart.set(points, true);
    chart.fit(points);
    counted();
  });
  form.elements.zones.addEventListener("input", counted);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem.textContent = "";
    try {
      const where = leaves();
      if (!where) throw new Error("Draw an area of at least three corners, or name zones.");
      const alert = {
        severity: said("severity"),
        urgency: said("urgency"),
        certainty: said("certainty"),
        status: said("status"),
      };
      for (const name of ["event", "headline", "instruction"]) if (said(name)) alert[name] = said(name);
      if (said("expires")) alert.expires = new Date(said("expires")).toISOString();
      if (chart.area()) alert.area = chart.area();
      const zones = said("zones")
        .split(",")
        .map((zone) => zone.trim())
        .filter(Boolean);
      if (zones.length) alert.zones = zones;
      const { devices } = await post("/v1/audiences/preview", { audience: where });
      if (
        !(await sure(
          `“${alert.event}” is told to ${alert.status === "Actual" ? `${count(devices)} ${devices === 1 ? "device" : "devices"}` : "those who opted in to tests"} now, before everything else.`,
          "Send it",
        ))
      )
        return;
      await post("/v1/alerts", alert);
      form.reset();
      chart.clear();
      await refresh(true);
    } catch (error) {
      problem.textContent = error.message;
    }
  });

  let drawn = "";
  async function refresh(anew) {
    const { items } = await get("/v1/notifications?kind=alert&limit=30");
    if (signal.aborted) return;
    live("live");
    const now = JSON.stringify(items);
    if (now === drawn && !anew) return;
    drawn = now;
    list.replaceChildren(
      ...(items.length
        ? items.map((item) => line(item, () => refresh(true), session))
        : [element("li", { className: "soft" }, "No alert has been told yet.")]),
    );
    chart.show(areasOf(items));
  }
  chart.fit(
    [
      [-10, 38],
      [28, 58],
    ],
    6,
  );
  await refresh(true);
  const areas = areasOf(JSON.parse(drawn));
  if (areas.length && !chart.area())
    chart.fit(
      areas.flatMap(({ area: one }) => pointsOf(one)),
      6,
    );
  repeating(refresh, EVERY_MS, signal);
}

/** Polygons anywhere in the audiences of these. */
function areasOf(items) {
  const found = (audience) =>
    audience && typeof audience === "object"
      ? Object.entries(audience).flatMap(([name, value]) =>
          name === "within" ? [value] : name === "not" ? [] : found(value),
        )
      : [];
  return items.flatMap((item) =>
    found(item.audience).map((area) => ({ area, title: `${item.content.title ?? ""}, ${when(item.created_at)}` })),
  );
}
