/** What was sent and how far it has come; sending something, with the number of devices it would reach beside it. */

import { call } from "./api.js";
import { $, count, element, when } from "./elements.js";

const SHOWN = 5;
const REFRESH_MS = 1000;
const OUTCOMES = ["accepted", "gone", "rejected", "expired", "cancelled", "skipped"];

let timer = 0;

/** Draw the newest now, and again while one of them is on its way. */
export async function refresh() {
  clearTimeout(timer);
  const { items } = await call("GET", `/v1/notifications?limit=${SHOWN}`);
  $("notifications").replaceChildren(...items.map(line));
  $("no-notifications").hidden = items.length > 0;
  if (items.some(({ progress, status }) => status === "sending" || progress.pending)) soon();
}

/** Something settled: look again, but not for every delivery. */
export function soon() {
  clearTimeout(timer);
  timer = setTimeout(() => refresh().catch(() => {}), REFRESH_MS);
}

export function stop() {
  clearTimeout(timer);
  $("notifications").replaceChildren();
}

function line(notification) {
  const { progress, status } = notification;
  const settled = progress.targets - progress.pending;
  const parts = OUTCOMES.filter((name) => progress[name]).map((name) => {
    const part = element("i", { className: name, title: `${name}: ${count(progress[name])}` });
    part.style.width = `${(100 * progress[name]) / progress.targets}%`;
    return part;
  });
  const counts = [...OUTCOMES, "displayed", "clicked"].filter((name) => progress[name])
    .map((name) => `${count(progress[name])} ${name}`).join(", ");
  const scheduled = status === "scheduled" && new Date(notification.start_at) > new Date();
  return element("li", {},
    element("b", {}, notification.name ?? notification.content.title,
      element("small", {}, `${notification.kind} · ${notification.delivery.lane} · ${when(notification.created_at)}`)),
    element("span", { title: notification.auto_paused ?? "" }, scheduled ? `at ${when(notification.start_at)}` : status),
    element("div", {}, element("div", { className: "bar", title: counts }, ...parts),
      element("small", {}, `${count(settled)} of ${count(progress.targets)}${pace(progress)}`)),
    element("span", { className: "soft" }, counts || "—"),
    element("span", { className: "orders" }, ...orders(notification)));
}

function pace({ per_second: rate, eta }) {
  return [rate >= 1 && `, ${count(Math.round(rate))} a second`, eta && `, done by ${when(eta)}`].filter(Boolean).join("");
}

function orders({ id, name, content, status }) {
  const title = name ?? content.title;
  const cancel = order(id, "cancel", `Cancel “${title}”? What is not sent yet will not be sent.`);
  if (status === "paused") return [order(id, "resume"), cancel];
  return status === "scheduled" || status === "sending" ? [order(id, "pause"), cancel] : [];
}

function order(id, what, question) {
  const button = element("button", { type: "button" }, what[0].toUpperCase() + what.slice(1));
  button.addEventListener("click", async () => {
    if (question && !confirm(question)) return;
    await call("POST", `/v1/notifications/${id}/${what}`).catch((error) => alert(error.message));
    await refresh();
  });
  return button;
}

function audience(draft) {
  const whom = draft.elements.whom.value;
  const which = draft.elements.which.value.trim();
  if (whom === "everyone") return { everyone: true };
  return which ? { [whom]: which } : null;
}

export function prepareSending(onSent) {
  const draft = $("draft");
  const problem = draft.querySelector(".problem");
  let asked = 0;

  async function reach() {
    $("which").hidden = draft.elements.whom.value === "everyone";
    const who = audience(draft);
    const mine = (asked += 1);
    let said = " ";
    if (who) {
      said = await call("POST", "/v1/audiences/preview", { audience: who })
        .then(({ devices, users }) => `Reaches ${count(devices)} devices of ${count(users)} known users now.`, (error) => error.message);
    }
    if (mine === asked) $("reach").textContent = said;
  }

  draft.elements.whom.addEventListener("change", reach);
  draft.elements.which.addEventListener("change", reach);
  $("compose").addEventListener("click", () => {
    problem.textContent = "";
    reach();
    $("send").showModal();
  });
  draft.addEventListener("submit", async (event) => {
    event.preventDefault();
    const who = audience(draft);
    if (!who) {
      problem.textContent = "Say which one.";
      return;
    }
    const content = { title: draft.elements.title.value };
    for (const name of ["body", "url"]) if (draft.elements[name].value.trim()) content[name] = draft.elements[name].value.trim();
    const button = draft.querySelector("button.primary");
    button.disabled = true;
    try {
      await call("POST", "/v1/notifications", { content, audience: who });
      draft.reset();
      $("send").close();
      await onSent();
    } catch (error) {
      problem.textContent = error.message;
    }
    button.disabled = false;
  });
}
