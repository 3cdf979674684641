/** The page that creates a campaign: a form with a live preview beside it. */

import { get, post } from "../lib/api.js";
import { confirmAction, notify, openDialog, runAction } from "../lib/dialogs.js";
import {
  actionBar,
  breadcrumbs,
  button,
  controlOf,
  element,
  field,
  link,
  mutedText,
  pageHeading,
  textOf,
} from "../lib/elements.js";
import { formatDateTime, formatQuantity } from "../lib/format.js";
import { notificationPreview, payloadSize } from "../lib/notification_preview.js";
import { debounce, latestOnly } from "../lib/updates.js";
import { buildForm } from "./form.js";
import { CATEGORY, DELIVERY_OPTIONS, MESSAGE, NAME, QUIET_HOURS, THROTTLE } from "./shared_fields.js";

const AB_TEST = {
  group: "A/B test",
  collapsed: true,
  fields: [
    { pointer: "/variants", control: "variants" },
    {
      row: [
        {
          pointer: "/winner/sample",
          label: "Test group size, %",
          control: "percent",
          min: 0,
          max: 100,
          placeholder: "Whole audience, split equally",
        },
        {
          pointer: "/winner/after",
          label: "Send the winner after",
          control: "duration",
          default: 3600,
          requires: "/winner/sample",
        },
      ],
    },
  ],
};
const AUTOMATIC_PAUSE = {
  row: [
    {
      pointer: "/pause_when/failure_share",
      label: "Pause at failure rate, %",
      control: "percent",
      min: 0,
      max: 100,
      placeholder: "Never",
    },
    {
      pointer: "/pause_when/after",
      label: "After at least this many deliveries",
      control: "number",
      min: 1,
      default: 100,
      requires: "/pause_when/failure_share",
    },
  ],
};
const FIELDS = [
  { ...NAME, label: "Campaign name", placeholder: "Autumn sale" },
  { group: "Message", fields: MESSAGE },
  AB_TEST,
  { pointer: "/audience", control: "audience", required: true },
  {
    group: "Schedule",
    fields: [
      { pointer: "/schedule", control: "schedule" },
      CATEGORY,
      {
        group: "Delivery options",
        collapsed: true,
        fields: [THROTTLE, QUIET_HOURS, ...DELIVERY_OPTIONS, AUTOMATIC_PAUSE],
      },
    ],
  },
];

const withoutNulls = (values) =>
  Object.fromEntries(Object.entries(values ?? {}).filter(([, value]) => value !== null && value !== undefined));

/** Copy a notification as a new campaign. Returns the copy and a list of the omitted times, which are in the past. */
function copyCampaign(original) {
  const omitted = [];
  const { name, content, audience, category } = original;
  const copy = withoutNulls({ name, content, audience, category });
  for (const part of ["throttle", "quiet_hours", "winner", "pause_when"])
    if (original[part]) copy[part] = withoutNulls(original[part]);
  if (original.variants.length)
    copy.variants = original.variants.map((variant) => ({
      name: variant.name,
      weight: variant.weight,
      content: variant.content,
    }));

  const { lane, expires_at: expiresAt, ...delivery } = original.delivery;
  copy.delivery = withoutNulls(delivery);
  // Only the lane of a campaign was chosen by its author; every alert has the urgent lane.
  if (original.kind === "campaign") copy.delivery.lane = lane;
  // A notification without an explicit expiry expires when its time to live, counted from its start, has passed.
  const hasOwnExpiry = new Date(expiresAt) - new Date(original.start_at) < 1000 * delivery.ttl;
  if (hasOwnExpiry && new Date(expiresAt) > new Date()) copy.delivery.expires_at = expiresAt;
  else if (hasOwnExpiry) omitted.push(`expires at ${formatDateTime(expiresAt)}`);

  const startedLater = new Date(original.start_at) - new Date(original.created_at) > 1000;
  const schedule = original.schedule ?? (startedLater ? { at: original.start_at } : null);
  if (schedule && new Date(schedule.at) > new Date()) copy.schedule = schedule;
  else if (schedule) omitted.push(`start at ${formatDateTime(schedule.at)}`);
  return [copy, omitted];
}

async function initialCampaign({ from, segment }) {
  if (from) return copyCampaign(await get(`/v1/notifications/${from}`));
  return [segment ? { audience: { segment } } : {}, []];
}

