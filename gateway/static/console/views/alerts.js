/** Alerts: a map of the areas of sent alerts, and a form that sends a new one to the devices inside an area. */

import { get, post } from "../lib/api.js";
import { confirmAction } from "../lib/dialogs.js";
import { actionBar, button, card, controlOf, element, field, mutedText, pageHeading } from "../lib/elements.js";
import { formatQuantity, formatTime } from "../lib/format.js";
import { createMap, pointsOf } from "../lib/map.js";
import { notificationRow } from "../lib/notification_row.js";
import { debounce, latestOnly, poll } from "../lib/updates.js";

// Values of CAP 1.2, section 3.2.2.
const SEVERITIES = ["Extreme", "Severe", "Moderate", "Minor", "Unknown"];
const URGENCIES = ["Immediate", "Expected", "Future", "Past", "Unknown"];
const CERTAINTIES = ["Observed", "Likely", "Possible", "Unlikely", "Unknown"];
const STATUSES = [
  { value: "Actual", text: "Actual: all devices" },
  { value: "Test", text: "Test: opted-in devices" },
  { value: "Exercise", text: "Exercise: opted-in devices" },
];
const POLL_INTERVAL_MS = 3000;
const EMPTY_AREA = "Draw an area on the map or enter alert zones.";
// Two corners of the area that the map shows first.
const EUROPE = [
  [-10, 38],
  [28, 58],
];

