/**
 * The pages of what is kept and managed: a list, and a form to make or change one. What differs between them is said by
 * a description each: the columns, the fields, what may be done to one.
 */

import { HERE, UNITS } from "../forms/controls.js";
import { form } from "../forms/form.js";
import { CAP, CATEGORY, MESSAGE, NAME, PACE, QUIET, TRAVEL } from "../forms/shared_fields.js";
import { call, get, post, query } from "../lib/api.js";
import {
  badge,
  button,
  count,
  dialog,
  doing,
  element,
  heading,
  link,
  soft,
  sure,
  table,
  tell,
  when,
} from "../lib/elements.js";

const AUDIENCE = { at: "/audience", as: "audience", required: true };
const CONTENT = { group: "Message", fields: MESSAGE };
const travel = (...fields) => ({ group: "How it travels", fields: [CATEGORY, ...fields, ...TRAVEL], folded: true });
/** Without the nulls that stand for what is not said. */
const spoken = (value) =>
  value && typeof value === "object" && !Array.isArray(value)
    ? Object.fromEntries(Object.entries(value).filter(([, part]) => part !== null))
    : value;
const code = (value) => element("code", {}, JSON.stringify(value));
const named = (one) => element("b", {}, one.name);
const FLAT = ["delivery", "throttle"];
function span(seconds) {
  const [unit, name] = UNITS.find(([one]) => seconds % one === 0);
  return `${count(seconds / unit)} ${seconds === unit ? name.slice(0, -1) : name}`;
}
const stand = (one) => badge(one.status);
const changed = ["Changed", (one) => when(one.updated_at)];
const pausing = (field) => [
  {
    text: (one) => (one.status === "active" ? "Pause" : "Resume"),
    run: (path, one) =>
      call(
        "PATCH",
        path,
        field === "paused"
          ? { paused: one.status === "active" }
          : { status: one.status === "active" ? "paused" : "active" },
      ),
  },
];

