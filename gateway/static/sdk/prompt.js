/**
 * A soft prompt before the browser's permission prompt.
 *
 * The browser shows its prompt only once, and a refusal in it is final. A user who chooses "Not now" in the soft prompt
 * can be asked again later. The soft prompt takes no focus and covers only a corner of the page; Escape or "Not now"
 * dismisses it for `days` days.
 */

const DISMISSED_DAYS = 30;
const DAY_MS = 86_400_000;
const DISMISSED_UNTIL = "webpush-dismissed-until";
const WORDS = {
  title: "Get notifications?",
  body: "We can notify you when there is news. You can turn this off at any time.",
  accept: "Allow",
  later: "Not now",
  install: "To get notifications, tap Share, then “Add to Home Screen”, and open the app from there.",
};
const STYLE = `
  :host {
    all: initial; position: fixed; z-index: 2147483000; inset: auto 1rem 1rem auto;
    max-width: min(24rem, calc(100vw - 2rem)); color-scheme: light dark; font: 1rem/1.45 system-ui, sans-serif;
  }
  section {
    padding: 1rem 1.1rem; border-radius: .9rem; color: light-dark(#18202b, #e8edf4);
    background: light-dark(#fff, #19202a); border: 1px solid light-dark(#dde2ea, #2b3542);
    box-shadow: 0 .6rem 2rem rgb(0 0 0 / .18);
  }
  h2 { margin: 0; font-size: 1rem; }
  p { margin: .35rem 0 0; font-size: .92rem; color: light-dark(#5b6675, #9aa7b7); }
  div { display: flex; flex-wrap: wrap; gap: .5rem; margin-top: .8rem; }
  button { padding: .5rem .9rem; border: 0; border-radius: .6rem; font: inherit; font-size: .92rem; cursor: pointer;
    color: inherit; background: light-dark(#eef1f6, #243040); }
  button.accept { font-weight: 600; color: light-dark(#fff, #0d1422); background: light-dark(#2f5fe0, #7ea2ff); }
  button:focus-visible { outline: 3px solid light-dark(#2f5fe0, #7ea2ff); outline-offset: 2px; }
  @media (prefers-reduced-motion: no-preference) { section { animation: rise .25s ease-out; } }
  @keyframes rise { from { transform: translateY(1rem); opacity: 0; } }
`;

/**
 * Show the prompt, and subscribe when the user accepts. Returns `subscribed`, `dismissed`, `denied` or `hidden`.
 * `hidden`: there was no prompt, because none is needed, the user dismissed one recently, or the browser cannot
 * subscribe.
 *
 * `push` is the result of `init`, `registration` the argument of `subscribe`; `words` override the default texts.
 */
export async function ask(push, { registration, words, days = DISMISSED_DAYS, parent = document.body } = {}) {
  const state = await push.state();
  const needsInstall = state === "needs-install";
  if (state !== "ready" && !needsInstall) return "hidden";
  if (Number(localStorage.getItem(DISMISSED_UNTIL)) > Date.now()) return "hidden";
  const saveDismissal = () => localStorage.setItem(DISMISSED_UNTIL, String(Date.now() + days * DAY_MS));
  const { host, accept, later } = createPrompt({ ...WORDS, ...words }, needsInstall);
  parent.append(host);
  try {
    const accepted = await new Promise((resolve) => {
      accept?.addEventListener("click", () => resolve(true));
      later.addEventListener("click", () => resolve(false));
      host.shadowRoot.addEventListener("keydown", ({ key }) => key === "Escape" && resolve(false));
    });
    if (!accepted) {
      saveDismissal();
      return "dismissed";
    }
    // Nothing may be awaited between the click and this call: the browser prompts only while the click is recent.
    await push.subscribe(registration);
    return "subscribed";
  } catch (error) {
    if (error.code === "dismissed") saveDismissal();
    if (error.code === "denied" || error.code === "dismissed") return error.code;
    throw error;
  } finally {
    host.remove();
  }
}

function createPrompt(texts, needsInstall) {
  const host = document.createElement("webpush-prompt");
  const root = host.attachShadow({ mode: "open" });
  const style = new CSSStyleSheet();
  style.replaceSync(STYLE);
  // The page's Content-Security-Policy does not apply to constructed style sheets.
  root.adoptedStyleSheets = [style];
  const accept = needsInstall ? null : element("button", texts.accept, { className: "accept", type: "button" });
  const later = element("button", texts.later, { type: "button" });
  const buttons = document.createElement("div");
  buttons.append(...[accept, later].filter(Boolean));
  const section = document.createElement("section");
  section.setAttribute("role", "dialog");
  section.setAttribute("aria-labelledby", "title");
  const title = element("h2", texts.title, { id: "title" });
  section.append(title, element("p", needsInstall ? texts.install : texts.body), buttons);
  root.append(section);
  return { host, accept, later };
}

function element(name, text, attributes) {
  return Object.assign(document.createElement(name), { textContent: text }, attributes);
}