export async function open(body, { query, session, signal }) {
  const [initial, omitted] = await initialCampaign(query);
  const templates = await get("/v1/templates?limit=200").then(
    ({ items }) => items,
    () => [],
  );
  const categories = await get("/v1/categories?limit=200").then(
    ({ items }) => items.map(({ name }) => name),
    () => [],
  );
  const templateOptions = templates.map(({ id, name }) => ({ value: id, text: name }));
  const templateField = field("Start from a template", "template", {
    options: [{ value: "", text: "None" }, ...templateOptions],
  });
  const form = buildForm(FIELDS, initial, { signal, categories });
  const send = element("button", { className: "primary" }, "Send campaign");
  const node = element(
    "form",
    { className: "form", id: "campaign", noValidate: true },
    omitted.length > 0 &&
      element(
        "p",
        { className: "notice", role: "status" },
        `Not copied because it is in the past: ${omitted.join("; ")}.`,
      ),
    templates.length > 0 && templateField,
    form.node,
    actionBar(
      send,
      button("Send test…", () => openTestDialog(readContent)),
      form.modeButton,
    ),
  );
  const preview = element("div", {});
  const size = mutedText("");
  body.replaceChildren(
    breadcrumbs(link("campaigns", "Campaigns"), " / new"),
    pageHeading("New campaign"),
    element(
      "div",
      { className: "columns" },
      element("section", { className: "card" }, node),
      element(
        "section",
        { className: "card sticky", "aria-label": "Preview" },
        element("h3", {}, "Preview"),
        preview,
        size,
      ),
    ),
  );

  const readContent = () => form.read("/content").content;

  /** The content as far as it is written, or null while a field is not valid. */
  function draftContent() {
    try {
      return readContent() ?? {};
    } catch {
      return null;
    }
  }
  const renderOnServer = async () => {
    const content = draftContent();
    if (!content?.title) return null;
    return post("/v1/templates/preview", { content }).catch((error) => ({ problem: error.message }));
  };
  const showRendered = (rendered) => {
    if (!rendered) return;
    size.textContent = rendered.problem ?? `${payloadSize(rendered.octets)}, rendered for an anonymous user`;
    if (rendered.content) preview.replaceChildren(notificationPreview(rendered.content, session.application));
  };
  const updateRendered = debounce(latestOnly(renderOnServer, showRendered, signal));
  const updatePreview = () => {
    const content = draftContent();
    if (content) preview.replaceChildren(notificationPreview(content, session.application));
    updateRendered();
  };

  async function submit(event) {
    event.preventDefault();
    form.showError(null);
    try {
      const campaign = form.readValid();
      const { devices } = await post("/v1/audiences/preview", { audience: campaign.audience });
      const audience = formatQuantity(devices, "device");
      const confirmed = await confirmAction(
        campaign.schedule
          ? { title: `Schedule campaign for ${audience}?`, text: `“${campaign.name}”`, confirm: "Schedule" }
          : { title: `Send campaign to ${audience}?`, text: `“${campaign.name}” starts immediately.`, confirm: "Send" },
      );
      if (!confirmed) return;
      const created = await post("/v1/campaigns", campaign);
      if (!signal.aborted) location.hash = `#/campaigns/${created.id}`;
    } catch (error) {
      form.showError(error);
    }
  }

  node.addEventListener("input", updatePreview);
  node.addEventListener("submit", submit);
  templateField.addEventListener("change", () => {
    const template = templates.find(({ id }) => id === controlOf(templateField).value);
    if (template) form.load({ ...form.read(), content: template.content });
    updatePreview();
  });
  updatePreview();
}

/** Open a dialog that sends the content to one user or device. */
function openTestDialog(readContent) {
  const user = field("User ID", "user", { placeholder: "u-42" });
  const device = field("or device ID", "device", { placeholder: "dev_…" });
  const send = element("button", { className: "primary" }, "Send test");
  const submit = async (event) => {
    event.preventDefault();
    const [userId, deviceId] = [textOf(user), textOf(device)];
    if (!userId && !deviceId) return;
    const audience = deviceId ? { device_id: deviceId } : { user_id: userId };
    const sent = await runAction(send, () => post("/v1/notifications", { content: readContent(), audience }));
    if (!sent) return;
    notify("Test notification sent.");
    node.close();
  };
  const node = openDialog(
    "Send a test notification",
    mutedText("The current content is sent immediately to all devices of one user, or to one device."),
    element("form", { className: "form", onsubmit: submit }, user, device, send),
  );
}
