/** The console: sign in with a secret key, then what was sent above and every delivery below, live. */

import * as api from "./api.js";
import { $ } from "./elements.js";
import * as deliveries from "./deliveries.js";
import * as notifications from "./notifications.js";

function live(state) {
  $("live").dataset.state = state;
  $("live").textContent = state;
}

async function signIn(key) {
  const session = await api.signIn(key);
  await api.call("GET", "/v1/notifications?limit=1"); // whether this key may see them
  $("sign-in").hidden = true;
  $("console").hidden = false;
  $("sign-out").hidden = false;
  $("application").textContent = `${session.application} ${session.key}`;
  await Promise.all([notifications.refresh(), openLog()]);
}

function openLog() {
  return deliveries.open(live, notifications.soon);
}

async function signOut() {
  deliveries.close();
  notifications.stop();
  live("off");
  $("application").textContent = "";
  $("console").hidden = true;
  $("sign-out").hidden = true;
  await api.signOut().catch(() => {}); // it is over already, or the gateway is away
  $("sign-in").hidden = false;
  $("key").focus();
}

$("sign-in").querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const problem = $("sign-in").querySelector(".problem");
  problem.textContent = "";
  await signIn($("key").value.trim()).then(() => { $("key").value = ""; }, (error) => { problem.textContent = error.message; });
});
$("sign-out").addEventListener("click", signOut);
$("pause").addEventListener("click", () => {
  const paused = $("pause").getAttribute("aria-pressed") !== "true";
  $("pause").setAttribute("aria-pressed", String(paused));
  $("pause").textContent = paused ? "Go on" : "Pause";
  live(paused ? "paused" : "live");
  deliveries.pause(paused);
});
$("filters").addEventListener("change", openLog);
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("filters").addEventListener("reset", () => setTimeout(openLog));
notifications.prepareSending(notifications.refresh);

for (const [name, value] of new URLSearchParams(location.search)) {
  const field = $("filters").elements[name];
  if (field) field.value = value;
}
// A key in the address is taken out of it at once, before anybody looks over a shoulder or copies the address.
const given = new URLSearchParams(location.hash.slice(1)).get("key");
if (given) history.replaceState(null, "", location.pathname + location.search);
signIn(given).catch((error) => { if (given) $("sign-in").querySelector(".problem").textContent = error.message; });
