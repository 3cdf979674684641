/** A control for a trigger's condition on the properties of an event. */

import { Problem } from "../lib/api.js";
import { actionBar, button, controlOf, element, field, textOf } from "../lib/elements.js";
import { isSameValue } from "./audience_builder.js";

const OPERATORS = [
  ["eq", "is"],
  ["ne", "is not"],
  ["gt", "is greater than"],
  ["gte", "is at least"],
  ["lt", "is less than"],
  ["lte", "is at most"],
  ["contains", "contains"],
  ["in", "is one of"],
  ["exists", "exists"],
  ["absent", "does not exist"],
].map(([value, text]) => ({ value, text }));
const MATCH_OPTIONS = [
  { value: "all", text: "All conditions" },
  { value: "any", text: "Any condition" },
];
const WITHOUT_OPERAND = ["exists", "absent"];

/** Parse a number, a boolean or text. Quotes mark text that looks like a number or boolean. */
function parseScalar(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" ? text : (value ?? text);
  } catch {
    return text;
  }
}

/** The text that `parseScalar` turns into the value. */
const scalarText = (value) =>
  typeof value === "string" && parseScalar(value) === value ? value : JSON.stringify(value);

export function conditionControl(description, value) {
  const match = field("Match", "match", { options: MATCH_OPTIONS, value: value?.any ? "any" : "all" });
  const rows = element("div", { className: "form" });
  const updateMatch = () => {
    match.hidden = rows.children.length < 2;
  };
  const addRow = (condition = {}) => {
    rows.append(conditionRow(condition, updateMatch));
    updateMatch();
  };
  const read = () => {
    const filledRows = [...rows.children].filter((row) => textOf(row.children[0]));
    const conditions = filledRows.map((row) => {
      const [property, operator, operand] = [0, 1, 2].map((n) => textOf(row.children[n]));
      if (WITHOUT_OPERAND.includes(operator)) return { data: property, exists: operator === "exists" };
      const operands = () => operand.split(",").map((item) => parseScalar(item.trim()));
      return { data: property, [operator]: operator === "in" ? operands() : parseScalar(operand) };
    });
    if (!conditions.length) return undefined;
    return conditions.length === 1 ? conditions[0] : { [controlOf(match).value]: conditions };
  };
  const initial = value?.all ?? value?.any ?? (value ? [value] : []);
  for (const condition of initial) addRow(condition ?? {});
  if (value && !isSameValue(read(), value)) return jsonControl({ ...description, label: "Condition as JSON" }, value);
  updateMatch();
  const add = actionBar(button("Add condition", () => addRow()));
  return { node: element("div", { className: "form" }, match, rows, add), read };
}

function conditionRow({ data = "", ...comparison }, onRemoved) {
  const [[name, operand]] = Object.entries(comparison).concat([["eq", ""]]);
  const operator = field("Operator", "operator", {
    options: OPERATORS,
    value: name === "exists" && operand === false ? "absent" : name,
  });
  const property = field("Event property", "property", { value: data, placeholder: "cart.total" });
  const text = Array.isArray(operand) ? operand.map(scalarText).join(", ") : scalarText(operand);
  const value = field("Property value", "value", { value: text, placeholder: "50" });
  const remove = () => {
    row.remove();
    onRemoved();
  };
  const row = element(
    "div",
    { className: "condition with-operator" },
    property,
    operator,
    value,
    button("×", remove, { "aria-label": "Remove condition" }),
  );
  const update = () => {
    value.hidden = WITHOUT_OPERAND.includes(controlOf(operator).value);
  };
  operator.addEventListener("change", update);
  update();
  return row;
}

/** A text area for a value that the other controls cannot represent. */
function jsonControl({ label, pointer }, value) {
  const text = JSON.stringify(value, null, 1);
  const node = field(label, pointer, { type: "textarea", className: "code", rows: 5, value: text });
  const read = () => {
    if (!textOf(node)) return undefined;
    try {
      return JSON.parse(textOf(node));
    } catch {
      throw Problem.of([{ pointer, detail: "This is not valid JSON." }]);
    }
  };
  return { node, read };
}
