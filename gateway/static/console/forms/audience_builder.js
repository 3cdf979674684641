/** Build an audience from conditions and count its devices. Other audiences are edited as JSON. */

import { get, post } from "../lib/api.js";
import { actionBar, button, controlOf, element, field } from "../lib/elements.js";
import { formatQuantity } from "../lib/format.js";
import { debounce, latestOnly } from "../lib/updates.js";

// By kind of condition: label, placeholder (null if the condition has no value), and the audience for a value.
const CONDITIONS = {
  everyone: ["All devices", null, () => ({ everyone: true })],
  topic: ["Topic is", "weather", (value) => ({ topic: value })],
  segment: ["Segment is", "seg_…", (value) => ({ segment: value })],
  user_id: ["User ID is", "u-42", (value) => ({ user_id: value })],
  device_id: ["Device ID is", "dev_…", (value) => ({ device_id: value })],
  attribute: ["Attribute", "plan = pro", parseAttribute],
  locale: ["Language is", "de", (value) => ({ locale: value })],
  platform: ["Platform is", "android", (value) => ({ platform: value })],
  browser: ["Browser is", "Firefox", (value) => ({ browser: value })],
  zone: ["Alert zone is", "TXC201", (value) => ({ zone: value })],
};
const CONDITION_OPTIONS = Object.entries(CONDITIONS).map(([value, [text]]) => ({ value, text }));
const MATCH_OPTIONS = [
  { value: "all", text: "All conditions" },
  { value: "any", text: "Any condition" },
];
const OPERATORS = { "=": "eq", "!=": "ne", "<": "lt", "<=": "lte", ">": "gt", ">=": "gte" };
const COMPARISON = /^\s*([^\s=<>!]+)\s*(<=|>=|!=|=|<|>)\s*(.+?)\s*$/;
// Conditions whose values are suggested from a list.
const SUGGESTIONS = { topic: "topics", segment: "segments" };
const MAX_EXAMPLES = 3;

/** Parse a comparison such as "plan = pro". A name without an operator means that the attribute exists. */
function parseAttribute(text) {
  const match = COMPARISON.exec(text);
  if (!match) return { attribute: text.trim(), exists: true };
  const [, name, operator, operand] = match;
  return { attribute: name, [OPERATORS[operator]]: parseOperand(operand) };
}

function parseOperand(text) {
  if (text === "true" || text === "false") return text === "true";
  return Number.isNaN(Number(text)) ? text : Number(text);
}

/** Compare two JSON values; the order of an object's names does not matter. */
export function isSameValue(value, other) {
  const sortNames = (_, part) => {
    const isObject = part && typeof part === "object" && !Array.isArray(part);
    return isObject ? Object.fromEntries(Object.entries(part).sort()) : part;
  };
  return JSON.stringify(value, sortNames) === JSON.stringify(other, sortNames);
}

/** Return the kind and the text from which CONDITIONS builds this condition. */
function describeCondition(condition) {
  const { attribute, ...rest } = condition;
  if (attribute === undefined) {
    const [[kind, value]] = Object.entries(rest);
    return [kind, value === true ? "" : value];
  }
  if (rest.exists === true) return ["attribute", attribute];
  const [[operator, operand]] = Object.entries(rest);
  const sign = Object.keys(OPERATORS).find((name) => OPERATORS[name] === operator);
  return ["attribute", `${attribute} ${sign} ${operand}`];
}

