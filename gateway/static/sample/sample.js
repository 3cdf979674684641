/** The sample app: what a web page does with the SDK, and nothing more. */

import { init } from "/sdk/webpush.js";

const LONGEST_LOG = 100;
const STATES = {
  unsupported: ["Not supported", "This browser has no Web Push."],
  "needs-install": [
    "Add to home screen",
    "On an iPhone or iPad, add the page to the home screen first, and open it there.",
  ],
  denied: ["Blocked", "Notifications are blocked for this page. Allow them in the browser's site settings."],
  ready: ["Off", "Turn notifications on to register this browser with the gateway."],
  subscribed: ["On", "This browser is registered. Alerts and campaigns can reach it, even with this page closed."],
};

const $ = (id) => document.getElementById(id);
const topics = [...document.querySelectorAll("#topics input")];
const key = new URLSearchParams(location.hash.slice(1)).get("key") ?? new URLSearchParams(location.search).get("key");
const push = key?.startsWith("pk_")
  ? init({ gateway: location.origin, key, serviceWorker: "/sample/service-worker.js" })
  : null;

async function show() {
  const state = await push.state();
  const [word, sentence] = STATES[state];
  $("state").textContent = word;
  $("state").dataset.state = state;
  $("explain").textContent = sentence;
  $("subscribe").disabled = state === "unsupported" || state === "denied";
  $("subscribe").textContent = state === "subscribed" ? "Register again" : "Turn notifications on";
  $("unsubscribe").disabled = state !== "subscribed";
  const device = state === "subscribed" ? await push.device() : null;
  $("details").hidden = !device;
  if (!device) return;
  $("device").textContent = device.id;
  const registration = await navigator.serviceWorker.getRegistration("/sample/");
  $("host").textContent = new URL((await registration.pushManager.getSubscription()).endpoint).host;
  for (const box of topics) box.checked = device.topics.includes(box.value);
}

/** Run one thing the user asked for; what goes wrong is said on the page. */
async function attempt(task) {
  $("problem").textContent = "";
  document.body.setAttribute("aria-busy", "true");
  try {
    await task();
  } catch (error) {
    const faults = (error.errors ?? []).map(({ pointer, detail }) => `${pointer}: ${detail}`).join("; ");
    $("problem").textContent = [error.message, faults].filter(Boolean).join(" - ");
  }
  await show();
  document.body.removeAttribute("aria-busy");
}

async function place() {
  const choice = $("place").value;
  if (!choice) return undefined;
  if (choice === "here") {
    const { coords } = await new Promise((found, failed) => navigator.geolocation.getCurrentPosition(found, failed));
    return { lat: coords.latitude, lon: coords.longitude, accuracy_m: coords.accuracy };
  }
  const [lat, lon] = choice.split(",").map(Number);
  return { lat, lon };
}

function heard({ event, title, action, reported }) {
  const line = document.createElement("li");
  line.dataset.event = event;
  const words = ["span", "b", "span"].map((tag) => line.appendChild(document.createElement(tag)));
  words[0].textContent = event;
  words[1].textContent = action ? `${title} (${action})` : title;
  words[2].textContent = `${new Date().toLocaleTimeString()} · ${reported ? "receipt taken" : "no receipt"}`;
  $("nothing").hidden = true;
  $("log").prepend(line);
  if ($("log").childElementCount > LONGEST_LOG) $("log").lastElementChild.remove();
}

if (!push) {
  $("state").textContent = "No key";
  $("explain").textContent = "Open this page with the application's publishable key: /sample/#key=pk_...";
} else {
  for (const kind of ["message", "click", "dismiss"]) push.on(kind, heard);
  $("subscribe").addEventListener("click", () =>
    attempt(async () => {
      const chosen = topics.filter((box) => box.checked).map((box) => box.value);
      // "Where this device is" asks a question of its own; the notification question needs the fresh click.
      const where = $("place").value === "here" ? undefined : await place();
      await push.subscribe({ userId: $("user").value.trim() || undefined, topics: chosen, location: where });
      if ($("place").value === "here") await push.location.set(await place());
    }),
  );
  $("unsubscribe").addEventListener("click", () => attempt(() => push.unsubscribe()));
  const tell = (change) => attempt(async () => (await push.state()) === "subscribed" && change());
  for (const box of topics) {
    box.addEventListener("change", () => tell(() => push.topics[box.checked ? "add" : "remove"](box.value)));
  }
  $("place").addEventListener("change", () => $("place").value && tell(async () => push.location.set(await place())));
  addEventListener("hashchange", () => location.reload());
  await show();
}
