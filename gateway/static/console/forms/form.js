/**
 * Build a form from descriptions of its fields.
 *
 * The JSON pointer of a field is the location of the value that it edits. An error of the gateway has a pointer too,
 * and is shown at the field with that pointer. Values without a field stay unchanged. All values can be edited as JSON.
 */

import { Problem } from "../lib/api.js";
import { button, controlOf, element, field, textOf } from "../lib/elements.js";
import { CONTROLS, inputControl } from "./controls.js";

const stepsOf = (pointer) => pointer.split("/").slice(1);
const valueAt = (values, pointer) => stepsOf(pointer).reduce((part, step) => part?.[step], values);
const isWithin = (pointer, outer) => pointer === outer || pointer.startsWith(`${outer}/`);

/** Set the value at a pointer. Undefined removes the value, and then each parent object that is left empty. */
function setValueAt(values, pointer, value) {
  const path = stepsOf(pointer);
  const last = path.pop();
  const parents = [values];
  for (const step of path) {
    const parent = parents.at(-1);
    if (parent[step] === undefined && value === undefined) return;
    parent[step] ??= {};
    parents.push(parent[step]);
  }
  if (value !== undefined) parents.at(-1)[last] = value;
  else if (last in parents.at(-1)) {
    delete parents.at(-1)[last];
    for (let n = path.length; n > 0 && !Object.keys(parents[n]).length; n -= 1) delete parents[n - 1][path[n - 1]];
  }
}

/**
 * Build a form that edits a copy of `initial`.
 *
 * `fields` are {pointer, label, control, required, default, requires} with the attributes of the control,
 * {row: fields}, or {group: title, fields, collapsed}. `requires` is the pointer of another field: while that field has
 * no value, this one has none.
 *
 * Returns {node, modeButton, read(under), readValid(), load(values), showError(error)}. `modeButton` switches between
 * form and JSON.
 */
export function buildForm(fields, initial, context) {
  let original = initial;
  let controls = [];
  let json = null;
  const body = element("div", { className: "form" });
  const problem = element("p", { className: "problem", role: "alert" });
  const modeButton = button("", () => {
    try {
      load(read(), !json);
    } catch (error) {
      showError(error);
    }
  });

  function load(values, asJson = false) {
    original = values;
    controls = [];
    const text = JSON.stringify(values, null, 2);
    json = asJson
      ? field("All values as JSON", "json", { type: "textarea", className: "code", rows: 22, value: text })
      : null;
    body.replaceChildren(...(json ? [json] : fields.map(buildField)));
    modeButton.textContent = asJson ? "Edit as form" : "Edit as JSON";
    problem.textContent = "";
  }

  function buildField(description) {
    if (description.row) return element("div", { className: "field-row" }, description.row.map(buildField));
    if (description.fields) return buildGroup(description);
    const value = valueAt(original, description.pointer) ?? undefined;
    const { node, read: readControl } = (CONTROLS[description.control] ?? inputControl)(description, value, context);
    const errorNode = element("p", { className: "problem", role: "alert" });
    const control = {
      ...description,
      readControl,
      initialValue: value,
      initialText: JSON.stringify(readControl()),
      errorNode,
      node: element("div", { className: "form-field" }, node, errorNode),
    };
    controls.push(control);
    return control.node;
  }

  function buildGroup({ group, fields: members, collapsed }) {
    const controlsBefore = controls.length;
    const nodes = members.map(buildField);
    if (!collapsed) return element("fieldset", {}, element("legend", {}, group), nodes);
    const open = controls.slice(controlsBefore).some(({ initialValue }) => initialValue !== undefined);
    return element("details", { open }, element("summary", {}, group), element("div", { className: "form" }, nodes));
  }

  /** Read the values. With `under`, update only the fields at or below that pointer. */
  function read(under = "") {
    if (json) return parseObject(textOf(json));
    const values = structuredClone(original);
    for (const control of controls.filter(({ pointer }) => isWithin(pointer, under))) {
      const { pointer, readControl, initialValue, initialText, requires } = control;
      const current = readControl();
      // A control may show only part of its initial value, such as a time without seconds. If the user has not changed
      // the control, the initial value is kept.
      const isUnchanged = initialValue !== undefined && JSON.stringify(current) === initialText;
      const isAbsent = requires && valueAt(values, requires) === undefined;
      setValueAt(values, pointer, isAbsent ? undefined : isUnchanged ? initialValue : current);
    }
    return values;
  }

  /** Read the values. Throws a Problem with the pointers of the invalid and missing fields. */
  function readValid() {
    const invalid = controls
      .map(({ pointer, node }) => ({ pointer, detail: invalidInputMessage(node) }))
      .filter(({ detail }) => detail);
    if (invalid.length) throw Problem.of(invalid);
    const values = read();
    const missing = controls.filter(({ required, pointer }) => required && valueAt(values, pointer) === undefined);
    if (missing.length) throw Problem.of(missing.map(({ pointer }) => ({ pointer, detail: "Required." })));
    return values;
  }

  /** Show each fault at the field with its pointer, and the other faults below the form. Null clears all faults. */
  function showError(error) {
    for (const { errorNode, node } of controls) {
      errorNode.textContent = "";
      node.classList.remove("invalid");
    }
    const unassigned = [];
    let firstInvalid = null;
    for (const { pointer, detail } of error?.faults ?? []) {
      const control = controlFor(pointer);
      if (!control) {
        unassigned.push(pointer ? `${pointer}: ${detail}` : detail);
        continue;
      }
      const inner = isWithin(pointer, control.pointer) ? pointer.slice(control.pointer.length + 1) : "";
      const separator = control.errorNode.textContent && "; ";
      control.errorNode.textContent += `${separator}${inner && `${inner}: `}${detail}`;
      control.node.classList.add("invalid");
      openDetailsAround(control.node);
      firstInvalid ??= control.node;
    }
    const message = error && !error.faults?.length ? error.message : unassigned.join("; ");
    problem.textContent = message ?? "";
    if (firstInvalid) controlOf(firstInvalid)?.focus();
  }

  /** The control of the most specific field that contains the pointer; otherwise of a field below the pointer. */
  function controlFor(pointer) {
    const related = controls
      .filter((control) => isWithin(pointer, control.pointer) || isWithin(control.pointer, pointer))
      .sort((a, b) => b.pointer.length - a.pointer.length);
    return related.find((control) => isWithin(pointer, control.pointer)) ?? related.at(-1);
  }

  load(initial);
  return { node: [body, problem], modeButton, read, readValid, load, showError };
}

/** The message of the first visible input that is not valid. */
function invalidInputMessage(node) {
  const inputs = [...node.querySelectorAll("input, select, textarea")];
  const invalid = inputs.find((input) => !input.closest("[hidden]") && !input.checkValidity());
  return invalid?.validity.valueMissing ? "Required." : invalid?.validationMessage;
}

function openDetailsAround(node) {
  for (let details = node.closest("details"); details; details = details.parentElement.closest("details"))
    details.open = true;
}

function parseObject(text) {
  let values;
  try {
    values = JSON.parse(text);
  } catch (error) {
    throw new Problem(`This is not valid JSON: ${error.message}`);
  }
  if (typeof values !== "object" || !values || Array.isArray(values)) throw new Problem("This must be a JSON object.");
  return values;
}
