/**
 * Controls of forms that are more than one input. Each is made of its description, the value there is and the page it is
 * on, and answers {node, read()}; what is read is undefined while nothing is said. A value that the controls cannot say
 * exactly is shown as JSON.
 */

import { Problem } from "../lib/api.js";
import { button, element, field } from "../lib/elements.js";
import { alike, audience } from "./audience_builder.js";

const refuse = (pointer, detail) => {
  throw Problem.of([{ pointer, detail }]);
};
const input = (node) => node.querySelector("input, select, textarea");
const text = (node) => input(node).value.trim();

/** One input, select or text area; `as` is its type. */
export function plain(
  { label, at, as = "text", options, required, placeholder, hint, rows, min, max, step, maxLength, list, value: begin },
  value,
  context,
) {
  const now = value ?? begin;
  let offered = typeof options === "function" ? options(context) : options;
  if (offered && now !== undefined && !offered.some((one) => (one.value ?? one) === now)) offered = [...offered, now];
  const node = field(label, at, {
    type: as,
    options: offered,
    required: as === "checkbox" ? undefined : required,
    placeholder,
    hint,
    rows,
    min,
    max,
    step,
    maxLength,
    list,
    value: now,
  });
  const read = () => {
    if (as === "checkbox") return input(node).checked;
    if (!text(node)) return undefined;
    return as === "number" ? Number(text(node)) : text(node);
  };
  return { node, read };
}

/** A number is shown as another: `shown` and `meant` are each other's inverse. */
const converted = (one, value, shown, meant) => {
  const { node, read } = plain(one, value === undefined ? undefined : shown(value));
  return { node, read: () => (read() === undefined ? undefined : meant(read())) };
};

export const UNITS = [
  [86_400, "days"],
  [3600, "hours"],
  [60, "minutes"],
  [1, "seconds"],
];

function seconds({ label, at, required, placeholder, hint, value: begin }, value) {
  const now = value ?? begin;
  const [unit] = UNITS.find(([one]) => now && now % one === 0) ?? UNITS[2];
  const number = field(label, at, {
    type: "number",
    min: 0,
    step: "any",
    required,
    placeholder,
    hint,
    value: now === undefined ? undefined : now / unit,
  });
  const which = element(
    "select",
    { "aria-label": `${label}: unit` },
    UNITS.map(([one, name]) => element("option", { value: one, selected: one === unit }, name)),
  );
  return {
    node: element("div", { className: "amount" }, number, which),
    read: () => (text(number) ? Math.round(Number(text(number)) * Number(which.value)) : undefined),
  };
}

