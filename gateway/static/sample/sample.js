/** The sample application: what a web page needs to do with the SDK. */

import { init } from "/sdk/webpush.js";

const MAX_LOG_LINES = 100;
// Label and explanation of each state.
const STATES = {
  unsupported: ["Not supported", "This browser does not support Web Push."],
  "needs-install": [
    "Add to home screen",
    "On an iPhone or iPad, add this page to the home screen first, and open it from there.",
  ],
  denied: ["Blocked", "Notifications are blocked for this page. Allow them in the browser's site settings."],
  ready: ["Off", "Turn on notifications to register this browser with the gateway."],
  subscribed: ["On", "This browser is registered. It receives alerts and campaigns even while this page is closed."],
};

const $ = (id) => document.getElementById(id);
const topicBoxes = [...document.querySelectorAll("#topics input")];
const parameters = [location.hash.slice(1), location.search].map((text) => new URLSearchParams(text));
const key = parameters.map((values) => values.get("key")).find(Boolean);
const push = key?.startsWith("pk_")
  ? init({ gateway: location.origin, key, serviceWorker: "/sample/service-worker.js" })
  : null;

async function showState() {
  const state = await push.state();
  const [label, explanation] = STATES[state];
  $("state").textContent = label;
  $("state").dataset.state = state;
  $("explanation").textContent = explanation;
  $("subscribe").disabled = state === "unsupported" || state === "denied";
  $("subscribe").textContent = state === "subscribed" ? "Register again" : "Turn on notifications";
  $("unsubscribe").disabled = state !== "subscribed";
  const device = state === "subscribed" ? await push.device() : null;
  $("details").hidden = !device;
  if (!device) return;
  $("device").textContent = device.id;
  const registration = await navigator.serviceWorker.getRegistration("/sample/");
  $("host").textContent = new URL((await registration.pushManager.getSubscription()).endpoint).host;
  for (const box of topicBoxes) box.checked = device.topics.includes(box.value);
}

/** Run an action of the user, and show its error on the page. */
async function run(action) {
  $("problem").textContent = "";
  document.body.setAttribute("aria-busy", "true");
  try {
    await action();
  } catch (error) {
    const details = (error.errors ?? []).map(({ pointer, detail }) => `${pointer}: ${detail}`).join("; ");
    $("problem").textContent = [error.message, details].filter(Boolean).join(" - ");
  }
  await showState();
  document.body.removeAttribute("aria-busy");
}

/** Run an action only if this browser is subscribed. */
const runIfSubscribed = (action) => run(async () => (await push.state()) === "subscribed" && action());

async function selectedLocation() {
  const choice = $("place").value;
  if (!choice) return undefined;
  if (choice === "here") {
    const { coords } = await new Promise((resolve, reject) => {
      navigator.geolocation.getCurrentPosition(resolve, reject);
    });
    return { lat: coords.latitude, lon: coords.longitude, accuracy_m: coords.accuracy };
  }
  const [lat, lon] = choice.split(",").map(Number);
  return { lat, lon };
}

function logMessage({ event, title, action, reported }) {
  const line = document.createElement("li");
  line.dataset.event = event;
  const time = new Date().toLocaleTimeString();
  const parts = [
    ["span", event],
    ["b", action ? `${title} (${action})` : title],
    ["span", `${time} · ${reported ? "receipt accepted" : "no receipt"}`],
  ];
  for (const [tag, text] of parts) line.append(Object.assign(document.createElement(tag), { textContent: text }));
  $("nothing").hidden = true;
  $("log").prepend(line);
  if ($("log").childElementCount > MAX_LOG_LINES) $("log").lastElementChild.remove();
}

async function subscribe() {
  const topics = topicBoxes.filter((box) => box.checked).map((box) => box.value);
  // The browser shows the permission prompt only shortly after a click, so the location prompt comes second.
  const isHere = $("place").value === "here";
  const place = isHere ? undefined : await selectedLocation();
  await push.subscribe({ userId: $("user").value.trim() || undefined, topics, location: place });
  if (isHere) await push.location.set(await selectedLocation());
}

if (!push) {
  $("state").textContent = "No key";
  $("explanation").textContent = "Open this page with the application's publishable key: /sample/#key=pk_...";
} else {
  for (const kind of ["message", "click", "dismiss"]) push.on(kind, logMessage);
  $("subscribe").addEventListener("click", () => run(subscribe));
  $("unsubscribe").addEventListener("click", () => run(() => push.unsubscribe()));
  for (const box of topicBoxes) {
    box.addEventListener("change", () => runIfSubscribed(() => push.topics[box.checked ? "add" : "remove"](box.value)));
  }
  $("place").addEventListener("change", () => {
    if ($("place").value) runIfSubscribed(async () => push.location.set(await selectedLocation()));
  });
  addEventListener("hashchange", () => location.reload());
  await showState();
}
