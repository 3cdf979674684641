/** Devices: found by user, topic or status; one of them with all that is known of it and what was sent to it. */

import { call, get, post, query } from "../lib/api.js";
import {
  badge,
  button,
  card,
  count,
  dialog,
  doing,
  element,
  exactly,
  facts,
  field,
  heading,
  link,
  soft,
  sure,
  table,
  tell,
  when,
} from "../lib/elements.js";
import { map } from "../lib/map.js";
import { row } from "./delivery_log.js";

const STATUSES = ["active", "gone", "quarantined"];

export async function open(body, context) {
  return context.id ? one(body, context) : all(body, context);
}

async function all(body, { query: asked, signal }) {
  const filters = element(
    "form",
    { className: "filters", role: "search" },
    field("User", "user_id", { value: asked.user_id, placeholder: "u-42" }),
    field("Topic", "topic", { value: asked.topic, placeholder: "weather" }),
    field("Status", "status", { options: [{ value: "", text: "all" }, ...STATUSES], value: asked.status }),
    field("Or its id", "id", { placeholder: "dev_…" }),
    element("button", {}, "Search"),
  );
  const found = element("div", {});
  const more = button("More", null, { hidden: true });
  body.replaceChildren(heading("Devices"), element("section", { className: "card" }, filters, found, more));
  let items = [];
  let cursor = null;

  async function search(next) {
    const { id, ...said } = Object.fromEntries([...new FormData(filters)].map(([name, value]) => [name, value.trim()]));
    if (id) {
      location.hash = `#/devices/${encodeURIComponent(id)}`;
      return;
    }
    history.replaceState(null, "", `#/devices${query(said)}`);
    const page = await get(`/v1/devices${query({ ...said, limit: 50, cursor: next })}`);
    if (signal.aborted) return;
    items = next ? [...items, ...page.items] : page.items;
    cursor = page.next_cursor;
    more.hidden = !cursor;
    found.replaceChildren(
      table(
        [
          ["Device", (device) => link(`devices/${device.id}`, `${device.id.slice(0, 16)}…`)],
          ["Status", (device) => badge(device.status)],
          ["User", ({ user_id: user }) => user && link(`devices?user_id=${encodeURIComponent(user)}`, user)],
          ["Browser", ({ client }) => [client.browser, client.platform].filter(Boolean).join(", ")],
          ["Push service", (device) => device.host],
          ["Topics", (device) => device.topics.join(", ")],
          ["Last seen", (device) => when(device.last_seen_at)],
        ],
        items,
        "No device matches.",
      ),
    );
  }
  const again = () => doing(null, () => search());
  filters.addEventListener("change", again);
  filters.addEventListener("submit", (event) => {
    event.preventDefault();
    again();
  });
  more.onclick = () => doing(more, () => search(cursor));
  await search();
}

async function one(body, { id, session, signal }) {
  const path = `/v1/devices/${encodeURIComponent(id)}`;
  const [device, log, settings] = await Promise.all([
    get(path),
    get(`/v1/deliveries${query({ device_id: id, limit: 50 })}`).catch(() => ({ items: [] })),
    get("/console/settings.json"),
  ]);
  const { client, location: place } = device;
  const may = (scope) => session.scopes.includes(scope);
  const where = place && map({ label: "Where the device last was", tiles: settings.map_tiles, small: true });
  body.replaceChildren(
    element("p", { className: "crumbs" }, link("devices", "Devices"), " / ", device.id),
    heading(
      device.user_id ? `A device of ${device.user_id}` : "A device of nobody known",
      badge(device.status),
      may("send") && button("Send a test …", () => test(device)),
      may("manage") &&
        button(
          "Remove",
          async (event) => {
            if (!(await sure("It will get nothing any more, until its browser registers again.", "Remove it"))) return;
            await doing(event.target, async () => {
              await call("DELETE", path);
              location.hash = "#/devices";
            });
          },
          { className: "danger" },
        ),
    ),
    element(
      "div",
      { className: "columns" },
      card(
        "What is known",
        facts([
          ["User", device.user_id && link(`devices?user_id=${encodeURIComponent(device.user_id)}`, device.user_id)],
          ["Push service", device.host],
          ["Browser", client.browser],
          ["Platform", client.platform],
          ["Language", client.locale],
          ["Time zone", client.timezone],
          ["App version", client.app_version],
          ["Topics", device.topics.join(", ")],
          ["Zones", device.zones.join(", ")],
          ["Muted", device.muted.join(", ")],
          ["Registered", exactly(device.created_at)],
          ["Changed", exactly(device.updated_at)],
          ["Last seen", exactly(device.last_seen_at)],
        ]),
      ),
      card(
        "Attributes",
        Object.keys(device.attributes).length
          ? facts(Object.entries(device.attributes).map(([name, value]) => [name, JSON.stringify(value)]))
          : soft("None."),
      ),
      where &&
        card(
          `Located ${when(place.located_at)}${place.accuracy_m ? `, to ${count(Math.round(place.accuracy_m))} m` : ""}`,
          where.node,
        ),
    ),
    card(
      "What was sent to it",
      log.items.length
        ? element(
            "div",
            { className: "scroll" },
            element(
              "table",
              { className: "log" },
              element(
                "thead",
                {},
                element(
                  "tr",
                  {},
                  ["Settled", "Outcome", "Push service", "User", "Tries", "Browser", "Why"].map((name) =>
                    element("th", { scope: "col" }, name),
                  ),
                ),
              ),
              element("tbody", {}, log.items.map(row)),
            ),
          )
        : soft("Nothing yet."),
      element("p", {}, link(`log?device_id=${device.id}`, "Follow it in the log")),
    ),
  );
  if (where && !signal.aborted) {
    where.show([], [[place.lon, place.lat]]);
    where.fit([[place.lon, place.lat]], 5);
  }
}

function test(device) {
  const title = field("Title", "title", { value: "A test", required: true });
  const text = field("Text", "body", { value: "This device can be reached." });
  const send = element("button", { className: "primary" }, "Send the test");
  const made = dialog(
    "Send a test",
    element(
      "form",
      {
        className: "form",
        onsubmit: async (event) => {
          event.preventDefault();
          const content = { title: title.lastChild.value, body: text.lastChild.value };
          if (!(await doing(send, () => post("/v1/notifications", { content, audience: { device_id: device.id } }))))
            return;
          tell("The test is on its way.");
          made.close();
        },
      },
      title,
      text,
      send,
    ),
  );
}
