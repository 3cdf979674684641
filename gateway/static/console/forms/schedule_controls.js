/** Controls for the start of a campaign and for the recurrence of a reminder. */

import { Problem } from "../lib/api.js";
import { controlOf, element, field, textOf } from "../lib/elements.js";

const DAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const REPEAT_OPTIONS = [
  { value: "day", text: "Every day" },
  { value: "workdays", text: "Monday to Friday" },
  { value: "week", text: "Every week" },
  { value: "month", text: "Every month" },
  { value: "cron", text: "Custom (cron expression)" },
];
// The cron expressions that the options other than "cron" can represent. Groups: minute, hour, day of month, days of
// week; the month is always "*".
const SIMPLE_CRON = /^(\d+) (\d+) (\*|\d+) \* (\*|1-5|[0-6](?:,[0-6])*)$/;

/** Convert an RFC 3339 time to the value of a datetime-local input. */
export function toLocalTime(timestamp) {
  const date = new Date(timestamp);
  return new Date(date - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

/** The start of a campaign: immediately, at an instant, or at a local time of each device or of a time zone. */
export function scheduleControl({ pointer }, value) {
  const options = [
    { value: "now", text: "Immediately" },
    { value: "at", text: "At a specific time" },
    { value: "device", text: "At a local time of each device" },
  ];
  if (value?.timezone && value.timezone !== "device")
    options.push({ value: value.timezone, text: `At a local time in ${value.timezone}` });
  const start = field("Start", "start", { options, value: value ? (value.timezone ?? "at") : "now" });
  const time = field("Start time", "at", {
    type: "datetime-local",
    value: value && (value.timezone ? value.at.slice(0, 16) : toLocalTime(value.at)),
  });
  const update = () => {
    time.hidden = controlOf(start).value === "now";
  };
  start.addEventListener("change", update);
  update();
  const read = () => {
    const mode = controlOf(start).value;
    if (mode === "now") return undefined;
    if (!textOf(time)) throw Problem.of([{ pointer, detail: "Choose a start time." }]);
    if (mode === "at") return { at: new Date(textOf(time)).toISOString() };
    return { at: `${textOf(time)}:00`.slice(0, 19), timezone: mode };
  };
  return { node: element("div", { className: "field-row" }, start, time), read };
}

/** A cron expression, entered as an interval and a time if these can represent it. */
export function recurrenceControl({ pointer }, value) {
  const simple = SIMPLE_CRON.exec(value ?? "");
  const initialRepeat = value ? repeatOf(simple) : "day";
  const repeat = field("Repeat", "repeat", { options: REPEAT_OPTIONS, value: initialRepeat });
  const time = field("Time", "time", {
    type: "time",
    value: simple ? `${simple[2].padStart(2, "0")}:${simple[1].padStart(2, "0")}` : "09:00",
  });
  const monthDay = field("Day of the month", "day", {
    type: "number",
    min: 1,
    max: 31,
    value: initialRepeat === "month" ? simple[3] : 1,
  });
  const isSelected = (n) => initialRepeat === "week" && simple[4].split(",").includes(`${n}`);
  const days = DAYS.map((name, n) => field(name, name, { type: "checkbox", value: isSelected(n) }));
  const [sunday, ...otherDays] = days;
  const week = element("div", { className: "days", role: "group", "aria-label": "Days of the week" }, [
    ...otherDays,
    sunday,
  ]);
  const cron = field("Cron expression", "cron", {
    value,
    placeholder: "0 9 * * 1",
    hint: "Minute, hour, day of the month, month, day of the week",
  });
  const update = () => {
    const mode = controlOf(repeat).value;
    time.hidden = mode === "cron";
    monthDay.hidden = mode !== "month";
    week.hidden = mode !== "week";
    cron.hidden = mode !== "cron";
  };
  repeat.addEventListener("change", update);
  update();
  const read = () => {
    const mode = controlOf(repeat).value;
    if (mode === "cron") return textOf(cron) || undefined;
    if (!textOf(time)) throw Problem.of([{ pointer, detail: "Choose a time." }]);
    const [hour, minute] = textOf(time).split(":").map(Number);
    const selected = days.flatMap((day, n) => (controlOf(day).checked ? [n] : []));
    if (mode === "week" && !selected.length) throw Problem.of([{ pointer, detail: "Choose at least one day." }]);
    const dayOfMonth = mode === "month" ? textOf(monthDay) : "*";
    const dayOfWeek = { workdays: "1-5", week: selected.join(",") }[mode] ?? "*";
    return `${minute} ${hour} ${dayOfMonth} * ${dayOfWeek}`;
  };
  const inputs = element("div", { className: "field-row" }, repeat, time, monthDay, cron);
  return { node: element("div", { className: "form" }, inputs, week), read };
}

/** The repeat option for `simple`, a match of SIMPLE_CRON or null. */
function repeatOf(simple) {
  if (!simple || (simple[3] !== "*" && simple[4] !== "*")) return "cron";
  if (simple[3] !== "*") return "month";
  return { "*": "day", "1-5": "workdays" }[simple[4]] ?? "week";
}
