/** Elements made from values: nothing a user said ever becomes markup. */

export const $ = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";

/** Names with a dash, `role`, `for` and `list` are attributes, all others properties; null children are left out. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null) continue;
    if (key.includes("-") || key === "role" || key === "for" || key === "list" || key === "colspan")
      made.setAttribute(key, value);
    else if (key === "style") Object.assign(made.style, value);
    else if (key === "dataset") Object.assign(made.dataset, value);
    else made[key] = value;
  }
  made.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export function drawn(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.flat());
  return made;
}

const clock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });

/** The time alone for today, else with its day. */
export function when(text) {
  if (!text) return "";
  const date = new Date(text);
  return date.toDateString() === new Date().toDateString() ? clock.format(date) : moment.format(date);
}

export const exactly = (text) => (text ? moment.format(new Date(text)) : "");

export const count = (number) => number.toLocaleString();

export const share = (part, whole) =>
  whole ? `${((100 * part) / whole).toFixed(part === whole || !part ? 0 : 1)} %` : "–";

export function lasting(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 120_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;
  return ms < 7_200_000 ? `${Math.round(ms / 60_000)} min` : `${Math.round(ms / 3_600_000)} h`;
}

export const OUTCOMES = ["accepted", "gone", "rejected", "expired", "cancelled", "skipped"];

/** One bar of what deliveries came to, of `whole` that there will be. */
export function bar(counts, whole) {
  const said =
    OUTCOMES.filter((name) => counts[name])
      .map((name) => `${count(counts[name])} ${name}`)
      .join(", ") || "nothing yet";
  const ended = OUTCOMES.reduce((sum, name) => sum + (counts[name] ?? 0), 0);
  return element(
    "div",
    {
      className: "bar",
      title: said,
      role: "progressbar",
      "aria-label": said,
      "aria-valuenow": whole ? Math.round((100 * ended) / whole) : 0,
    },
    OUTCOMES.filter((name) => counts[name]).map((name) =>
      element("i", { className: name, style: { width: `${(100 * counts[name]) / whole}%` } }),
    ),
  );
}

export const badge = (text) => element("span", { className: `badge ${text}` }, text);

export const heading = (title, ...actions) =>
  element("div", { className: "title" }, element("h2", {}, title), element("div", { className: "orders" }, actions));

export const card = (title, ...children) =>
  element("section", { className: "card", "aria-label": title }, title && element("h3", {}, title), children);

export const soft = (...text) => element("p", { className: "soft" }, text);

export const link = (to, ...text) => element("a", { href: `#/${to}` }, text);

export function button(text, onclick, more = {}) {
  return element("button", { type: "button", onclick, ...more }, text);
}

/** A table whose cells are said by `columns`: [heading, item => cell]. On a phone each row is a little card. */
export function table(columns, items, nothing = "Nothing here yet.") {
  if (!items.length) return soft(nothing);
  return element(
    "div",
    { className: "scroll" },
    element(
      "table",
      {},
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          columns.map(([name]) => element("th", { scope: "col" }, name)),
        ),
      ),
      element(
        "tbody",
        {},
        items.map((item) =>
          element(
            "tr",
            {},
            columns.map(([name, cell]) => element("td", { "data-name": name }, together(cell(item)))),
          ),
        ),
      ),
    ),
  );
}

const together = (said) => (Array.isArray(said) ? element("span", {}, said) : (said ?? ""));

export function facts(pairs) {
  return element(
    "dl",
    {},
    pairs
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]),
  );
}

/** A labelled control: text, number, textarea, select (with `options`) or checkbox. */
export function field(label, name, { type = "text", options, hint, value, ...more } = {}) {
  let control;
  if (options)
    control = element(
      "select",
      { name, ...more },
      options.map((one) => element("option", { value: one.value ?? one }, one.text ?? one)),
    );
  else if (type === "textarea") control = element("textarea", { name, rows: 3, ...more });
  else control = element("input", { name, type, ...more });
  if (type === "checkbox") control.checked = Boolean(value);
  else if (value !== undefined && value !== null) control.value = value;
  const text = [label, hint && element("small", {}, hint)];
  return type === "checkbox"
    ? element("label", { className: "check" }, control, text)
    : element("label", {}, text, control);
}

/** A dialog that is gone once it is closed. */
export function dialog(title, ...children) {
  const made = element(
    "dialog",
    { "aria-label": title },
    element(
      "form",
      {
        method: "dialog",
        onsubmit: (event) => {
          event.preventDefault();
          made.close();
        },
      },
      element("button", { "aria-label": "Close" }, "×"),
    ),
    element("h2", {}, title),
    children,
  );
  made.addEventListener("close", () => made.remove());
  document.body.append(made);
  made.showModal();
  return made;
}

/** Asks before what cannot be undone; the answer is true or false. */
export function sure(question, yes) {
  return new Promise((answer) => {
    let said = false;
    const made = dialog(
      "Are you sure?",
      element("p", {}, question),
      element(
        "div",
        { className: "orders" },
        button(
          yes,
          () => {
            said = true;
            made.close();
          },
          { className: "danger" },
        ),
        button("No, go back", () => made.close()),
      ),
    );
    made.addEventListener("close", () => answer(said));
  });
}

/** Says shortly what came of something. */
export function tell(text, problem = false) {
  const note = element("p", { className: problem ? "bad" : "" }, text);
  $("notes").append(note);
  setTimeout(() => note.remove(), problem ? 9000 : 4000);
}

/** Runs what a button does; it cannot be pressed twice meanwhile, and what goes wrong is said. */
export async function doing(control, work) {
  if (control) control.disabled = true;
  try {
    return await work();
  } catch (error) {
    tell(error.message, true);
    return undefined;
  } finally {
    if (control) control.disabled = false;
  }
}

/** Put other children into a node, and the focus back on the one that stands for the same. */
export function renew(node, ...children) {
  const name = (one) => one.getAttribute("aria-label") ?? one.getAttribute("href") ?? one.textContent;
  const held = node.contains(document.activeElement) && document.activeElement !== node ? document.activeElement : null;
  node.replaceChildren(...children);
  if (held)
    [...node.querySelectorAll(held.tagName)].find((one) => name(one) === name(held))?.focus({ preventScroll: true });
}

/** Does `work` now and again `ms` after it is done, until the page is left; nothing is asked for while nobody looks. */
export function repeating(work, ms, signal) {
  const again = async () => {
    if (signal.aborted) return;
    if (!document.hidden)
      await work().catch((error) => {
        if (!signal.aborted) console.warn(error.message);
      });
    setTimeout(again, ms);
  };
  return again();
}

/** `work` once nothing has been typed for a moment; an older answer never comes after a newer one. */
export function settledTyping(work, ms = 250) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, ms);
  };
}
