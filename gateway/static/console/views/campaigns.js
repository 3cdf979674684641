/** What was sent and how far it has come; one of them in full, with its funnel. */

import { get, post, query } from "../lib/api.js";
import {
  badge,
  bar,
  button,
  card,
  count,
  doing,
  element,
  exactly,
  facts,
  field,
  heading,
  link,
  OUTCOMES,
  renew,
  repeating,
  share,
  sure,
  when,
} from "../lib/elements.js";
import { preview } from "../lib/notification_preview.js";

const KINDS = ["campaign", "alert", "event", "reminder", "direct"];
const STATUSES = ["scheduled", "sending", "paused", "done", "cancelled"];
const EVERY_MS = 1500;

export async function open(body, context) {
  return context.id ? one(body, context) : all(body, context);
}

async function all(body, { query: asked, signal, live, session }) {
  const list = element("ol", { className: "notifications" });
  const more = button("Older", null, { hidden: true });
  const filters = element(
    "form",
    { className: "filters", role: "search", onsubmit: (event) => event.preventDefault() },
    field("Kind", "kind", { options: [{ value: "", text: "all" }, ...KINDS], value: asked.kind }),
    field("Status", "status", { options: [{ value: "", text: "all" }, ...STATUSES], value: asked.status }),
  );
  body.replaceChildren(
    heading(
      "Campaigns and notifications",
      session.scopes.includes("send") &&
        element("a", { className: "button primary", href: "#/compose" }, "New campaign"),
    ),
    element("section", { className: "card" }, filters, list, more),
  );
  let limit = 25;

  async function refresh() {
    const page = await get(`/v1/notifications${query({ limit, ...Object.fromEntries(new FormData(filters)) })}`);
    if (signal.aborted) return;
    live("live");
    if (!list.contains(document.activeElement)) draw(page);
    else
      for (const item of page.items)
        list.querySelector(`[data-id="${item.id}"] .bar`)?.replaceWith(bar(item.progress, item.progress.targets));
  }
  function draw(page) {
    list.replaceChildren(...page.items.map((item) => line(item, again, session)));
    if (!page.items.length)
      list.append(element("li", { className: "soft" }, "Nothing matches. What is sent appears here by itself."));
    more.hidden = !page.next_cursor;
  }
  async function again() {
    draw(await get(`/v1/notifications${query({ limit, ...Object.fromEntries(new FormData(filters)) })}`));
  }
  more.onclick = () => {
    limit = Math.min(1000, limit * 2);
    doing(more, again);
  };
  filters.addEventListener("change", () => {
    history.replaceState(null, "", `#/campaigns${query(Object.fromEntries(new FormData(filters)))}`);
    doing(null, again);
  });
  await again();
  repeating(refresh, EVERY_MS, signal);
}

export const titleOf = ({ name, content }) => name ?? content.title ?? "Without a title";

/** One notification in a list. */
export function line(notification, again, session) {
  const { progress, id } = notification;
  return element(
    "li",
    { dataset: { id } },
    element(
      "b",
      {},
      link(`campaigns/${id}`, titleOf(notification)),
      element("small", {}, `${notification.kind} · ${notification.delivery.lane} · ${when(notification.created_at)}`),
    ),
    element("span", { title: notification.auto_paused ?? "" }, badge(stand(notification))),
    element("div", {}, bar(progress, progress.targets), element("small", {}, said(notification))),
    element(
      "span",
      { className: "soft funnel-line" },
      `${count(progress.accepted)} accepted · ${count(progress.displayed)} displayed · ${count(progress.clicked)} clicked`,
    ),
    element("span", { className: "orders" }, orders(notification, again, session)),
  );
}

const waits = ({ status, start_at: start }) => status === "scheduled" && new Date(start) > new Date();
const stand = (notification) =>
  notification.status === "scheduled" && !waits(notification) ? "starting" : notification.status;

function said(notification) {
  const { progress } = notification;
  if (waits(notification)) return `starts ${exactly(notification.start_at)}`;
  if (!progress.targets && notification.finished_at) return "nobody to tell";
  const { per_second: rate, eta } = progress;
  return [
    `${count(progress.targets - progress.pending)} of ${count(progress.targets)}`,
    rate >= 1 && `${count(Math.round(rate))} a second`,
    eta && `done by ${when(eta)}`,
  ]
    .filter(Boolean)
    .join(", ");
}