export async function open(body, { signal, live, session }) {
  const settings = await get("/console/settings.json");
  const canSend = session.scopes.includes("send");
  const audienceSize = element("p", { className: "audience-size", "aria-live": "polite" }, EMPTY_AREA);
  const cornersField = field("Area corners: longitude,latitude", "corners", {
    type: "textarea",
    className: "code",
    rows: 3,
    placeholder: "16.1,48.1  16.6,48.1  16.6,48.4",
  });
  const cornersInput = controlOf(cornersField);
  const map = createMap({
    label:
      "Map. Arrow keys move it, plus and minus zoom, Enter adds a corner at the centre, Backspace removes the last.",
    tiles: settings.map_tiles,
    onArea: canSend ? onAreaDrawn : undefined,
  });
  const list = element("ol", { className: "notification-list" });
  const form = element(
    "form",
    { className: "form" },
    audienceSize,
    actionBar(
      button("Use visible area", () => map.setCorners(map.visibleCorners())),
      button("Undo corner", map.undo),
      button("Clear area", map.clear),
    ),
    cornersField,
    field("Alert zones, comma-separated", "zones", { placeholder: "TXC201, TXC202" }),
    field("Event", "event", { required: true, placeholder: "Severe Thunderstorm Warning", maxLength: 200 }),
    field("Headline", "headline", { placeholder: "Severe thunderstorms over Vienna until 18:00", maxLength: 500 }),
    field("Instruction", "instruction", { type: "textarea", placeholder: "Stay inside, away from windows." }),
    element(
      "div",
      { className: "field-row" },
      field("Severity", "severity", { options: SEVERITIES, value: "Severe" }),
      field("Urgency", "urgency", { options: URGENCIES }),
      field("Certainty", "certainty", { options: CERTAINTIES }),
    ),
    element(
      "div",
      { className: "field-row" },
      field("Expires at", "expires", { type: "datetime-local" }),
      field("Status", "status", { options: STATUSES }),
    ),
    element("p", { className: "problem", role: "alert" }),
    actionBar(element("button", { className: "primary" }, "Send alert")),
  );
  const drawingHint = "Click to add corners and drag them to move; drag the map to pan. ";
  body.replaceChildren(
    pageHeading("Alerts"),
    element(
      "div",
      { className: "columns" },
      element(
        "section",
        { className: "card sticky", "aria-label": "Map" },
        map.node,
        mutedText(`${canSend ? drawingHint : ""}Amber areas are those of sent alerts.`),
      ),
      canSend && card("New alert", form),
    ),
    card("Sent alerts", list),
  );
  const problem = form.querySelector(".problem");
  const inputOf = (name) => form.elements[name].value.trim();
  const zones = () =>
    inputOf("zones")
      .split(",")
      .map((zone) => zone.trim())
      .filter(Boolean);

  const countDevices = latestOnly(
    async () => {
      const audience = alertAudience();
      if (!audience) return EMPTY_AREA;
      return post("/v1/audiences/preview", { audience }).then(
        ({ devices, users }) => `${formatQuantity(devices, "device")}, ${formatQuantity(users, "known user")}`,
        (error) => error.message,
      );
    },
    (text) => {
      audienceSize.textContent = text;
    },
    signal,
  );
  const updateAudienceSize = debounce(countDevices);

  function alertAudience() {
    const conditions = [];
    if (map.area()) conditions.push({ within: map.area() });
    if (zones().length) conditions.push({ zone: zones() });
    return conditions.length > 1 ? { any: conditions } : conditions[0];
  }
  function onAreaDrawn(polygon) {
    const corners = polygon ? polygon.coordinates[0].slice(0, -1) : [];
    cornersInput.value = corners.map((point) => point.join(",")).join("  ");
    updateAudienceSize();
  }
  cornersInput.addEventListener("change", () => {
    const pairs = cornersInput.value.trim().split(/\s+/).filter(Boolean);
    const points = pairs.map((pair) => pair.split(",").map(Number));
    const invalid = points.findIndex((pair) => pair.length !== 2 || !pair.every(Number.isFinite));
    problem.textContent = invalid < 0 ? "" : `“${pairs[invalid]}” is not longitude,latitude.`;
    if (invalid >= 0) return;
    map.setCorners(points, { silent: true });
    map.fit(points);
    updateAudienceSize();
  });
  form.elements.zones.addEventListener("input", updateAudienceSize);

  function alertRequest() {
    const alert = {};
    for (const name of ["severity", "urgency", "certainty", "status"]) alert[name] = inputOf(name);
    for (const name of ["event", "headline", "instruction"]) if (inputOf(name)) alert[name] = inputOf(name);
    if (inputOf("expires")) alert.expires = new Date(inputOf("expires")).toISOString();
    if (map.area()) alert.area = map.area();
    if (zones().length) alert.zones = zones();
    return alert;
  }
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem.textContent = "";
    try {
      const audience = alertAudience();
      if (!audience) throw new Error("Draw an area with at least three corners, or enter alert zones.");
      const alert = alertRequest();
      const { devices } = await post("/v1/audiences/preview", { audience });
      const confirmed = await confirmAction({
        title: `Send “${alert.event}” to ${recipients(alert, devices)}?`,
        text: "The alert is sent immediately, before all other messages.",
        confirm: "Send",
        danger: true,
      });
      if (!confirmed) return;
      await post("/v1/alerts", alert);
      form.reset();
      map.clear();
      await refresh(true);
    } catch (error) {
      problem.textContent = error.message;
    }
  });

  // The notifications that the page shows, as JSON.
  let drawn = "";
  async function refresh(force) {
    const { items } = await get("/v1/notifications?kind=alert&limit=30");
    if (signal.aborted) return;
    live("live");
    const current = JSON.stringify(items);
    if (current === drawn && !force) return;
    drawn = current;
    const rows = items.map((item) => notificationRow(item, () => refresh(true), session));
    const emptyText = "No alerts sent yet. Draw an area and send the first.";
    list.replaceChildren(...(rows.length ? rows : [element("li", { className: "muted" }, emptyText)]));
    map.show(areasOf(items));
  }
  map.fit(EUROPE, 6);
  await refresh(true);
  const areas = areasOf(JSON.parse(drawn));
  if (areas.length && !map.area())
    map.fit(
      areas.flatMap(({ area }) => pointsOf(area)),
      6,
    );
  poll(refresh, POLL_INTERVAL_MS, signal);
}

function recipients({ status }, devices) {
  return status === "Actual" ? formatQuantity(devices, "device") : "devices that opted in to tests";
}

/** The polygons in the audiences of these notifications, with a title each; excluded areas are left out. */
function areasOf(notifications) {
  const polygons = (audience) => {
    if (!audience || typeof audience !== "object") return [];
    return Object.entries(audience).flatMap(([name, value]) => {
      if (name === "within") return [value];
      return name === "not" ? [] : polygons(value);
    });
  };
  return notifications.flatMap(({ audience, content, created_at: createdAt }) =>
    polygons(audience).map((area) => ({ area, title: `${content.title ?? ""}, ${formatTime(createdAt)}` })),
  );
}