const RESOURCES = {
  topics: {
    title: "Topics",
    said: "Devices subscribe to topics by themselves; a topic is there as long as one does.",
    columns: [
      ["Topic", (one) => element("b", {}, one.topic)],
      ["Devices", (one) => count(one.devices)],
      ["", (one) => link(`devices${query({ topic: one.topic })}`, "its devices")],
    ],
  },
  segments: {
    title: "Segments",
    one: "segment",
    said: "Saved audiences, to be used by name.",
    may: "manage",
    fields: [NAME, AUDIENCE],
    columns: [
      ["Name", named],
      ["Audience", (one) => code(one.audience)],
      changed,
      ["", (one) => link(`compose?segment=${one.id}`, "write to it")],
    ],
  },
  categories: {
    title: "Categories",
    one: "category",
    said: "Kinds of message that people may opt out of, with rules of their own.",
    may: "manage",
    fields: [
      { ...NAME, once: true, hint: "What notifications name it by: it stays." },
      { at: "/title", label: "Title, as people read it", required: true },
      { at: "/description", label: "Description" },
      CAP,
      QUIET,
    ],
    columns: [
      ["Name", named],
      ["Title", (one) => one.title],
      ["Cap", (one) => one.cap && `${one.cap.most} in ${span(one.cap.window)}`],
      ["Quiet hours", (one) => one.quiet_hours && `${one.quiet_hours.start} to ${one.quiet_hours.end}`],
    ],
  },
  templates: {
    title: "Templates",
    one: "template",
    said: "Content with Liquid in it, in versions: what was accepted with one keeps it.",
    may: "manage",
    fields: [NAME, CONTENT, { at: "/strict", label: "A variable that is not known fails the message", as: "checkbox" }],
    columns: [
      ["Name", named],
      ["Title", (one) => one.content.title],
      ["Version", (one) => String(one.version)],
      changed,
    ],
    actions: [
      {
        text: () => "Preview",
        run: async (path, one) => {
          const { content, octets } = await post("/v1/templates/preview", { template: { id: one.id } });
          const { preview } = await import("../lib/notification_preview.js");
          dialog(one.name, preview(content, one.name), soft(`${count(octets)} octets`));
          return null;
        },
      },
    ],
  },
  reminders: {
    title: "Reminders",
    one: "reminder",
    said: "Sent again and again, at times of a cron expression.",
    may: "send",
    fields: [
      NAME,
      CONTENT,
      {
        group: "When",
        fields: [
          { at: "/cron", as: "recurrence", required: true },
          {
            row: [
              { at: "/timezone", label: "On the clocks of", as: "zone", value: HERE },
              { at: "/ends_at", label: "Never after", as: "moment" },
            ],
          },
          {
            at: "/missed",
            label: "When no worker could send it in time",
            options: [
              { value: "skip", text: "leave it out" },
              { value: "send", text: "send it late" },
            ],
          },
        ],
      },
      AUDIENCE,
      travel(QUIET, PACE),
    ],
    columns: [
      ["Name", named],
      ["Status", stand],
      ["When", (one) => [one.explained, " ", element("small", {}, `${one.cron}, ${one.timezone}`)]],
      ["Next", (one) => when(one.next_at)],
      ["Sent", (one) => count(one.occurrences)],
      ["Why", (one) => one.cause],
    ],
    actions: pausing("paused"),
  },
  triggers: {
    title: "Triggers",
    one: "trigger",
    said: "What is sent when something happens in the application.",
    may: "send",
    fields: [
      NAME,
      {
        group: "What happens",
        fields: [
          { at: "/event", label: "Event", required: true, placeholder: "cart.abandoned" },
          { at: "/condition", as: "condition" },
        ],
      },
      CONTENT,
      {
        at: "/audience",
        as: "audience",
        otherwise: { text: "the user it happened to", value: { user_id: { from_event: "user_id" } } },
      },
      {
        group: "How soon and how often",
        fields: [
          {
            row: [
              { at: "/delay", label: "Sent after", as: "seconds", value: 0 },
              { at: "/dedupe", label: "Not again for a user within", as: "seconds", placeholder: "each time" },
            ],
          },
          CAP,
          {
            at: "/cancel_on",
            label: "Called off by these events of the same user",
            as: "list",
            placeholder: "order.paid, cart.emptied",
          },
        ],
      },
      travel(),
    ],
    columns: [
      ["Name", named],
      ["Status", stand],
      ["Event", (one) => element("code", {}, one.event)],
      ["Title", (one) => one.content.title],
      ["After", (one) => (one.delay ? span(one.delay) : "at once")],
      ["Cap", (one) => one.cap && `${one.cap.most} in ${span(one.cap.window)}`],
      changed,
    ],
    actions: pausing("status"),
  },
  webhooks: {
    title: "Webhooks",
    one: "webhook",
    said: "Who is told what happens, by signed POSTs.",
    may: "manage",
    secret: "secret",
    fields: [
      NAME,
      { at: "/url", label: "Address", required: true, as: "url", placeholder: "https://shop.example/hooks/push" },
      { at: "/events", label: "Events", as: "list", required: true, placeholder: "delivery.*, device.gone" },
    ],
    columns: [
      ["Name", named],
      ["Status", stand],
      ["Address", (one) => one.url],
      ["Events", (one) => one.events.join(", ")],
      ["Last taken", (one) => when(one.last_ok_at)],
      ["Trouble", (one) => one.cause ?? one.last_error],
    ],
    actions: [
      {
        text: () => "Test",
        run: async (path) => {
          const said = await post(`${path}/test`);
          tell(said.error ?? `It answered ${said.status} after ${said.duration_ms} ms.`, Boolean(said.error));
        },
      },
      {
        text: (one) => (one.status === "active" ? "Disable" : "Enable"),
        run: (path, one) => call("PATCH", path, { status: one.status === "active" ? "disabled" : "active" }),
      },
    ],
  },
  feeds: {
    title: "Alert feeds",
    one: "feed",
    said: "Addresses from which alerts are fetched: CAP, Atom with CAP, or GeoJSON as api.weather.gov has it.",
    may: "manage",
    fields: [
      NAME,
      {
        at: "/url",
        label: "Address",
        required: true,
        as: "url",
        placeholder: "https://api.weather.gov/alerts/active?area=VT",
      },
      { at: "/interval", label: "Between looks", as: "seconds", value: 60 },
      CATEGORY,
      { at: "/audience", as: "audience", hint: "Only to" },
    ],
    columns: [
      ["Name", named],
      ["Status", stand],
      ["Address", (one) => one.url],
      ["Last read", (one) => when(one.last_ok_at)],
      [
        "Alerts",
        (one) =>
          Object.entries(one.counts)
            .map(([name, n]) => `${n} ${name}`)
            .join(", "),
      ],
      ["Trouble", (one) => one.last_error],
    ],
    actions: pausing("status"),
  },
};