function local(at) {
  const date = new Date(at);
  return new Date(date - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

const list = (one, value) =>
  converted(
    { ...one, as: "text" },
    value,
    (items) => items.join(", "),
    (said) =>
      said
        .split(",")
        .map((item) => item.trim())
        .filter(Boolean),
  );

const ZONES = [
  { value: "device", text: "where each device is" },
  ...new Set(["UTC", ...(Intl.supportedValuesOf?.("timeZone") ?? [])]),
];
export const HERE = Intl.DateTimeFormat().resolvedOptions().timeZone ?? "UTC";

/** A sending at once, at an instant, or at a time of other clocks. */
function schedule({ at }, value) {
  const options = [
    { value: "now", text: "at once" },
    { value: "at", text: "at a time of mine" },
    { value: "device", text: "at each device’s own time" },
  ];
  if (value?.timezone && value.timezone !== "device")
    options.push({ value: value.timezone, text: `at that time in ${value.timezone}` });
  const start = field("Start", "start", { options, value: value ? (value.timezone ?? "at") : "now" });
  const time = field("At", "at", {
    type: "datetime-local",
    value: value && (value.timezone ? value.at.slice(0, 16) : local(value.at)),
  });
  const adapt = () => {
    time.hidden = input(start).value === "now";
  };
  start.addEventListener("change", adapt);
  adapt();
  const read = () => {
    const how = input(start).value;
    if (how === "now") return undefined;
    if (!text(time)) return refuse(at, "Say at what time it starts.");
    return how === "at"
      ? { at: new Date(text(time)).toISOString() }
      : { at: `${text(time)}:00`.slice(0, 19), timezone: how };
  };
  return { node: element("div", { className: "pair" }, start, time), read };
}

const DAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

/** A cron expression: said as people say it, where it is one of those that come again and again. */
function recurrence({ at }, value) {
  const given = /^(\d+) (\d+) (\*|\d+) \* (\*|1-5|[0-6](?:,[0-6])*)$/.exec(value ?? "");
  const how =
    !given || (given[3] !== "*" && given[4] !== "*")
      ? "cron"
      : given[3] !== "*"
        ? "month"
        : ({ "*": "day", "1-5": "work" }[given[4]] ?? "week");
  const often = field("How often", "often", {
    options: [
      { value: "day", text: "every day" },
      { value: "work", text: "Monday to Friday" },
      { value: "week", text: "every week" },
      { value: "month", text: "every month" },
      { value: "cron", text: "as a cron expression says" },
    ],
    value: value ? how : "day",
  });
  const time = field("At", "time", {
    type: "time",
    value: given ? `${given[2].padStart(2, "0")}:${given[1].padStart(2, "0")}` : "09:00",
  });
  const date = field("On the day", "date", { type: "number", min: 1, max: 31, value: how === "month" ? given[3] : 1 });
  const days = DAYS.map((name, n) =>
    field(name, name, { type: "checkbox", value: how === "week" && given[4].split(",").includes(`${n}`) }),
  );
  const week = element("div", { className: "days", role: "group", "aria-label": "On these days" }, [
    ...days.slice(1),
    days[0],
  ]);
  const cron = field("Minute, hour, day of the month, month, day of the week", "cron", {
    value,
    placeholder: "0 9 * * 1",
  });
  const adapt = () => {
    const now = input(often).value;
    time.hidden = now === "cron";
    date.hidden = now !== "month";
    week.hidden = now !== "week";
    cron.hidden = now !== "cron";
  };
  often.addEventListener("change", adapt);
  adapt();
  const read = () => {
    const now = input(often).value;
    if (now === "cron") return text(cron) || undefined;
    if (!text(time)) return refuse(at, "Say at what time.");
    const [hour, minute] = text(time).split(":").map(Number);
    const on = days.flatMap((day, n) => (input(day).checked ? [n] : []));
    if (now === "week" && !on.length) return refuse(at, "Say on which days.");
    return `${minute} ${hour} ${now === "month" ? text(date) : "*"} * ${{ work: "1-5", week: on.join(",") }[now] ?? "*"}`;
  };
  return {
    node: element("div", { className: "form" }, element("div", { className: "pair" }, often, time, date, cron), week),
    read,
  };
}

/** Whom it is for; with `otherwise` ({text, value}) others than that only when asked for. */
function whom({ at, otherwise }, value, { signal }) {
  const usual = otherwise && (value === undefined || alike(value, otherwise.value));
  const who = audience({ given: usual ? undefined : value, signal });
  const said = () => {
    try {
      return who.value() ?? undefined;
    } catch (error) {
      return refuse(at, error.message);
    }
  };
  if (!otherwise) return { node: who.node, read: said };
  const which = field("Who is told", "who", {
    options: [
      { value: "", text: otherwise.text },
      { value: "others", text: "others" },
    ],
    value: usual ? "" : "others",
  });
  const adapt = () => {
    who.node.hidden = !input(which).value;
  };
  which.addEventListener("change", adapt);
  adapt();
  return {
    node: element("div", { className: "form" }, which, who.node),
    read: () => (input(which).value ? said() : value && otherwise.value),
  };
}

const COMPARISONS = [
  ["eq", "is"],
  ["ne", "is not"],
  ["gt", "is more than"],
  ["gte", "is at least"],
  ["lt", "is less than"],
  ["lte", "is at most"],
  ["contains", "contains"],
  ["in", "is one of"],
  ["exists", "is there"],
  ["absent", "is not there"],
].map(([value, words]) => ({ value, text: words }));

/** A number, true or false, or text; in quotes it is text whatever it looks like. */
function scalar(said) {
  try {
    const value = JSON.parse(said);
    return value !== null && typeof value === "object" ? said : (value ?? said);
  } catch {
    return said;
  }
}
const worded = (value) => (typeof value === "string" && scalar(value) === value ? value : JSON.stringify(value));

/** What the data of an event must be. */
function condition(one, value) {
  const how = field("Only when its data meet", "how", {
    options: [
      { value: "all", text: "all of these" },
      { value: "any", text: "any of these" },
    ],
    value: value?.any ? "any" : "all",
  });
  const rows = element("div", { className: "form" });
  const adapt = () => {
    how.hidden = rows.children.length < 2;
  };
  const add = (leaf = {}) => {
    const { data = "", ...compared } = leaf;
    const [[operator, operand]] = Object.entries(compared).concat([["eq", ""]]);
    const is = operator === "exists" && operand === false ? "absent" : operator;
    const what = field("Of the event’s data", "data", { value: data, placeholder: "cart.total" });
    const by = field("Compared", "by", { options: COMPARISONS, value: is });
    const to = field("With", "with", {
      value: Array.isArray(operand) ? operand.map(worded).join(", ") : worded(operand),
      placeholder: "50",
    });
    const row = element(
      "div",
      { className: "condition three" },
      what,
      by,
      to,
      button(
        "×",
        () => {
          row.remove();
          adapt();
        },
        { "aria-label": "Remove this condition" },
      ),
    );
    const fit = () => {
      to.hidden = ["exists", "absent"].includes(input(by).value);
    };
    by.addEventListener("change", fit);
    fit();
    rows.append(row);
    adapt();
  };
  const read = () => {
    const leaves = [...rows.children]
      .filter((row) => text(row.children[0]))
      .map((row) => {
        const [data, by, to] = [0, 1, 2].map((n) => text(row.children[n]));
        if (by === "exists" || by === "absent") return { data, exists: by === "exists" };
        return { data, [by]: by === "in" ? to.split(",").map((item) => scalar(item.trim())) : scalar(to) };
      });
    if (!leaves.length) return undefined;
    return leaves.length === 1 ? leaves[0] : { [input(how).value]: leaves };
  };
  for (const leaf of value?.all ?? value?.any ?? (value ? [value] : [])) add(leaf ?? {});
  if (value && !alike(read(), value)) return structured({ ...one, label: "Only when, as JSON" }, value);
  adapt();
  return {
    node: element(
      "div",
      { className: "form" },
      how,
      rows,
      element(
        "div",
        { className: "orders" },
        button("Only when …", () => add()),
      ),
    ),
    read,
  };
}

function structured({ label, at }, value) {
  const node = field(label, at, {
    type: "textarea",
    className: "code",
    rows: 5,
    value: JSON.stringify(value, null, 1),
  });
  const read = () => {
    if (!text(node)) return undefined;
    try {
      return JSON.parse(text(node));
    } catch {
      return refuse(at, "This is not JSON.");
    }
  };
  return { node, read };
}

/** What is said of `names` in place of what was; all else of it stays. */
function reworded(before, names) {
  const said = { ...before };
  for (const [name, value] of Object.entries(names)) {
    if (value) said[name] = value;
    else delete said[name];
  }
  return said;
}

/** Content in other languages. */
function locales({ at }, value) {
  const rows = [];
  const node = element("div", { className: "form" });
  const add = (tag = "", content = {}) => {
    const language = field("Language", "language", { value: tag, placeholder: "de, or de-AT", required: true });
    const [title, body, url] = [
      field("Its title", "title", { value: content.title, maxLength: 500 }),
      field("Its text", "body", { type: "textarea", rows: 2, value: content.body }),
      field("Where its click leads", "url", { value: content.url, placeholder: "as above" }),
    ];
    const row = { language, read: () => reworded(content, { title: text(title), body: text(body), url: text(url) }) };
    const shown = element(
      "fieldset",
      {},
      element("div", { className: "pair" }, language, url),
      title,
      body,
      element(
        "div",
        { className: "orders" },
        button("Remove this language", () => {
          shown.remove();
          rows.splice(rows.indexOf(row), 1);
        }),
      ),
    );
    rows.push(row);
    node.lastChild.before(shown);
  };
  node.append(
    element(
      "div",
      { className: "orders" },
      button("Another language", () => add()),
    ),
  );
  for (const [tag, content] of Object.entries(value ?? {})) add(tag, content);
  const read = () => {
    const tags = rows.map(({ language }) => text(language));
    if (new Set(tags).size < tags.length) refuse(at, "A language is there twice.");
    return rows.length ? Object.fromEntries(rows.map((row, n) => [tags[n], row.read()])) : undefined;
  };
  return { node, read };
}

/** The buttons of a message: two fit everywhere. */
function buttons(_, value = []) {
  const rows = [0, 1].map((n) => [
    field(`Button ${n + 1}`, `action${n}`, { value: value[n]?.title }),
    field("leads to", `action${n}_url`, { value: value[n]?.url }),
  ]);
  const read = () => {
    const said = rows
      .map(
        ([title, url], n) =>
          text(title) && reworded({ action: `button-${n + 1}`, ...value[n] }, { title: text(title), url: text(url) }),
      )
      .filter(Boolean)
      .concat(value.slice(2));
    return said.length ? said : undefined;
  };
  return {
    node: element(
      "div",
      { className: "form" },
      rows.map((row) => element("div", { className: "pair" }, row)),
    ),
    read,
  };
}

/** Wordings that are tried beside each other; each says what differs from the campaign's own. */
function variants(_, value) {
  const rows = [];
  const node = element("div", { className: "form" });
  const add = (variant) => {
    const { name = String.fromCharCode(65 + rows.length), content = {}, ...more } = variant;
    const [title, body] = [
      field(`Title of ${name}`, "title", { value: content.title, placeholder: "as above" }),
      field(`Text of ${name}`, "body", { type: "textarea", rows: 2, value: content.body, placeholder: "as above" }),
    ];
    rows.push(() => ({ name, ...more, content: reworded(content, { title: text(title), body: text(body) }) }));
    node.lastChild.before(element("fieldset", {}, title, body));
  };
  node.append(
    element(
      "div",
      { className: "orders" },
      button("Another wording", () => add({})),
    ),
  );
  (value ?? [{}, {}]).forEach(add);
  const read = () => {
    const said = rows.map((row) => row());
    return said.some(({ content }) => Object.keys(content).length) ? said : undefined;
  };
  return { node, read };
}

export const CONTROLS = {
  seconds,
  list,
  schedule,
  recurrence,
  audience: whom,
  condition,
  locales,
  buttons,
  variants,
  zone: (one, value) => plain({ ...one, as: "text", options: ZONES }, value),
  percent: (one, value) =>
    converted(
      { ...one, as: "number", step: "any" },
      value,
      (part) => Math.round(part * 1e6) / 1e4,
      (number) => Math.round(number * 1e4) / 1e6,
    ),
  moment: (one, value) =>
    converted({ ...one, as: "datetime-local" }, value, local, (said) => new Date(said).toISOString()),
};
