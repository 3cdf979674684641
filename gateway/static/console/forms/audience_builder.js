/** Who is reached, said with a few controls and counted as it is said; what they cannot say is said in JSON. */

import { get, post } from "../lib/api.js";
import { button, count, element, field, settledTyping } from "../lib/elements.js";

const LEAVES = {
  everyone: ["everyone", null, () => ({ everyone: true })],
  topic: ["has the topic", "weather", (value) => ({ topic: value })],
  segment: ["is in the segment", "seg_…", (value) => ({ segment: value })],
  user_id: ["is the user", "u-42", (value) => ({ user_id: value })],
  device_id: ["is the device", "dev_…", (value) => ({ device_id: value })],
  attribute: ["has the attribute", "plan = pro", attribute],
  locale: ["speaks", "de", (value) => ({ locale: value })],
  platform: ["is on the platform", "android", (value) => ({ platform: value })],
  browser: ["uses the browser", "Firefox", (value) => ({ browser: value })],
  zone: ["is in the zone", "TXC201", (value) => ({ zone: value })],
};
const OPERATORS = { "=": "eq", "!=": "ne", "<": "lt", "<=": "lte", ">": "gt", ">=": "gte" };

function attribute(text) {
  const found = /^\s*([^\s=<>!]+)\s*(<=|>=|!=|=|<|>)\s*(.+?)\s*$/.exec(text);
  if (!found) return { attribute: text.trim(), exists: true };
  const [, name, operator, said] = found;
  const value =
    said === "true"
      ? true
      : said === "false"
        ? false
        : said !== "" && !Number.isNaN(Number(said))
          ? Number(said)
          : said;
  return { attribute: name, [OPERATORS[operator]]: value };
}

/** Whether two values say the same, in whatever order their names came back. */
export function alike(one, other) {
  const ordered = (_, part) =>
    part && typeof part === "object" && !Array.isArray(part) ? Object.fromEntries(Object.entries(part).sort()) : part;
  return JSON.stringify(one, ordered) === JSON.stringify(other, ordered);
}

/** The kind and the text that say a leaf; nothing where none does. */
function spelled(leaf) {
  const { attribute: name, ...compared } = leaf ?? {};
  const [[kind, value]] = Object.entries(name === undefined ? compared : { attribute: name });
  if (name === undefined || compared.exists === true) return [kind, value === true ? "" : value];
  const [[operator, operand]] = Object.entries(compared);
  return [kind, `${name} ${Object.keys(OPERATORS).find((sign) => OPERATORS[sign] === operator)} ${operand}`];
}

/** Answers {node, value()}; `value()` is null while nothing is said, and throws for JSON that is none. */
export function audience({ given, signal }) {
  const reach = element("p", { className: "reach", "aria-live": "polite" }, "…");
  const named = element("small", {});
  const rows = element("div", { className: "form" });
  const how = field("Devices must meet", "how", {
    options: [
      { value: "all", text: "all of these" },
      { value: "any", text: "any of these" },
    ],
  });
  const json = field("Audience, as JSON", "json", { type: "textarea", className: "code", rows: 5 });
  const topics = element("datalist", { id: "topics" });
  const segments = element("datalist", { id: "segments" });
  const expert = element("details", {}, element("summary", {}, "As JSON"), json);
  let spoken = Boolean(given);

  function add(kind = "topic", text = "") {
    const which = field("Whom", "leaf", {
      options: Object.entries(LEAVES).map(([value, [said]]) => ({ value, text: said })),
      value: kind,
    });
    const value = field("Which", "which", { value: text });
    const row = element(
      "div",
      { className: "condition" },
      which,
      value,
      button(
        "×",
        () => {
          row.remove();
          changed();
        },
        { "aria-label": "Remove this condition" },
      ),
    );
    const adapt = () => {
      const [, hint] = LEAVES[which.lastChild.value];
      value.hidden = hint === null;
      value.lastChild.placeholder = hint ?? "";
      const list = { topic: "topics", segment: "segments" }[which.lastChild.value];
      if (list) value.lastChild.setAttribute("list", list);
      else value.lastChild.removeAttribute("list");
    };
    which.addEventListener("change", adapt);
    adapt();
    rows.append(row);
  }
  function built() {
    const leaves = [...rows.children]
      .map((row) => {
        const [kind, text] = [row.querySelector("select").value, row.querySelector("input").value.trim()];
        return LEAVES[kind][1] === null ? { everyone: true } : text ? LEAVES[kind][2](text) : null;
      })
      .filter(Boolean);
    if (!leaves.length) return null;
    return leaves.length === 1 ? leaves[0] : { [how.lastChild.value]: leaves };
  }
  function value() {
    if (!spoken) return built();
    const text = json.lastChild.value.trim();
    if (!text) return null;
    try {
      return JSON.parse(text);
    } catch {
      throw new Error("The audience is not JSON.");
    }
  }
  let asked = 0;
  const counted = settledTyping(async () => {
    const mine = (asked += 1);
    let said = "Say who.";
    let some = "";
    try {
      const who = value();
      if (JSON.stringify(who)?.includes('"from_event"')) said = "Known once it happens.";
      else if (who) {
        const { devices, users, sample } = await post("/v1/audiences/preview", { audience: who });
        said = `${count(devices)} ${devices === 1 ? "device" : "devices"}`;
        some = `of ${count(users)} known users${
          sample.length
            ? `, such as ${sample
                .slice(0, 3)
                .map((one) => one.user_id ?? one.browser ?? one.id)
                .join(", ")}`
            : ""
        }`;
      }
    } catch (error) {
      said = error.message;
    }
    if (mine !== asked || signal.aborted) return;
    reach.textContent = said;
    named.textContent = some;
  });
  function changed() {
    how.hidden = rows.children.length < 2;
    if (!spoken) json.lastChild.value = JSON.stringify(built(), null, 1);
    counted();
  }
  json.addEventListener("input", () => {
    spoken = true;
    counted();
  });
  const node = element(
    "fieldset",
    { className: "audience" },
    element("legend", {}, "Audience"),
    how,
    rows,
    topics,
    segments,
    element(
      "div",
      { className: "orders" },
      button("And …", () => {
        spoken = false;
        add();
        changed();
      }),
    ),
    expert,
    element("div", {}, reach, named),
  );
  for (const event of ["input", "change"]) {
    node.addEventListener(event, (at) => {
      if (!json.contains(at.target)) {
        spoken = false;
        changed();
      }
    });
  }
  if (given) {
    json.lastChild.value = JSON.stringify(given, null, 1);
    how.lastChild.value = given.any ? "any" : "all";
    const leaves = given.all ?? given.any ?? [given];
    for (const [kind, text] of Array.isArray(leaves) && leaves.every((leaf) => leaf && Object.keys(leaf).length)
      ? leaves.map(spelled)
      : [])
      if (kind in LEAVES) add(kind, text);
    spoken = !alike(built(), given);
    expert.open = spoken;
    if (spoken) rows.replaceChildren();
  } else add();
  changed();
  get("/v1/topics?limit=200").then(
    ({ items }) =>
      topics.append(...items.map((one) => element("option", { value: one.topic }, `${count(one.devices)} devices`))),
    () => {},
  );
  get("/v1/segments?limit=200").then(
    ({ items }) => segments.append(...items.map((one) => element("option", { value: one.id }, one.name))),
    () => {},
  );
  return { node, value };
}
