/**
 * The pages of what is kept and managed: a list, and a form to make or change one. What differs between them is said by
 * a description each: the columns, the fields, what may be done to one.
 */

import { call, get, post, query } from "./api.js";
import { badge, button, count, dialog, doing, element, field, heading, link, soft, sure, table, tell, when } from "./elements.js";

const json = (label, name, more = {}) => ({ label, name, json: true, ...more });
const text = (label, name, more = {}) => ({ label, name, ...more });
const number = (label, name, more = {}) => ({ label, name, type: "number", ...more });
const NAME = text("Name", "name", { required: true });
const CONTENT = json("Content", "content", { required: true, given: { title: "", body: "", url: "" } });
const AUDIENCE = json("Audience", "audience", { given: { topic: "" }, required: true });
const code = (value) => element("code", {}, JSON.stringify(value));
const named = (one) => element("b", {}, one.name);
const stand = (one) => badge(one.status);
const changed = ["Changed", (one) => when(one.updated_at)];
const pausing = (field) => [
  { text: (one) => (one.status === "active" ? "Pause" : "Resume"), run: (path, one) => call("PATCH", path, field === "paused" ? { paused: one.status === "active" } : { status: one.status === "active" ? "paused" : "active" }) },
];

const RESOURCES = {
  topics: {
    title: "Topics", said: "Devices subscribe to topics by themselves; a topic is there as long as one does.",
    columns: [["Topic", (one) => element("b", {}, one.topic)], ["Devices", (one) => count(one.devices)], ["", (one) => link(`devices${query({ topic: one.topic })}`, "its devices")]],
  },
  segments: {
    title: "Segments", one: "segment", said: "Saved audiences, to be used by name.", may: "manage", fields: [NAME, AUDIENCE],
    columns: [["Name", named], ["Audience", (one) => code(one.audience)], changed, ["", (one) => link(`compose?segment=${one.id}`, "write to it")]],
  },
  categories: {
    title: "Categories", one: "category", said: "Kinds of message that people may opt out of, with rules of their own.", may: "manage",
    fields: [text("Name", "name", { required: true, fixed: true }), text("Title, as people read it", "title", { required: true }), text("Description", "description"),
      json("At most so many in so many seconds", "cap", { given: { most: 2, window: 604800 } }), json("Quiet hours", "quiet_hours", { given: { start: "21:00", end: "08:00" } })],
    columns: [["Name", named], ["Title", (one) => one.title], ["Cap", (one) => one.cap && `${one.cap.most} in ${count(one.cap.window)} s`], ["Quiet hours", (one) => one.quiet_hours && `${one.quiet_hours.start} to ${one.quiet_hours.end}`]],
  },
  templates: {
    title: "Templates", one: "template", said: "Content with Liquid in it, in versions: what was accepted with one keeps it.", may: "manage",
    fields: [NAME, CONTENT, { label: "A variable that is not known fails the message", name: "strict", type: "checkbox" }],
    columns: [["Name", named], ["Title", (one) => one.content.title], ["Version", (one) => String(one.version)], changed],
    actions: [{ text: () => "Preview", run: async (path, one) => {
      const { content, octets } = await post("/v1/templates/preview", { template: { id: one.id } });
      const { preview } = await import("./preview.js");
      dialog(one.name, preview(content, one.name), soft(`${count(octets)} octets`));
      return null;
    } }],
  },
  reminders: {
    title: "Reminders", one: "reminder", said: "Sent again and again, at times of a cron expression.", may: "send",
    fields: [NAME, text("When, as cron", "cron", { required: true, placeholder: "0 9 * * 1" }), text("Time zone, or device", "timezone", { placeholder: "Europe/Vienna", required: true }), CONTENT, AUDIENCE],
    columns: [["Name", named], ["Status", stand], ["When", (one) => [one.explained, " ", element("small", {}, `${one.cron}, ${one.timezone}`)]], ["Next", (one) => when(one.next_at)], ["Sent", (one) => count(one.occurrences)], ["Why", (one) => one.cause]],
    actions: pausing("paused"),
  },
  triggers: {
    title: "Triggers", one: "trigger", said: "What is sent when something happens in the application.", may: "send",
    fields: [NAME, text("Event", "event", { required: true, placeholder: "cart.abandoned", fixed: true }), json("Only when", "condition", { given: { data: "cart.total", gte: 50 } }), CONTENT,
      json("To others than its user", "audience"), number("Seconds later", "delay", { value: 0 }), number("Once for a user in so many seconds", "dedupe"), json("Ended by the events", "cancel_on", { given: ["order.paid"] })],
    columns: [["Name", named], ["Status", stand], ["Event", (one) => element("code", {}, one.event)], ["Title", (one) => one.content.title], ["Later by", (one) => `${count(one.delay)} s`], changed],
    actions: pausing("status"),
  },
  webhooks: {
    title: "Webhooks", one: "webhook", said: "Who is told what happens, by signed POSTs.", may: "manage", secret: "secret",
    fields: [NAME, text("Address", "url", { required: true, type: "url", placeholder: "https://shop.example/hooks/push" }), json("Events", "events", { required: true, given: ["delivery.*", "device.gone"] })],
    columns: [["Name", named], ["Status", stand], ["Address", (one) => one.url], ["Events", (one) => one.events.join(", ")], ["Last taken", (one) => when(one.last_ok_at)], ["Trouble", (one) => one.cause ?? one.last_error]],
    actions: [
      { text: () => "Test", run: async (path) => {
        const said = await post(`${path}/test`);
        tell(said.error ?? `It answered ${said.status} after ${said.duration_ms} ms.`, Boolean(said.error));
      } },
      { text: (one) => (one.status === "active" ? "Disable" : "Enable"), run: (path, one) => call("PATCH", path, { status: one.status === "active" ? "disabled" : "active" }) },
    ],
  },
  feeds: {
    title: "Alert feeds", one: "feed", said: "Addresses from which alerts are fetched: CAP, Atom with CAP, or GeoJSON as api.weather.gov has it.", may: "manage",
    fields: [NAME, text("Address", "url", { required: true, type: "url", placeholder: "https://api.weather.gov/alerts/active?area=VT" }), number("Seconds between looks", "interval", { value: 60 }), json("Only to", "audience", { given: { topic: "weather" } }), text("Category", "category")],
    columns: [["Name", named], ["Status", stand], ["Address", (one) => one.url], ["Last read", (one) => when(one.last_ok_at)], ["Alerts", (one) => Object.entries(one.counts).map(([name, n]) => `${n} ${name}`).join(", ")], ["Trouble", (one) => one.last_error]],
    actions: pausing("status"),
  },
};

