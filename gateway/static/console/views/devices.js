/** Devices: a searchable list, and a page for each with its details and its deliveries. */

import { call, get, post, queryString } from "../lib/api.js";
import { deliveryRow, deliveryTable } from "../lib/delivery_table.js";
import { confirmAction, notify, openDialog, runAction } from "../lib/dialogs.js";
import {
  badge,
  breadcrumbs,
  button,
  card,
  definitionList,
  element,
  field,
  formValues,
  link,
  mutedText,
  pageHeading,
  table,
  textOf,
} from "../lib/elements.js";
import { formatCount, formatDateTime, formatTime } from "../lib/format.js";
import { createMap } from "../lib/map.js";

const STATUSES = ["active", "gone", "quarantined"];
const PAGE_SIZE = 50;
// Zoom limit of a device's map, in world units of lib/map.js.
const MIN_MAP_WIDTH = 5;

const userLink = (userId) => userId && link(`devices?user_id=${encodeURIComponent(userId)}`, userId);

const COLUMNS = [
  ["Device", (device) => link(`devices/${device.id}`, `${device.id.slice(0, 16)}…`)],
  ["Status", (device) => badge(device.status)],
  ["User", (device) => userLink(device.user_id)],
  ["Browser", ({ client }) => [client.browser, client.platform].filter(Boolean).join(", ")],
  ["Push service", (device) => device.host],
  ["Topics", (device) => device.topics.join(", ")],
  ["Last seen", (device) => formatTime(device.last_seen_at)],
];

export async function open(body, context) {
  return context.id ? openDevice(body, context) : openList(body, context);
}

async function openList(body, { query, signal }) {
  const filters = element(
    "form",
    { className: "filters", role: "search" },
    field("User ID", "user_id", { value: query.user_id, placeholder: "u-42" }),
    field("Topic", "topic", { value: query.topic, placeholder: "weather" }),
    field("Status", "status", { options: [{ value: "", text: "All" }, ...STATUSES], value: query.status }),
    field("Device ID", "id", { placeholder: "dev_…" }),
    element("button", {}, "Search"),
  );
  const results = element("div", {});
  const more = button("Load more", null, { hidden: true });
  body.replaceChildren(pageHeading("Devices"), element("section", { className: "card" }, filters, results, more));
  let items = [];
  let cursor = null;

  async function search(from) {
    const { id, ...criteria } = formValues(filters);
    if (id) {
      location.hash = `#/devices/${encodeURIComponent(id)}`;
      return;
    }
    history.replaceState(null, "", `#/devices${queryString(criteria)}`);
    const page = await get(`/v1/devices${queryString({ ...criteria, limit: PAGE_SIZE, cursor: from })}`);
    if (signal.aborted) return;
    items = from ? [...items, ...page.items] : page.items;
    cursor = page.next_cursor;
    more.hidden = !cursor;
    const isFiltered = Object.values(criteria).some(Boolean);
    const emptyText = isFiltered
      ? "No devices match this search."
      : "No devices yet. They appear when browsers subscribe through the SDK.";
    results.replaceChildren(table(COLUMNS, items, emptyText));
  }
  const startSearch = () => runAction(null, () => search());
  filters.addEventListener("change", startSearch);
  filters.addEventListener("submit", (event) => {
    event.preventDefault();
    startSearch();
  });
  more.onclick = () => runAction(more, () => search(cursor));
  await search();
}

async function openDevice(body, { id, session, signal }) {
  const path = `/v1/devices/${encodeURIComponent(id)}`;
  const [device, log, settings] = await Promise.all([
    get(path),
    get(`/v1/deliveries${queryString({ device_id: id, limit: PAGE_SIZE })}`).catch(() => ({ items: [] })),
    get("/console/settings.json"),
  ]);
  const { location: position } = device;
  const map = position && createMap({ label: "Last known location", tiles: settings.map_tiles, small: true });
  const deleteDevice = async (event) => {
    const confirmed = await confirmAction({
      title: "Delete this device?",
      text: "It receives no more messages until its browser registers again.",
      confirm: "Delete device",
      danger: true,
    });
    if (!confirmed) return;
    await runAction(event.target, async () => {
      await call("DELETE", path);
      location.hash = "#/devices";
    });
  };
  const attributes = Object.entries(device.attributes).map(([name, value]) => [name, JSON.stringify(value)]);
  const deliveries = element("tbody", {}, log.items.map(deliveryRow));
  body.replaceChildren(
    breadcrumbs(link("devices", "Devices"), " / ", device.id),
    pageHeading(
      device.user_id ? `Device of ${device.user_id}` : "Anonymous device",
      badge(device.status),
      session.scopes.includes("send") && button("Send test…", () => openTestDialog(device)),
      session.scopes.includes("manage") && button("Delete", deleteDevice, { className: "danger" }),
    ),
    element(
      "div",
      { className: "columns" },
      card("Details", deviceDetails(device)),
      card("Attributes", attributes.length ? definitionList(attributes) : mutedText("No attributes.")),
      map && card(locationTitle(position), map.node),
    ),
    card(
      "Deliveries",
      log.items.length ? deliveryTable(deliveries) : mutedText("No deliveries to this device yet."),
      element("p", {}, link(`log?device_id=${device.id}`, "Follow in the delivery log")),
    ),
  );
  if (map && !signal.aborted) {
    const point = [position.lon, position.lat];
    map.show([], [point]);
    map.fit([point], MIN_MAP_WIDTH);
  }
}

function deviceDetails(device) {
  const { client } = device;
  return definitionList([
    ["User", userLink(device.user_id)],
    ["Push service", device.host],
    ["Browser", client.browser],
    ["Platform", client.platform],
    ["Language", client.locale],
    ["Time zone", client.timezone],
    ["App version", client.app_version],
    ["Topics", device.topics.join(", ")],
    ["Alert zones", device.zones.join(", ")],
    ["Opted out of", device.muted.join(", ")],
    ["Registered", formatDateTime(device.created_at)],
    ["Updated", formatDateTime(device.updated_at)],
    ["Last seen", formatDateTime(device.last_seen_at)],
  ]);
}

function locationTitle({ located_at: locatedAt, accuracy_m: accuracy }) {
  const precision = accuracy ? `, within ${formatCount(Math.round(accuracy))} m` : "";
  return `Location, ${formatTime(locatedAt)}${precision}`;
}

function openTestDialog(device) {
  const title = field("Title", "title", { value: "Test notification", required: true });
  const text = field("Text", "body", { value: "This device receives notifications." });
  const send = element("button", { className: "primary" }, "Send test");
  const submit = async (event) => {
    event.preventDefault();
    const content = { title: textOf(title), body: textOf(text) };
    const request = { content, audience: { device_id: device.id } };
    if (!(await runAction(send, () => post("/v1/notifications", request)))) return;
    notify("Test notification sent.");
    node.close();
  };
  const node = openDialog(
    "Send a test notification",
    element("form", { className: "form", onsubmit: submit }, title, text, send),
  );
}
