/** The console: sign in with a secret key, then one page at a time, named by the address after the `#/`. */

import * as api from "./lib/api.js";
import { $, element, soft } from "./lib/elements.js";

const PAGES = [
  [
    "Watch",
    [
      ["overview", "Overview"],
      ["log", "Delivery log"],
      ["health", "Health"],
    ],
  ],
  [
    "Send",
    [
      ["campaigns", "Campaigns"],
      ["alerts", "Alerts"],
      ["reminders", "Reminders"],
      ["triggers", "Triggers"],
      ["templates", "Templates"],
    ],
  ],
  [
    "People",
    [
      ["devices", "Devices"],
      ["topics", "Topics"],
      ["segments", "Segments"],
      ["categories", "Categories"],
    ],
  ],
  [
    "Connect",
    [
      ["webhooks", "Webhooks"],
      ["feeds", "Alert feeds"],
      ["keys", "Keys"],
      ["audit", "Audit log"],
    ],
  ],
];
/** Pages whose module is not named after them. */
const MODULES = {
  log: "views/delivery_log",
  keys: "views/api_keys",
  audit: "views/audit_log",
  compose: "forms/campaign_composer",
  ...Object.fromEntries(
    ["reminders", "triggers", "templates", "topics", "segments", "categories", "webhooks", "feeds"].map((page) => [
      page,
      "views/resources",
    ]),
  ),
};
const KNOWN = new Set([...PAGES.flatMap(([, pages]) => pages.map(([name]) => name)), "compose"]);

let leaving = new AbortController();
let session = null;

function live(state) {
  $("live").dataset.state = state;
  $("live").textContent = state;
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** `#/devices/dev_1?x=y` is the page `devices`, of dev_1, with x. */
function address() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [page, ...rest] = path.split("/").map(decoded);
  return {
    page: KNOWN.has(page) ? page : "overview",
    id: rest.join("/"),
    query: Object.fromEntries(new URLSearchParams(query)),
  };
}

async function open() {
  if (!session) return;
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const { page, id, query } = address();
  menu(false);
  for (const link of $("nav").querySelectorAll("a")) {
    if (link.hash === `#/${page === "compose" ? "campaigns" : page}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  live("off");
  const main = $("page");
  const body = element("div", { className: "page" }, soft("Loading…"));
  main.replaceChildren(body);
  document.title = `${$("nav").querySelector("[aria-current]")?.textContent ?? "Push"} · ${session.application}`;
  try {
    const module = await import(`./${MODULES[page] ?? `views/${page}`}.js`);
    if (!signal.aborted) await module.open(body, { page, id, query, session, signal, live });
  } catch (error) {
    if (signal.aborted) return;
    body.replaceChildren(
      element(
        "section",
        { className: "card" },
        element("h2", {}, "This could not be shown"),
        element("p", { className: "problem", role: "alert" }, error.message),
      ),
    );
  }
}

async function signIn(key) {
  session = await api.signIn(key);
  await api.call("GET", "/v1/notifications?limit=1"); // whether this key may see them
  $("sign-in").hidden = true;
  $("console").hidden = false;
  $("application").textContent = session.application;
  $("application").title = `key ${session.key}, which may ${session.scopes.join(", ")}`;
  await open();
}

async function signOut(why = "") {
  leaving.abort();
  session = null;
  $("console").hidden = true;
  $("page").replaceChildren();
  await api.signOut().catch(() => {}); // it is over already, or the gateway is away
  $("sign-in").hidden = false;
  $("sign-in").querySelector(".problem").textContent = why;
  $("key").focus();
}

function menu(shown) {
  $("nav").classList.toggle("shown", shown);
  $("menu").setAttribute("aria-expanded", String(shown));
}

function theme(chosen) {
  if (chosen) document.documentElement.dataset.theme = chosen;
  try {
    if (chosen) localStorage.setItem("theme", chosen);
  } catch {
    // A browser that keeps nothing asks each time.
  }
}

$("nav").append(
  ...PAGES.map(([title, pages]) =>
    element(
      "div",
      {},
      element("h2", {}, title),
      pages.map(([name, text]) => element("a", { href: `#/${name}` }, text)),
    ),
  ),
  element("div", {}, element("a", { href: "/docs/" }, "Documentation")),
);
$("menu").addEventListener("click", () => menu(!$("nav").classList.contains("shown")));
$("theme").addEventListener("click", () => {
  const now =
    document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  theme(now === "dark" ? "light" : "dark");
});
$("sign-in")
  .querySelector("form")
  .addEventListener("submit", async (event) => {
    event.preventDefault();
    const problem = $("sign-in").querySelector(".problem");
    problem.textContent = "";
    await signIn($("key").value.trim()).then(
      () => {
        $("key").value = "";
      },
      (error) => {
        problem.textContent = error.message;
      },
    );
  });
$("sign-out").addEventListener("click", () => signOut());
document.addEventListener("session-over", () => session && signOut("Your session is over: sign in again."));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  $("page").focus();
});
addEventListener("hashchange", open);
addEventListener("keydown", (event) => {
  if (event.key === "Escape") menu(false);
});

try {
  theme(localStorage.getItem("theme"));
} catch {
  // As above.
}
// A key in the address is taken out of it at once, before anybody looks over a shoulder or copies the address.
const given = new URLSearchParams(location.hash.slice(1)).get("key");
if (given) history.replaceState(null, "", location.pathname + location.search);
signIn(given).catch((error) => {
  if (given) $("sign-in").querySelector(".problem").textContent = error.message;
});