/** Returns {node, read()}; `read` returns null for an empty audience and throws when the JSON is not valid. */
export function audienceBuilder({ initial, signal }) {
  const size = element("p", { className: "audience-size", "aria-live": "polite" }, "…");
  const sizeDetails = element("small", {});
  const rows = element("div", { className: "form" });
  const match = field("Match", "match", { options: MATCH_OPTIONS });
  const json = field("Audience as JSON", "json", { type: "textarea", className: "code", rows: 5 });
  const jsonInput = controlOf(json);
  const topics = element("datalist", { id: "topics" });
  const segments = element("datalist", { id: "segments" });
  const jsonEditor = element("details", {}, element("summary", {}, "Edit as JSON"), json);
  let isJson = Boolean(initial);

  function addRow(kind = "topic", text = "") {
    const condition = field("Condition", "condition", { options: CONDITION_OPTIONS, value: kind });
    const value = field("Value", "value", { value: text });
    const remove = () => {
      row.remove();
      onChange();
    };
    const row = element(
      "div",
      { className: "condition" },
      condition,
      value,
      button("×", remove, { "aria-label": "Remove condition" }),
    );
    const update = () => {
      const [, placeholder] = CONDITIONS[controlOf(condition).value];
      value.hidden = placeholder === null;
      controlOf(value).placeholder = placeholder ?? "";
      const suggestions = SUGGESTIONS[controlOf(condition).value];
      if (suggestions) controlOf(value).setAttribute("list", suggestions);
      else controlOf(value).removeAttribute("list");
    };
    condition.addEventListener("change", update);
    update();
    rows.append(row);
  }

  function readConditions() {
    const conditions = [...rows.children].map((row) => {
      const kind = row.querySelector("select").value;
      const text = row.querySelector("input").value.trim();
      const [, placeholder, toAudience] = CONDITIONS[kind];
      return text || placeholder === null ? toAudience(text) : null;
    });
    const filled = conditions.filter(Boolean);
    if (!filled.length) return null;
    return filled.length === 1 ? filled[0] : { [controlOf(match).value]: filled };
  }

  function read() {
    if (!isJson) return readConditions();
    const text = jsonInput.value.trim();
    if (!text) return null;
    try {
      return JSON.parse(text);
    } catch {
      throw new Error("The audience is not valid JSON.");
    }
  }

  async function describeAudience() {
    try {
      const audience = read();
      if (!audience) return ["Add at least one condition."];
      if (JSON.stringify(audience).includes('"from_event"')) return ["Resolved when the event occurs."];
      const { devices, users, sample } = await post("/v1/audiences/preview", { audience });
      const names = sample.slice(0, MAX_EXAMPLES).map((device) => device.user_id ?? device.browser ?? device.id);
      const examples = names.length ? `, for example ${names.join(", ")}` : "";
      return [formatQuantity(devices, "device"), `${formatQuantity(users, "known user")}${examples}`];
    } catch (error) {
      return [error.message];
    }
  }
  const showSize = ([text, details = ""]) => {
    size.textContent = text;
    sizeDetails.textContent = details;
  };
  const updateSize = debounce(latestOnly(describeAudience, showSize, signal));

  function onChange() {
    match.hidden = rows.children.length < 2;
    if (!isJson) jsonInput.value = JSON.stringify(readConditions(), null, 1);
    updateSize();
  }
  function onConditionsChange() {
    isJson = false;
    onChange();
  }

  /** Show the initial audience as conditions when they can represent it, otherwise as JSON. */
  function loadInitial() {
    jsonInput.value = JSON.stringify(initial, null, 1);
    controlOf(match).value = initial.any ? "any" : "all";
    const conditions = initial.all ?? initial.any ?? [initial];
    const isList = Array.isArray(conditions) && conditions.every((part) => part && Object.keys(part).length);
    for (const [kind, text] of isList ? conditions.map(describeCondition) : [])
      if (kind in CONDITIONS) addRow(kind, text);
    isJson = !isSameValue(readConditions(), initial);
    jsonEditor.open = isJson;
    if (isJson) rows.replaceChildren();
  }

  jsonInput.addEventListener("input", () => {
    isJson = true;
    updateSize();
  });
  const add = button("Add condition", () => {
    addRow();
    onConditionsChange();
  });
  const node = element(
    "fieldset",
    { className: "audience" },
    element("legend", {}, "Audience"),
    match,
    rows,
    topics,
    segments,
    actionBar(add),
    jsonEditor,
    element("div", {}, size, sizeDetails),
  );
  for (const name of ["input", "change"])
    node.addEventListener(name, (event) => {
      if (!json.contains(event.target)) onConditionsChange();
    });
  if (initial) loadInitial();
  else addRow();
  onChange();
  suggest("topics", topics, ({ topic, devices }) => [topic, formatQuantity(devices, "device")]);
  suggest("segments", segments, ({ id, name }) => [id, name]);
  return { node, read };
}

/** Fill a datalist with items of the API. If the key may not list them, there are no suggestions. */
function suggest(resource, datalist, describe) {
  get(`/v1/${resource}?limit=200`).then(
    ({ items }) => {
      const options = items.map((item) => {
        const [value, text] = describe(item);
        return element("option", { value }, text);
      });
      datalist.append(...options);
    },
    () => {},
  );
}
