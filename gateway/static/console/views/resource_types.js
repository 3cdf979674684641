/**
 * Descriptions of the named resources: titles, columns, form fields and actions.
 *
 * A key needs the `scope` of a resource to edit it. An action is {label(item), run(path, item)}.
 */

import { LOCAL_TIME_ZONE } from "../forms/controls.js";
import {
  CATEGORY,
  DELIVERY_OPTIONS,
  FREQUENCY_CAP,
  MESSAGE,
  NAME,
  QUIET_HOURS,
  THROTTLE,
} from "../forms/shared_fields.js";
import { call, post, queryString } from "../lib/api.js";
import { notify } from "../lib/dialogs.js";
import { badge, element, link } from "../lib/elements.js";
import { formatCount, formatSeconds, formatTime } from "../lib/format.js";
import { openPreview } from "../lib/notification_preview.js";

const AUDIENCE = { pointer: "/audience", control: "audience", required: true };
export const CONTENT = { group: "Message", fields: MESSAGE };
const deliveryOptions = (...fields) => ({
  group: "Delivery options",
  fields: [CATEGORY, ...fields, ...DELIVERY_OPTIONS],
  collapsed: true,
});
const URL_FIELD = { pointer: "/url", label: "URL", required: true, control: "url" };

const code = (text) => element("code", {}, text);
const NAME_COLUMN = ["Name", (item) => element("b", {}, item.name)];
const STATUS_COLUMN = ["Status", (item) => badge(item.status)];
const TITLE_COLUMN = ["Title", (item) => item.content.title];
const UPDATED_COLUMN = ["Updated", (item) => formatTime(item.updated_at)];
const CAP_COLUMN = ["Frequency cap", ({ cap }) => cap && `${cap.limit} per ${formatSeconds(cap.window)}`];

/** An action that switches an item between active and inactive. `change(isActive)` returns the body of the PATCH. */
const toggleAction = (offLabel, onLabel, change) => ({
  label: (item) => (item.status === "active" ? offLabel : onLabel),
  run: (path, item) => call("PATCH", path, change(item.status === "active")),
});
const PAUSE_BY_STATUS = toggleAction("Pause", "Resume", (isActive) => ({ status: isActive ? "paused" : "active" }));
const PAUSE_BY_FLAG = toggleAction("Pause", "Resume", (isActive) => ({ paused: isActive }));
const ENABLE_BY_STATUS = toggleAction("Disable", "Enable", (isActive) => ({
  status: isActive ? "disabled" : "active",
}));

const topics = {
  title: "Topics",
  description:
    "Devices subscribe to topics through the SDK. A topic exists while at least one device subscribes to it.",
  emptyText: "No topics yet. They appear when devices subscribe to them.",
  columns: [
    ["Topic", (item) => element("b", {}, item.topic)],
    ["Devices", (item) => link(`devices${queryString({ topic: item.topic })}`, formatCount(item.devices))],
  ],
};

const segments = {
  title: "Segments",
  singular: "segment",
  description: "Saved audiences that campaigns can use by name.",
  emptyText: "No segments yet. Create one to reuse an audience.",
  scope: "manage",
  fields: [NAME, AUDIENCE],
  columns: [
    NAME_COLUMN,
    ["Audience", (item) => code(JSON.stringify(item.audience))],
    UPDATED_COLUMN,
    ["Use", (item) => link(`compose?segment=${item.id}`, "New campaign")],
  ],
};

const categories = {
  title: "Categories",
  singular: "category",
  description: "Kinds of messages that users can opt out of, each with its own frequency cap and quiet hours.",
  emptyText: "No categories yet. Create one to let users opt out of some messages and receive others.",
  scope: "manage",
  fields: [
    { ...NAME, createOnly: true, hint: "The API uses this name. It cannot be changed later." },
    { pointer: "/title", label: "Display title", required: true },
    { pointer: "/description", label: "Description" },
    FREQUENCY_CAP,
    QUIET_HOURS,
  ],
  columns: [
    NAME_COLUMN,
    ["Display title", (item) => item.title],
    CAP_COLUMN,
    ["Quiet hours", ({ quiet_hours: quiet }) => quiet && `${quiet.start} to ${quiet.end}`],
  ],
};

const templates = {
  title: "Templates",
  singular: "template",
  description: "Content with Liquid variables. Every change creates a version; accepted messages keep theirs.",
  emptyText: "No templates yet. Create one to reuse content in campaigns and API calls.",
  scope: "manage",
  fields: [NAME, CONTENT, { pointer: "/strict", label: "Fail when a variable is missing", control: "checkbox" }],
  columns: [NAME_COLUMN, TITLE_COLUMN, ["Version", (item) => String(item.version)], UPDATED_COLUMN],
  actions: [{ label: () => "Preview", run: (_, { id, name }) => openPreview(name, { template: { id } }, name) }],
};