export async function open(body, { page, session, signal }) {
  const kind = RESOURCES[page];
  const may = kind.one && session.scopes.includes(kind.may);
  const shown = element("div", {});
  const more = button("More", null, { hidden: true });
  body.replaceChildren(heading(kind.title, may && button(`New ${kind.one}`, () => edit(null), { className: "primary" })),
    element("section", { className: "card" }, soft(kind.said), shown, more));
  let items = [];
  let cursor = null;

  async function load(next) {
    const answer = await get(`/v1/${page}${query({ limit: 100, cursor: next })}`);
    if (signal.aborted) return;
    items = next ? [...items, ...answer.items] : answer.items;
    cursor = answer.next_cursor;
    more.hidden = !cursor;
    const columns = may ? [...kind.columns, ["", (one) => element("div", { className: "orders" }, orders(one))]] : kind.columns;
    shown.replaceChildren(table(columns, items, "None yet."));
  }
  function orders(one) {
    const path = `/v1/${page}/${one.id}`;
    const acts = (kind.actions ?? []).map((act) => button(act.text(one), (event) => doing(event.target, async () => {
      await act.run(path, one);
      await load();
    }), { "aria-label": `${act.text(one)} ${one.name}` }));
    return [...acts, button("Change", () => edit(one), { "aria-label": `Change ${one.name}` }), button("Remove", async (event) => {
      if (!(await sure(`The ${kind.one} “${one.name}” will be gone.`, "Remove it"))) return;
      await doing(event.target, () => call("DELETE", path));
      await load();
    }, { className: "danger", "aria-label": `Remove ${one.name}` })];
  }
  function edit(one) {
    const fields = kind.fields.filter((each) => !(one && each.fixed)).map((each) => [each, control(each, one)]);
    const problem = element("p", { className: "problem", role: "alert" });
    const save = element("button", { className: "primary" }, one ? "Save" : "Make it");
    const made = dialog(one ? `Change ${one.name}` : `New ${kind.one}`, element("form", {
      className: "form",
      onsubmit: async (event) => {
        event.preventDefault();
        problem.textContent = "";
        save.disabled = true;
        try {
          const wanted = Object.fromEntries(fields.map(([each, node]) => [each.name, read(each, node)])
            .filter(([name, value]) => (one ? JSON.stringify(value) !== JSON.stringify(one[name]) && (value !== undefined || one[name] !== null) : value !== undefined)));
          for (const name of Object.keys(wanted)) wanted[name] ??= null;
          const answer = one ? await call("PATCH", `/v1/${page}/${one.id}`, wanted) : await post(`/v1/${page}`, wanted);
          made.close();
          if (answer[kind.secret]) dialog("Its secret", soft("It is shown this once. The receiver checks signatures with it."), element("p", {}, element("code", {}, answer[kind.secret])));
          await load();
        } catch (error) {
          problem.textContent = error.message;
        }
        save.disabled = false;
      },
    }, fields.map(([, node]) => node), problem, element("div", { className: "orders" }, save)));
  }
  more.onclick = () => doing(more, () => load(cursor));
  await load();
}

function control({ label, name, json: structured, given, ...more }, one) {
  const { fixed: _, ...said } = more;
  if (!structured) return field(label, name, { ...said, value: one ? one[name] : said.value });
  const value = one ? one[name] : said.required ? given : undefined;
  return field(label, name, {
    ...said, type: "textarea", className: "code", rows: 4, hint: "JSON", placeholder: given ? JSON.stringify(given) : "",
    value: value === null || value === undefined ? "" : JSON.stringify(value, null, 1),
  });
}

/** undefined for what is left empty. Throws for JSON that is none. */
function read({ label, type, json: structured }, node) {
  const input = node.querySelector("input, textarea");
  if (type === "checkbox") return input.checked;
  const said = input.value.trim();
  if (!said) return undefined;
  if (type === "number") return Number(said);
  if (!structured) return said;
  try {
    return JSON.parse(said);
  } catch {
    throw new Error(`${label} is not JSON.`);
  }
}
