/**
 * A polite question before the browser's own, which can be asked only once: who says "not now" here may be asked again
 * later, who says no to the browser never.
 *
 * It takes no focus and covers nothing but a corner; Escape and the second button put it away, and that is remembered.
 */

const REMEMBERED_DAYS = 30;
const WORDS = {
  title: "Shall we tell you?",
  body: "We can send you a notification when there is news. You can stop it at any time.",
  accept: "Yes, please",
  later: "Not now",
  install: "To get notifications here, tap Share, then “Add to Home Screen”, and open the app from there.",
};
const STYLE = `
  :host { all: initial; position: fixed; z-index: 2147483000; inset: auto 1rem 1rem auto; max-width: min(24rem, calc(100vw - 2rem));
    color-scheme: light dark; font: 1rem/1.45 system-ui, sans-serif; }
  section { padding: 1rem 1.1rem; border-radius: .9rem; color: light-dark(#18202b, #e8edf4); background: light-dark(#fff, #19202a);
    border: 1px solid light-dark(#dde2ea, #2b3542); box-shadow: 0 .6rem 2rem rgb(0 0 0 / .18); }
  h2 { margin: 0; font-size: 1rem; }
  p { margin: .35rem 0 0; font-size: .92rem; color: light-dark(#5b6675, #9aa7b7); }
  div { display: flex; flex-wrap: wrap; gap: .5rem; margin-top: .8rem; }
  button { padding: .5rem .9rem; border: 0; border-radius: .6rem; font: inherit; font-size: .92rem; cursor: pointer;
    color: inherit; background: light-dark(#eef1f6, #243040); }
  button.yes { font-weight: 600; color: light-dark(#fff, #0d1422); background: light-dark(#2f5fe0, #7ea2ff); }
  button:focus-visible { outline: 3px solid light-dark(#2f5fe0, #7ea2ff); outline-offset: 2px; }
  @media (prefers-reduced-motion: no-preference) { section { animation: rise .25s ease-out; } }
  @keyframes rise { from { transform: translateY(1rem); opacity: 0; } }
`;

/**
 * Ask, unless there is nothing to ask: answers `subscribed`, `dismissed`, `denied`, or `hidden` where nothing was shown.
 * `push` is what `init` answered, `registration` what `subscribe` takes, `words` replace those above.
 */
export async function ask(push, { registration, words, days = REMEMBERED_DAYS, parent = document.body } = {}) {
  const state = await push.state();
  const installing = state === "needs-install";
  if (state !== "ready" && !installing) return "hidden";
  const until = Number(localStorage.getItem("webpush-asked-until"));
  if (until > Date.now()) return "hidden";
  const remember = () => localStorage.setItem("webpush-asked-until", String(Date.now() + days * 86_400_000));
  const said = { ...WORDS, ...words };
  const { host, accept, later } = shown(said, installing);
  parent.append(host);
  try {
    const yes = await new Promise((resolve) => {
      accept?.addEventListener("click", () => resolve(true));
      later.addEventListener("click", () => resolve(false));
      host.shadowRoot.addEventListener("keydown", ({ key }) => key === "Escape" && resolve(false));
    });
    if (!yes) {
      remember();
      return "dismissed";
    }
    // The click is still fresh: nothing may be awaited before the browser asks.
    await push.subscribe(registration);
    return "subscribed";
  } catch (error) {
    if (error.code === "dismissed") remember();
    if (error.code === "denied" || error.code === "dismissed") return error.code;
    throw error;
  } finally {
    host.remove();
  }
}

function shown(said, installing) {
  const host = document.createElement("webpush-prompt");
  const root = host.attachShadow({ mode: "open" });
  const style = new CSSStyleSheet();
  style.replaceSync(STYLE);
  root.adoptedStyleSheets = [style]; // a page's content policy has no say in these
  const accept = installing ? null : element("button", said.accept, { className: "yes", type: "button" });
  const later = element("button", said.later, { type: "button" });
  const buttons = document.createElement("div");
  buttons.append(...[accept, later].filter(Boolean));
  const section = document.createElement("section");
  section.setAttribute("role", "dialog");
  section.setAttribute("aria-labelledby", "title");
  section.append(
    element("h2", said.title, { id: "title" }),
    element("p", installing ? said.install : said.body),
    buttons,
  );
  root.append(section);
  return { host, accept, later };
}

function element(name, text, attributes) {
  return Object.assign(document.createElement(name), { textContent: text }, attributes);
}
