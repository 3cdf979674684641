/** A notification in a list: its status, its progress and the actions that its status allows. */

import { post } from "./api.js";
import { confirmAction, runAction } from "./dialogs.js";
import { actionBar, badge, button, element, link, outcomeBar } from "./elements.js";
import { formatCount, formatDateTime, formatQuantity, formatTime } from "./format.js";

export const notificationTitle = ({ name, content }) => name ?? content.title ?? "Untitled";

/** One item of a list of notifications; `refresh` redraws the list. */
export function notificationRow(notification, refresh, session) {
  const { progress, id, kind, delivery, created_at: createdAt } = notification;
  const funnel = ["accepted", "displayed", "clicked"].map((name) => `${formatCount(progress[name])} ${name}`);
  return element(
    "li",
    { dataset: { id } },
    element(
      "b",
      {},
      link(`campaigns/${id}`, notificationTitle(notification)),
      element("small", {}, `${kind} · ${delivery.lane} · ${formatTime(createdAt)}`),
    ),
    element("span", {}, statusBadge(notification)),
    element("div", {}, outcomeBar(progress, progress.targets), element("small", {}, progressText(notification))),
    element("span", { className: "muted funnel-summary" }, funnel.join(" · ")),
    actionBar(lifecycleButtons(notification, refresh, session)),
  );
}

const isWaiting = ({ status, start_at: startAt }) => status === "scheduled" && new Date(startAt) > new Date();

export function statusBadge(notification) {
  const isStarting = notification.status === "scheduled" && !isWaiting(notification);
  const status = isStarting ? "starting" : notification.status;
  return badge(status, status, notification.auto_paused ?? "");
}

/** Describe the progress: "1,200 of 4,000 processed, 250 per second, finishes around 14:03:00". */
export function progressText(notification) {
  const { progress } = notification;
  if (isWaiting(notification)) return `starts ${formatDateTime(notification.start_at)}`;
  if (!progress.targets && notification.finished_at) return "no matching devices";
  const { per_second: rate, eta } = progress;
  const parts = [
    `${formatCount(progress.targets - progress.pending)} of ${formatCount(progress.targets)} processed`,
    rate >= 1 && `${formatCount(Math.round(rate))} per second`,
    eta && `finishes around ${formatTime(eta)}`,
  ];
  return parts.filter(Boolean).join(", ");
}

/** The pause, resume and cancel buttons that the status and the key's scopes allow. */
export function lifecycleButtons(notification, refresh, session) {
  if (!session.scopes.includes("send")) return [];
  const { id, status, progress } = notification;
  const title = notificationTitle(notification);
  const lifecycleButton = (label, action, confirmation) =>
    button(
      label,
      async (event) => {
        if (confirmation && !(await confirmAction(confirmation))) return;
        await runAction(event.target, () => post(`/v1/notifications/${id}/${action}`));
        document.activeElement?.blur();
        await runAction(null, refresh);
      },
      { "aria-label": `${label} ${title}` },
    );
  const waiting = isWaiting(notification);
  const remaining = `${formatQuantity(progress.pending, "device")} will not receive it.`;
  const cancel = lifecycleButton("Cancel", "cancel", {
    title: waiting ? `Cancel “${title}”?` : `Stop sending “${title}”?`,
    text: waiting
      ? "It will not be sent."
      : `Messages that were already sent are not recalled. ${progress.targets ? remaining : ""}`,
    confirm: waiting ? "Cancel sending" : "Stop sending",
    cancel: waiting ? "Keep scheduled" : "Keep sending",
    danger: true,
  });
  if (status === "paused") return [lifecycleButton("Resume", "resume"), cancel];
  return status === "scheduled" || status === "sending" ? [lifecycleButton("Pause", "pause"), cancel] : [];
}
