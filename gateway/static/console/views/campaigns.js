/** Campaigns and other notifications: a list, and a page for each with its funnel, details and preview. */

import { get, queryString } from "../lib/api.js";
import { runAction } from "../lib/dialogs.js";
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
  outcomeBar,
  outcomeLinks,
  pageHeading,
} from "../lib/elements.js";
import { formatCount, formatDateTime, formatSeconds, formatShare } from "../lib/format.js";
import { notificationPreview } from "../lib/notification_preview.js";
import {
  lifecycleButtons,
  notificationRow,
  notificationTitle,
  progressText,
  statusBadge,
} from "../lib/notification_row.js";
import { poll, replaceKeepingFocus } from "../lib/updates.js";

const KINDS = ["campaign", "alert", "event", "reminder", "direct"];
const STATUSES = ["scheduled", "sending", "paused", "done", "cancelled"];
const ALL = { value: "", text: "All" };
const PAGE_SIZE = 25;
const MAX_LISTED = 1000;
const POLL_INTERVAL_MS = 1500;

export async function open(body, context) {
  return context.id ? openNotification(body, context) : openList(body, context);
}

async function openList(body, { query, signal, live, session }) {
  const list = element("ol", { className: "notification-list" });
  const more = button("Load older", null, { hidden: true });
  const filters = element(
    "form",
    { className: "filters", role: "search", onsubmit: (event) => event.preventDefault() },
    field("Kind", "kind", { options: [ALL, ...KINDS], value: query.kind }),
    field("Status", "status", { options: [ALL, ...STATUSES], value: query.status }),
  );
  const newCampaign = element("a", { className: "button primary", href: "#/compose" }, "New campaign");
  body.replaceChildren(
    pageHeading("Campaigns and notifications", session.scopes.includes("send") && newCampaign),
    element("section", { className: "card" }, filters, list, more),
  );
  let limit = PAGE_SIZE;

  const loadPage = () => get(`/v1/notifications${queryString({ limit, ...formValues(filters) })}`);

  async function refresh() {
    const page = await loadPage();
    if (signal.aborted) return;
    live("live");
    if (!list.contains(document.activeElement)) draw(page);
    else for (const item of page.items) updateBar(item);
  }
  function updateBar({ id, progress }) {
    list.querySelector(`[data-id="${id}"] .bar`)?.replaceWith(outcomeBar(progress, progress.targets));
  }
  function draw(page) {
    list.replaceChildren(...page.items.map((item) => notificationRow(item, reload, session)));
    const isFiltered = Object.values(formValues(filters)).some(Boolean);
    const emptyText = isFiltered
      ? "No notifications match these filters."
      : "No notifications yet. Create a campaign to send the first.";
    if (!page.items.length) list.append(element("li", { className: "muted" }, emptyText));
    more.hidden = !page.next_cursor;
  }
  async function reload() {
    draw(await loadPage());
  }
  more.onclick = () => {
    limit = Math.min(MAX_LISTED, limit * 2);
    runAction(more, reload);
  };
  filters.addEventListener("change", () => {
    history.replaceState(null, "", `#/campaigns${queryString(formValues(filters))}`);
    runAction(null, reload);
  });
  await reload();
  poll(refresh, POLL_INTERVAL_MS, signal);
}

async function openNotification(body, { id, signal, live, session }) {
  // The notification and the funnel that the page shows, as JSON.
  let drawn = "";
  async function refresh() {
    const [notification, funnel] = await Promise.all([
      get(`/v1/notifications/${id}`),
      get(`/v1/notifications/${id}/funnel`),
    ]);
    if (signal.aborted) return;
    live("live");
    const current = JSON.stringify([notification, funnel]);
    if (current === drawn) return;
    drawn = current;
    replaceKeepingFocus(body, ...notificationPage(notification, funnel, refresh, session));
  }
  await refresh();
  poll(refresh, POLL_INTERVAL_MS, signal);
}

function notificationPage(notification, funnel, refresh, session) {
  const { id, progress } = notification;
  const title = notificationTitle(notification);
  const logLink = (outcome) => `#/log${queryString({ notification_id: id, outcome })}`;
  return [
    breadcrumbs(link("campaigns", "Campaigns"), " / ", title),
    pageHeading(
      title,
      statusBadge(notification),
      lifecycleButtons(notification, refresh, session),
      session.scopes.includes("send") && link(`compose?from=${id}`, "Duplicate"),
      link(`log?notification_id=${id}`, "View deliveries"),
    ),
    notification.auto_paused &&
      element("p", { className: "problem" }, `Paused automatically: ${notification.auto_paused}`),
    card(
      "Progress",
      outcomeBar(progress, progress.targets),
      element("p", {}, progressText(notification)),
      element("p", { className: "counts" }, outcomeLinks(progress, logLink)),
    ),
    element(
      "div",
      { className: "columns" },
      element(
        "div",
        { className: "stack" },
        card("Funnel", funnelChart(funnel), clicksByButton(funnel)),
        notification.variants.length > 0 && card("A/B test", variantResults(notification.variants)),
        card("Details", notificationDetails(notification)),
      ),
      card("Preview", notificationPreview(notification.content, session.application)),
    ),
  ].filter(Boolean);
}

function notificationDetails(notification) {
  const { delivery } = notification;
  return definitionList([
    ["ID", notification.id],
    ["Kind", notification.kind],
    ["Lane", delivery.lane],
    ["Urgency", delivery.urgency],
    ["Time to live", formatSeconds(delivery.ttl)],
    ["Created", formatDateTime(notification.created_at)],
    ["Starts", formatDateTime(notification.start_at)],
    ["Finished", formatDateTime(notification.finished_at)],
    ["Expires", formatDateTime(delivery.expires_at)],
    ["Opt-out category", notification.category],
    ["Collapse key", delivery.collapse_key],
    ["Audience", element("code", {}, JSON.stringify(notification.audience))],
  ]);
}

function variantResults(variants) {
  const results = variants.map(({ name, won, accepted, displayed, clicked }) => {
    const counts = `${formatCount(accepted)} accepted, ${formatCount(clicked)} clicked`;
    const clickRate = displayed > 0 && ` (${formatShare(clicked, displayed)} of displayed)`;
    return element(
      "div",
      {},
      element("b", {}, name, " ", won && badge("winner")),
      element("span", {}, counts, clickRate),
    );
  });
  return element("div", { className: "variants" }, results);
}

function clicksByButton({ actions }) {
  if (!actions.length) return null;
  const counts = actions.map(({ action, clicked }) => `${action || "notification"} ${formatCount(clicked)}`);
  return mutedText(`Clicks: ${counts.join(", ")}`);
}

function funnelChart({ targets, accepted, displayed, clicked }) {
  const widest = Math.max(targets, 1);
  // Name, count, and the previous stage that the count is a share of.
  const stages = [
    ["Audience", targets, null],
    ["Accepted", accepted, targets],
    ["Displayed", displayed, accepted],
    ["Clicked", clicked, displayed],
  ];
  const rows = stages.map(([name, count, previous]) =>
    element(
      "div",
      {},
      element("span", {}, name),
      element("i", { style: { width: `${(100 * count) / widest}%` } }),
      element("b", {}, formatCount(count)),
      element("small", {}, previous === null ? "" : formatShare(count, previous)),
    ),
  );
  return element("div", { className: "funnel" }, rows);
}
