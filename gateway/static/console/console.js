/** Entry point of the console: sign-in, navigation, and one page at a time, named by the part of the URL after `#/`. */

import * as api from "./lib/api.js";
import { $, element, mutedText } from "./lib/elements.js";

const NAVIGATION = [
  [
    "Monitor",
    [
      ["overview", "Overview"],
      ["log", "Delivery log"],
      ["health", "Health"],
    ],
  ],
  [
    "Messages",
    [
      ["campaigns", "Campaigns"],
      ["alerts", "Alerts"],
      ["reminders", "Reminders"],
      ["triggers", "Triggers"],
      ["templates", "Templates"],
    ],
  ],
  [
    "Audience",
    [
      ["devices", "Devices"],
      ["topics", "Topics"],
      ["segments", "Segments"],
      ["categories", "Categories"],
    ],
  ],
  [
    "Settings",
    [
      ["webhooks", "Webhooks"],
      ["feeds", "Alert feeds"],
      ["keys", "API keys"],
      ["audit", "Audit log"],
    ],
  ],
];
const NAMED_RESOURCES = ["topics", "segments", "categories", "templates", "reminders", "triggers", "webhooks", "feeds"];
const MODULES = {
  ...Object.fromEntries(NAMED_RESOURCES.map((page) => [page, "./views/named_resources.js"])),
  alerts: "./views/alerts.js",
  audit: "./views/audit_log.js",
  campaigns: "./views/campaigns.js",
  compose: "./forms/campaign_composer.js",
  devices: "./views/devices.js",
  health: "./views/health.js",
  keys: "./views/api_keys.js",
  log: "./views/delivery_log.js",
  overview: "./views/overview.js",
};
const DEFAULT_PAGE = "overview";
// A page that is not in the navigation marks the link of its parent page.
const PARENT_PAGES = { compose: "campaigns" };

let pageController = new AbortController();
let session = null;

/** Show whether the page receives updates: "live", "reconnecting", "paused", or "off" for a page without updates. */
function showLiveState(state) {
  $("live").dataset.state = state;
  $("live").textContent = state;
}

/** Decode percent-encoded text; return text with an invalid encoding unchanged. */
function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Parse `#/devices/dev_1?x=y` into the page `devices`, the id `dev_1` and the query {x: "y"}. */
function parseLocation() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [page, ...rest] = path.split("/").map(decode);
  return {
    page: page in MODULES ? page : DEFAULT_PAGE,
    id: rest.join("/"),
    query: Object.fromEntries(new URLSearchParams(query)),
  };
}

async function openPage() {
  if (!session) return;
  pageController.abort();
  pageController = new AbortController();
  const { signal } = pageController;
  const { page, id, query } = parseLocation();
  setMenuOpen(false);
  markCurrentLink(PARENT_PAGES[page] ?? page);
  showLiveState("off");
  const body = element("div", { className: "page" }, mutedText("Loading…"));
  $("page").replaceChildren(body);
  document.title = `${$("nav").querySelector("[aria-current]")?.textContent ?? "Push"} · ${session.application}`;
  try {
    const view = await import(MODULES[page]);
    if (!signal.aborted) await view.open(body, { page, id, query, session, signal, live: showLiveState });
  } catch (error) {
    if (signal.aborted) return;
    const message = element("p", { className: "problem", role: "alert" }, error.message);
    const heading = element("h2", {}, "This page could not be loaded");
    body.replaceChildren(element("section", { className: "card" }, heading, message));
  }
}

function markCurrentLink(page) {
  for (const anchor of $("nav").querySelectorAll("a")) {
    if (anchor.hash === `#/${page}`) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  }
}

async function signIn(key) {
  session = await api.signIn(key);
  // Fails when the key lacks the scope that every page needs.
  await api.get("/v1/notifications?limit=1");
  $("sign-in").hidden = true;
  $("console").hidden = false;
  $("application").textContent = session.application;
  $("application").title = `Signed in with key “${session.key}” (${session.scopes.join(", ")})`;
  await openPage();
}

async function signOut(reason = "") {
  pageController.abort();
  session = null;
  $("console").hidden = true;
  $("page").replaceChildren();
  // The request fails if the session has already ended or the gateway is unreachable; the console signs out anyway.
  await api.signOut().catch(() => {});
  $("sign-in").hidden = false;
  showSignInProblem(reason);
  $("key").focus();
}

function showSignInProblem(text) {
  $("sign-in").querySelector(".problem").textContent = text;
}

function setMenuOpen(open) {
  $("nav").classList.toggle("open", open);
  $("menu").setAttribute("aria-expanded", String(open));
}

function setTheme(theme) {
  if (!theme) return;
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // Without storage the choice lasts until the page is closed.
  }
}

function savedTheme() {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null;
  }
}

function buildNavigation() {
  const groups = NAVIGATION.map(([title, pages]) => {
    const links = pages.map(([page, text]) => element("a", { href: `#/${page}` }, text));
    return element("div", {}, element("h2", {}, title), links);
  });
  const documentation = element("div", {}, element("a", { href: "/docs/" }, "Documentation"));
  $("nav").append(...groups, documentation);
}

buildNavigation();
setTheme(savedTheme());
$("menu").addEventListener("click", () => setMenuOpen(!$("nav").classList.contains("open")));
$("theme").addEventListener("click", () => {
  const systemTheme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const current = document.documentElement.dataset.theme ?? systemTheme;
  setTheme(current === "dark" ? "light" : "dark");
});
$("sign-in")
  .querySelector("form")
  .addEventListener("submit", async (event) => {
    event.preventDefault();
    showSignInProblem("");
    try {
      await signIn($("key").value.trim());
      $("key").value = "";
    } catch (error) {
      showSignInProblem(error.message);
    }
  });
$("sign-out").addEventListener("click", () => signOut());
document.addEventListener("session-ended", () => {
  if (session) signOut("Your session has ended. Sign in again.");
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  $("page").focus();
});
addEventListener("hashchange", openPage);
addEventListener("keydown", (event) => {
  if (event.key === "Escape") setMenuOpen(false);
});

// A key in the URL is removed from it immediately, so that it is neither seen nor copied.
const keyFromUrl = new URLSearchParams(location.hash.slice(1)).get("key");
if (keyFromUrl) history.replaceState(null, "", location.pathname + location.search);
signIn(keyFromUrl).catch((error) => {
  if (keyFromUrl) showSignInProblem(error.message);
});