export async function open(body, { page, session, signal }) {
  const kind = RESOURCES[page];
  const may = kind.one && session.scopes.includes(kind.may);
  const shown = element("div", {});
  const more = button("More", null, { hidden: true });
  body.replaceChildren(
    heading(kind.title, may && button(`New ${kind.one}`, () => edit(null), { className: "primary" })),
    element("section", { className: "card" }, soft(kind.said), shown, more),
  );
  let items = [];
  let cursor = null;

  async function load(next) {
    const answer = await get(`/v1/${page}${query({ limit: 100, cursor: next })}`);
    if (signal.aborted) return;
    items = next ? [...items, ...answer.items] : answer.items;
    cursor = answer.next_cursor;
    more.hidden = !cursor;
    const columns = may
      ? [...kind.columns, ["", (one) => element("div", { className: "orders" }, orders(one))]]
      : kind.columns;
    shown.replaceChildren(table(columns, items, "None yet."));
  }
  function orders(one) {
    const path = `/v1/${page}/${one.id}`;
    const acts = (kind.actions ?? []).map((act) =>
      button(
        act.text(one),
        (event) =>
          doing(event.target, async () => {
            await act.run(path, one);
            await load();
          }),
        { "aria-label": `${act.text(one)} ${one.name}` },
      ),
    );
    return [
      ...acts,
      button("Change", () => edit(one), { "aria-label": `Change ${one.name}` }),
      button(
        "Remove",
        async (event) => {
          if (!(await sure(`The ${kind.one} “${one.name}” will be gone.`, "Remove it"))) return;
          await doing(event.target, () => call("DELETE", path));
          await load();
        },
        { className: "danger", "aria-label": `Remove ${one.name}` },
      ),
    ];
  }
  async function edit(one) {
    const categories = await get("/v1/categories?limit=200").then(
      ({ items }) => items.map(({ name }) => name),
      () => [],
    );
    const fields = kind.fields.filter((each) => !(one && each.once));
    const known = one
      ? Object.fromEntries(
          tops(fields)
            .filter((name) => one[name] !== null && one[name] !== undefined)
            .map((name) => [name, FLAT.includes(name) ? spoken(one[name]) : one[name]]),
        )
      : {};
    const asked = form(fields, known, { signal, categories });
    const save = element("button", { className: "primary" }, one ? "Save" : "Make it");
    const look = button("Preview", () =>
      doing(look, async () => {
        const { content, octets } = await post("/v1/templates/preview", { content: asked.said().content });
        const { preview } = await import("../lib/notification_preview.js");
        dialog(
          "Preview",
          preview(content, session.application),
          soft(`${count(octets)} of 3,993 octets; shown as to somebody of whom nothing is known`),
        );
      }),
    );
    const made = dialog(
      one ? `Change ${one.name}` : `New ${kind.one}`,
      element(
        "form",
        {
          className: "form",
          noValidate: true,
          onsubmit: async (event) => {
            event.preventDefault();
            save.disabled = true;
            asked.fail(null);
            try {
              const now = asked.value();
              const changed = Object.keys({ ...known, ...now }).filter(
                (name) => JSON.stringify(now[name]) !== JSON.stringify(known[name]),
              );
              const answer = one
                ? await call(
                    "PATCH",
                    `/v1/${page}/${one.id}`,
                    Object.fromEntries(changed.map((name) => [name, now[name] ?? null])),
                  )
                : await post(`/v1/${page}`, now);
              made.close();
              if (answer[kind.secret])
                dialog(
                  "Its secret",
                  soft("It is shown this once. The receiver checks signatures with it."),
                  element("p", {}, element("code", {}, answer[kind.secret])),
                );
              await load();
            } catch (error) {
              asked.fail(error);
            }
            save.disabled = false;
          },
        },
        asked.node,
        element("div", { className: "orders last" }, save, kind.fields.includes(CONTENT) && look, asked.other),
      ),
    );
  }
  more.onclick = () => doing(more, () => load(cursor));
  await load();
}

/** The names of what these fields say, at the top. */
const tops = (fields) => [
  ...new Set(fields.flatMap((one) => (one.at ? [one.at.split("/")[1]] : tops(one.fields ?? one.row)))),
];
