/**
 * Controls of form fields.
 *
 * A control is a function of the field's description, its value and the context of the page. It returns {node, read()},
 * and `read` returns undefined while the control is empty. A value that a control cannot represent exactly is shown as
 * JSON.
 */

import { Problem } from "../lib/api.js";
import { controlOf, element, field, textOf } from "../lib/elements.js";
import { UNITS } from "../lib/format.js";
import { audienceBuilder, isSameValue } from "./audience_builder.js";
import { conditionControl } from "./condition_control.js";
import { buttonsControl, translationsControl, variantsControl } from "./content_controls.js";
import { recurrenceControl, scheduleControl, toLocalTime } from "./schedule_controls.js";

export const LOCAL_TIME_ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone ?? "UTC";
const TIME_ZONES = [
  { value: "device", text: "Time zone of each device" },
  ...new Set(["UTC", ...(Intl.supportedValuesOf?.("timeZone") ?? [])]),
];

/** One input, select or text area. `control` is the type of the input; `options` may depend on the context. */
export function inputControl(description, value, context) {
  const {
    label,
    pointer,
    control = "text",
    options,
    required,
    default: initial,
    requires,
    createOnly,
    ...attributes
  } = description;
  const current = value ?? initial;
  let items = typeof options === "function" ? options(context) : options;
  const isListed = items?.some((option) => (option.value ?? option) === current);
  if (items && current !== undefined && !isListed) items = [...items, current];
  const isCheckbox = control === "checkbox";
  const node = field(label, pointer, {
    ...attributes,
    type: control,
    options: items,
    required: isCheckbox ? undefined : required,
    value: current,
  });
  const read = () => {
    if (isCheckbox) return controlOf(node).checked;
    if (!textOf(node)) return undefined;
    return control === "number" ? Number(textOf(node)) : textOf(node);
  };
  return { node, read };
}

/** An input whose text differs from the value: `toInput` and `fromInput` are each other's inverse. */
function convertedControl(description, value, toInput, fromInput) {
  const { node, read } = inputControl(description, value === undefined ? undefined : toInput(value));
  return { node, read: () => (read() === undefined ? undefined : fromInput(read())) };
}

/** A duration in seconds, entered as a number and a unit. */
function durationControl({ label, pointer, required, placeholder, hint, default: initial }, value) {
  const current = value ?? initial;
  const [unit] = UNITS.find(([seconds]) => current && current % seconds === 0) ?? UNITS[2];
  const number = field(label, pointer, {
    type: "number",
    min: 0,
    step: "any",
    required,
    placeholder,
    hint,
    value: current === undefined ? undefined : current / unit,
  });
  const options = UNITS.map(([seconds, name]) =>
    element("option", { value: seconds, selected: seconds === unit }, name),
  );
  const unitSelect = element("select", { "aria-label": `${label}: unit` }, options);
  const read = () => (textOf(number) ? Math.round(Number(textOf(number)) * Number(unitSelect.value)) : undefined);
  return { node: element("div", { className: "duration" }, number, unitSelect), read };
}

function listControl(description, value) {
  const split = (text) =>
    text
      .split(",")
      .map((item) => item.trim())
      .filter(Boolean);
  return convertedControl({ ...description, control: "text" }, value, (items) => items.join(", "), split);
}

function timeZoneControl(description, value) {
  return inputControl({ ...description, control: "text", options: TIME_ZONES }, value);
}

/** A share between 0 and 1, entered in percent. */
function percentControl(description, value) {
  const toPercent = (share) => Math.round(share * 1e6) / 1e4;
  const toShare = (percent) => Math.round(percent * 1e4) / 1e6;
  return convertedControl({ ...description, control: "number", step: "any" }, value, toPercent, toShare);
}

function dateTimeControl(description, value) {
  const toUtc = (text) => new Date(text).toISOString();
  return convertedControl({ ...description, control: "datetime-local" }, value, toLocalTime, toUtc);
}

/** An audience. With `defaultAudience` ({text, value}) the conditions are hidden while the default is selected. */
function audienceControl({ pointer, defaultAudience }, value, { signal }) {
  const isDefault = defaultAudience && (value === undefined || isSameValue(value, defaultAudience.value));
  const builder = audienceBuilder({ initial: isDefault ? undefined : value, signal });
  const readBuilder = () => {
    try {
      return builder.read() ?? undefined;
    } catch (error) {
      throw Problem.of([{ pointer, detail: error.message }]);
    }
  };
  if (!defaultAudience) return { node: builder.node, read: readBuilder };
  const options = [
    { value: "", text: defaultAudience.text },
    { value: "other", text: "Another audience" },
  ];
  const choice = field("Send to", "audience", { options, value: isDefault ? "" : "other" });
  const update = () => {
    builder.node.hidden = !textOf(choice);
  };
  choice.addEventListener("change", update);
  update();
  return {
    node: element("div", { className: "form" }, choice, builder.node),
    read: () => (textOf(choice) ? readBuilder() : value && defaultAudience.value),
  };
}

export const CONTROLS = {
  audience: audienceControl,
  buttons: buttonsControl,
  condition: conditionControl,
  datetime: dateTimeControl,
  duration: durationControl,
  list: listControl,
  percent: percentControl,
  recurrence: recurrenceControl,
  schedule: scheduleControl,
  timezone: timeZoneControl,
  translations: translationsControl,
  variants: variantsControl,
};
