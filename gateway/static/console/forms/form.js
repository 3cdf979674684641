/**
 * A form made from a description of its fields. Each names by a JSON pointer what it says, so that what the gateway finds
 * wrong is shown at the field it names. What no field shows stays as it is, and all of it may be written as JSON instead.
 */

import { Problem } from "../lib/api.js";
import { button, element, field } from "../lib/elements.js";
import { CONTROLS, plain } from "./controls.js";

const steps = (pointer) => pointer.split("/").slice(1);
const found = (whole, pointer) => steps(pointer).reduce((part, step) => part?.[step], whole);
const inside = (pointer, outer) => pointer === outer || pointer.startsWith(`${outer}/`);

/** Sets what a pointer points at; undefined takes it away, and what is empty without it. */
function put(whole, pointer, value) {
  const path = steps(pointer);
  const last = path.pop();
  const parents = [whole];
  for (const step of path) {
    if (parents.at(-1)[step] === undefined && value === undefined) return;
    parents.push((parents.at(-1)[step] ??= {}));
  }
  if (value !== undefined) parents.at(-1)[last] = value;
  else if (last in parents.at(-1)) {
    delete parents.at(-1)[last];
    for (let n = path.length; n > 0 && !Object.keys(parents[n]).length; n -= 1) delete parents[n - 1][path[n - 1]];
  }
}

/**
 * `fields`: {at, label, as, required, value (at the beginning), beside (another, without which this says nothing)} with
 * the attributes of its control, {row: fields}, or {group: title, fields, folded}. `given`: what there is already. Answers
 * {node, said(under), value(), fill(whole), fail(error)}.
 */
export function form(fields, given, context) {
  let held = given;
  let controls = [];
  let written = null;
  const body = element("div", { className: "form" });
  const problem = element("p", { className: "problem", role: "alert" });
  const other = button("", () => {
    try {
      fill(said(), !written);
    } catch (error) {
      fail(error);
    }
  });

  function fill(whole, asJson = false) {
    held = whole;
    controls = [];
    written = asJson
      ? field("All of it, as JSON", "json", {
          type: "textarea",
          className: "code",
          rows: 22,
          value: JSON.stringify(whole, null, 2),
        })
      : null;
    body.replaceChildren(...(written ? [written] : fields.map(drawn)));
    other.textContent = asJson ? "As a form" : "As JSON";
    problem.textContent = "";
  }
  function drawn(one) {
    if (one.row) return element("div", { className: "pair" }, one.row.map(drawn));
    if (one.fields) {
      const before = controls.length;
      const nodes = one.fields.map(drawn);
      if (!one.folded) return element("fieldset", {}, element("legend", {}, one.group), nodes);
      const open = controls.slice(before).some((each) => each.given !== undefined);
      return element(
        "details",
        { open },
        element("summary", {}, one.group),
        element("div", { className: "form" }, nodes),
      );
    }
    const value = found(held, one.at) ?? undefined;
    const { node, read } = (CONTROLS[one.as] ?? plain)(one, value, context);
    const told = element("p", { className: "problem", role: "alert" });
    const control = {
      ...one,
      read,
      given: value,
      first: JSON.stringify(read()),
      told,
      node: element("div", { className: "asked" }, node, told),
    };
    controls.push(control);
    return control.node;
  }

  function said(under = "") {
    if (written) return parsed(written.lastChild.value);
    const whole = structuredClone(held);
    for (const { at, read, given: before, first, beside } of controls.filter((one) => inside(one.at, under))) {
      const now = read();
      // What is shown may say less than what it was made from: a time without its seconds.
      const value = before !== undefined && JSON.stringify(now) === first ? before : now;
      put(whole, at, beside && found(whole, beside) === undefined ? undefined : value);
    }
    return whole;
  }
  function value() {
    const wrong = controls
      .map(({ at, node }) => ({
        pointer: at,
        detail: [...node.querySelectorAll("input, select, textarea")].find(
          (one) => !one.closest("[hidden]") && !one.checkValidity(),
        )?.validationMessage,
      }))
      .filter(({ detail }) => detail);
    if (wrong.length) throw Problem.of(wrong);
    const whole = said();
    const missing = controls.filter((one) => one.required && found(whole, one.at) === undefined);
    if (missing.length) throw Problem.of(missing.map(({ at }) => ({ pointer: at, detail: "This must be said." })));
    return whole;
  }

  /** Tells each fault at the field it names, what is left at the end; nothing when there is no error. */
  function fail(error) {
    for (const { told, node } of controls) {
      told.textContent = "";
      node.classList.remove("wrong");
    }
    const rest = [];
    let first = null;
    for (const { pointer, detail } of error?.faults ?? []) {
      const near = controls
        .filter(({ at }) => inside(pointer, at) || inside(at, pointer))
        .sort((a, b) => b.at.length - a.at.length);
      const one = near.find(({ at }) => inside(pointer, at)) ?? near.at(-1);
      if (!one) rest.push(pointer ? `${pointer}: ${detail}` : detail);
      else {
        const where = inside(pointer, one.at) ? pointer.slice(one.at.length + 1) : "";
        one.told.textContent += `${one.told.textContent && "; "}${where && `${where}: `}${detail}`;
        one.node.classList.add("wrong");
        for (let folded = one.node.closest("details"); folded; folded = folded.parentElement.closest("details"))
          folded.open = true;
        first ??= one.node;
      }
    }
    problem.textContent = (error && (!error.faults?.length ? error.message : rest.join("; "))) || "";
    first?.querySelector("input, select, textarea")?.focus();
  }

  fill(given);
  return { node: [body, problem], other, said, value, fill, fail };
}

function parsed(text) {
  let whole;
  try {
    whole = JSON.parse(text);
  } catch (error) {
    throw new Problem(`This is not JSON: ${error.message}`);
  }
  if (typeof whole !== "object" || !whole || Array.isArray(whole))
    throw new Problem("This must be an object, in braces.");
  return whole;
}