function orders(notification, again, session) {
  if (!session.scopes.includes("send")) return [];
  const { id, status } = notification;
  const order = (what, question) =>
    button(
      what[0].toUpperCase() + what.slice(1),
      async (event) => {
        if (question && !(await sure(question, "Cancel it"))) return;
        await doing(event.target, () => post(`/v1/notifications/${id}/${what}`));
        document.activeElement?.blur();
        await doing(null, again);
      },
      { "aria-label": `${what} ${titleOf(notification)}` },
    );
  const cancel = order("cancel", `What is not sent yet of “${titleOf(notification)}” will not be sent.`);
  if (status === "paused") return [order("resume"), cancel];
  return status === "scheduled" || status === "sending" ? [order("pause"), cancel] : [];
}

async function one(body, { id, signal, live, session }) {
  let drawn = "";
  async function refresh() {
    const [notification, funnel] = await Promise.all([
      get(`/v1/notifications/${id}`),
      get(`/v1/notifications/${id}/funnel`),
    ]);
    if (signal.aborted) return;
    live("live");
    const now = JSON.stringify([notification, funnel]);
    if (now === drawn) return;
    drawn = now;
    renew(body, ...full(notification, funnel, refresh, session));
  }
  await refresh();
  repeating(refresh, EVERY_MS, signal);
}

function full(notification, funnel, refresh, session) {
  const { progress, delivery } = notification;
  const counts = OUTCOMES.filter((name) => progress[name]).map((name) =>
    element(
      "a",
      { className: `outcome ${name}`, href: `#/log${query({ notification_id: notification.id, outcome: name })}` },
      `${count(progress[name])} ${name}`,
    ),
  );
  return [
    element("p", { className: "crumbs" }, link("campaigns", "Campaigns"), " / ", titleOf(notification)),
    heading(
      titleOf(notification),
      badge(stand(notification)),
      orders(notification, refresh, session),
      link(`compose?from=${notification.id}`, "Use again"),
      link(`log?notification_id=${notification.id}`, "Its deliveries"),
    ),
    notification.auto_paused &&
      element("p", { className: "problem" }, `Paused by the gateway: ${notification.auto_paused}`),
    card(
      "Progress",
      bar(progress, progress.targets),
      element("p", {}, said(notification)),
      element("p", { className: "mix" }, counts),
    ),
    element(
      "div",
      { className: "columns" },
      element(
        "div",
        { className: "stack" },
        card(
          "Funnel",
          steps(funnel),
          funnel.actions.length > 0 &&
            element(
              "p",
              { className: "soft" },
              `Clicked: ${funnel.actions.map(({ action, clicked }) => `${action || "the notification"} ${count(clicked)}`).join(", ")}`,
            ),
        ),
        notification.variants.length > 0 &&
          card(
            "Variants",
            element(
              "div",
              { className: "steps" },
              notification.variants.map((variant) =>
                element(
                  "div",
                  {},
                  element("b", {}, variant.name, " ", variant.won && badge("won")),
                  element(
                    "span",
                    {},
                    `${count(variant.accepted)} accepted, ${count(variant.clicked)} clicked (${share(variant.clicked, variant.displayed)} of displayed)`,
                  ),
                ),
              ),
            ),
          ),
        card(
          "Details",
          facts([
            ["Id", notification.id],
            ["Kind", notification.kind],
            ["Lane", delivery.lane],
            ["Urgency", delivery.urgency],
            ["Kept for", `${count(delivery.ttl)} s`],
            ["Created", exactly(notification.created_at)],
            ["Starts", exactly(notification.start_at)],
            ["Finished", exactly(notification.finished_at)],
            ["Never after", exactly(delivery.expires_at)],
            ["Category", notification.category],
            ["Replaces", delivery.collapse_key],
            ["Audience", element("code", {}, JSON.stringify(notification.audience))],
          ]),
        ),
      ),
      card("As it is shown", preview(notification.content, session.application)),
    ),
  ].filter(Boolean);
}

function steps({ targets, accepted, displayed, clicked }) {
  const whole = Math.max(targets, 1);
  const stages = [
    ["Targets", targets, null],
    ["Accepted", accepted, targets],
    ["Displayed", displayed, accepted],
    ["Clicked", clicked, displayed],
  ];
  return element(
    "div",
    { className: "funnel" },
    stages.map(([name, number, before]) =>
      element(
        "div",
        {},
        element("span", {}, name),
        element("i", { style: { width: `${(100 * number) / whole}%` } }),
        element("b", {}, count(number)),
        element("small", {}, before === null ? "" : share(number, before)),
      ),
    ),
  );
}