const reminders = {
  title: "Reminders",
  singular: "reminder",
  description: "Messages that are sent repeatedly on a schedule.",
  emptyText: "No reminders yet. Create one to send a message every day, week or month.",
  scope: "send",
  fields: [
    NAME,
    CONTENT,
    {
      group: "Schedule",
      fields: [
        { pointer: "/cron", control: "recurrence", required: true },
        {
          row: [
            { pointer: "/timezone", label: "Time zone", control: "timezone", default: LOCAL_TIME_ZONE },
            { pointer: "/ends_at", label: "Ends at", control: "datetime" },
          ],
        },
        {
          pointer: "/missed",
          label: "If a scheduled time is missed",
          options: [
            { value: "skip", text: "Skip it" },
            { value: "send", text: "Send late" },
          ],
        },
      ],
    },
    AUDIENCE,
    deliveryOptions(QUIET_HOURS, THROTTLE),
  ],
  columns: [
    NAME_COLUMN,
    STATUS_COLUMN,
    ["Schedule", ({ explained, cron, timezone }) => [explained, " ", element("small", {}, `${cron}, ${timezone}`)]],
    ["Next", (item) => formatTime(item.next_at)],
    ["Times sent", (item) => formatCount(item.occurrences)],
    ["Status details", (item) => item.cause],
  ],
  actions: [PAUSE_BY_FLAG],
};

const triggers = {
  title: "Triggers",
  singular: "trigger",
  description: "Messages that are sent when your application reports an event.",
  emptyText: "No triggers yet. Create one to send a message when an event occurs.",
  scope: "send",
  fields: [
    NAME,
    {
      group: "Event",
      fields: [
        { pointer: "/event", label: "Event name", required: true, placeholder: "cart.abandoned" },
        { pointer: "/condition", control: "condition" },
      ],
    },
    CONTENT,
    {
      pointer: "/audience",
      control: "audience",
      defaultAudience: { text: "The user of the event", value: { user_id: { from_event: "user_id" } } },
    },
    {
      group: "Timing",
      fields: [
        {
          row: [
            { pointer: "/delay", label: "Delay", control: "duration", default: 0 },
            {
              pointer: "/dedupe",
              label: "Minimum time between messages to a user",
              control: "duration",
              placeholder: "None",
            },
          ],
        },
        FREQUENCY_CAP,
        {
          pointer: "/cancel_on",
          label: "Cancel when the same user triggers",
          control: "list",
          placeholder: "order.paid, cart.emptied",
        },
      ],
    },
    deliveryOptions(),
  ],
  columns: [
    NAME_COLUMN,
    STATUS_COLUMN,
    ["Event", (item) => code(item.event)],
    TITLE_COLUMN,
    ["Delay", ({ delay }) => (delay ? formatSeconds(delay) : "none")],
    CAP_COLUMN,
    UPDATED_COLUMN,
  ],
  actions: [PAUSE_BY_STATUS],
};

const webhooks = {
  title: "Webhooks",
  singular: "webhook",
  description: "URLs that receive events as signed HTTP POST requests.",
  emptyText: "No webhooks yet. Create one to receive events on your server.",
  scope: "manage",
  secretName: "secret",
  fields: [
    NAME,
    { ...URL_FIELD, placeholder: "https://shop.example/hooks/push" },
    {
      pointer: "/events",
      label: "Events",
      control: "list",
      required: true,
      placeholder: "delivery.*, device.gone",
    },
  ],
  columns: [
    NAME_COLUMN,
    STATUS_COLUMN,
    ["URL", (item) => item.url],
    ["Events", (item) => item.events.join(", ")],
    ["Last success", (item) => formatTime(item.last_ok_at)],
    ["Last error", (item) => item.cause ?? item.last_error],
  ],
  actions: [{ label: () => "Test", run: testWebhook }, ENABLE_BY_STATUS],
};

async function testWebhook(path) {
  const { error, status, duration_ms: duration } = await post(`${path}/test`);
  notify(error ?? `The endpoint returned ${status} in ${duration} ms.`, Boolean(error));
}

const feeds = {
  title: "Alert feeds",
  singular: "feed",
  description:
    "URLs that are polled for alerts: CAP, Atom with CAP entries, or GeoJSON as published by api.weather.gov.",
  emptyText: "No alert feeds yet. Create one to send the alerts of a weather service or another authority.",
  scope: "manage",
  fields: [
    NAME,
    { ...URL_FIELD, placeholder: "https://api.weather.gov/alerts/active?area=VT" },
    { pointer: "/interval", label: "Polling interval", control: "duration", default: 60 },
    CATEGORY,
    { pointer: "/audience", control: "audience" },
  ],
  columns: [
    NAME_COLUMN,
    STATUS_COLUMN,
    ["URL", (item) => item.url],
    ["Last success", (item) => formatTime(item.last_ok_at)],
    ["Alerts", ({ counts }) => alertCounts(counts)],
    ["Last error", (item) => item.last_error],
  ],
  actions: [PAUSE_BY_STATUS],
};

const alertCounts = (counts) =>
  Object.entries(counts)
    .map(([outcome, count]) => `${formatCount(count)} ${outcome}`)
    .join(", ");

export const RESOURCE_TYPES = { topics, segments, categories, templates, reminders, triggers, webhooks, feeds };
