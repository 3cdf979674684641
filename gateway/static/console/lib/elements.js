/** Build DOM elements from values. Text is never parsed as HTML, so text that users enter cannot inject HTML. */

import { formatCount } from "./format.js";

const SVG_NAMESPACE = "http://www.w3.org/2000/svg";
const ATTRIBUTES = new Set(["role", "for", "list", "colspan"]);

/** Delivery outcomes in the order in which charts and bars show them. */
export const OUTCOMES = ["accepted", "gone", "rejected", "expired", "cancelled", "skipped"];
const OUTCOME_HINTS = {
  accepted: "The push service accepted the message",
  gone: "The browser has unsubscribed",
  rejected: "The push service refused the message",
  expired: "The time to live ended before the message was accepted",
  cancelled: "Sending was cancelled",
  skipped: "Opt-outs, caps or quiet hours prevented sending",
};

export const $ = (id) => document.getElementById(id);

const isShown = (child) => child !== null && child !== undefined && child !== false;

/** Create an element. Names with a dash and ATTRIBUTES become attributes, all others properties. */
export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null) continue;
    if (key.includes("-") || ATTRIBUTES.has(key)) node.setAttribute(key, value);
    else if (key === "style") Object.assign(node.style, value);
    else if (key === "dataset") Object.assign(node.dataset, value);
    else node[key] = value;
  }
  node.append(...children.flat(9).filter(isShown));
  return node;
}

export function svgElement(name, attributes = {}, ...children) {
  const node = document.createElementNS(SVG_NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children.flat());
  return node;
}

/** A bar with one segment per outcome that has occurred, its width the share of `total` deliveries. */
export function outcomeBar(counts, total) {
  const present = OUTCOMES.filter((name) => counts[name]);
  const label = present.map((name) => `${formatCount(counts[name])} ${name}`).join(", ") || "no deliveries yet";
  const processed = present.reduce((sum, name) => sum + counts[name], 0);
  const attributes = {
    className: "bar",
    title: label,
    role: "progressbar",
    "aria-label": label,
    "aria-valuenow": total ? Math.round((100 * processed) / total) : 0,
  };
  const segment = (name) => element("i", { className: name, style: { width: `${(100 * counts[name]) / total}%` } });
  return element("div", attributes, present.map(segment));
}

/** Counts of the outcomes that occurred, each a link to the deliveries with that outcome. */
export function outcomeLinks(counts, href) {
  return OUTCOMES.filter((name) => counts[name]).map((name) =>
    element(
      "a",
      { className: `outcome ${name}`, href: href(name), title: OUTCOME_HINTS[name] },
      `${formatCount(counts[name])} ${name}`,
    ),
  );
}

export const outcomeLabel = (outcome) =>
  element("span", { className: `outcome ${outcome}`, title: OUTCOME_HINTS[outcome] ?? "" }, outcome);

export const badge = (text, className = text, title = "") =>
  element("span", { className: `badge ${className}`, title }, text);

export const actionBar = (...actions) => element("div", { className: "actions" }, actions);

/** The heading of a page, with the actions that concern the whole page. */
export const pageHeading = (title, ...actions) =>
  element("div", { className: "title" }, element("h2", {}, title), actionBar(actions));

export const breadcrumbs = (...parts) => element("p", { className: "breadcrumbs" }, parts);

export const card = (title, ...children) =>
  element("section", { className: "card", "aria-label": title }, title && element("h3", {}, title), children);

export const mutedText = (...content) => element("p", { className: "muted" }, content);

export const link = (page, ...content) => element("a", { href: `#/${page}` }, content);

export function button(text, onclick, attributes = {}) {
  return element("button", { type: "button", onclick, ...attributes }, text);
}

/** A table; `columns` are [heading, item => cell]. A narrow screen shows each row as a block. */
export function table(columns, items, emptyText) {
  if (!items.length) return mutedText(emptyText);
  const header = columns.map(([name]) => element("th", { scope: "col" }, name));
  const cell = (item) => {
    return ([name, render]) => {
      const content = render(item);
      const node = Array.isArray(content) ? element("span", {}, content) : (content ?? "");
      return element("td", { "data-name": name }, node);
    };
  };
  return scrollable(
    element(
      "table",
      {},
      element("thead", {}, element("tr", {}, header)),
      element(
        "tbody",
        {},
        items.map((item) => element("tr", {}, columns.map(cell(item)))),
      ),
    ),
  );
}

export const scrollable = (node) => element("div", { className: "scroll" }, node);

/** A definition list of the pairs that have a value. */
export function definitionList(pairs) {
  return element(
    "dl",
    {},
    pairs
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]),
  );
}

/** A labelled control: input, textarea, checkbox, or a select when there are `options`. */
export function field(label, name, { type = "text", options, hint, value, ...attributes } = {}) {
  const control = createControl(name, type, options, attributes);
  if (type === "checkbox") control.checked = Boolean(value);
  else if (value !== undefined && value !== null) control.value = value;
  const text = [label, hint && element("small", {}, hint)];
  if (type === "checkbox") return element("label", { className: "check" }, control, text);
  return element("label", {}, text, control);
}

function createControl(name, type, options, attributes) {
  if (options) {
    const items = options.map((option) => element("option", { value: option.value ?? option }, option.text ?? option));
    return element("select", { name, ...attributes }, items);
  }
  if (type === "textarea") return element("textarea", { name, rows: 3, ...attributes });
  return element("input", { name, type, ...attributes });
}

/** The input, select or textarea of a labelled field. */
export const controlOf = (node) => node.querySelector("input, select, textarea");

/** The trimmed text of a labelled field. */
export const textOf = (node) => controlOf(node).value.trim();

/** The trimmed values of a form's named controls. */
export const formValues = (form) =>
  Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, value.trim()]));
