/** A campaign is written here: what is said, to whom and when, with how it will look beside it. */

import { get, post } from "../lib/api.js";
import {
  button,
  count,
  dialog,
  doing,
  element,
  exactly,
  field,
  heading,
  link,
  settledTyping,
  soft,
  sure,
  tell,
} from "../lib/elements.js";
import { preview } from "../lib/notification_preview.js";
import { form } from "./form.js";
import { CATEGORY, MESSAGE, NAME, PACE, QUIET, TRAVEL } from "./shared_fields.js";

const FIELDS = [
  { ...NAME, label: "Name of the campaign", placeholder: "Autumn sale" },
  { group: "Message", fields: MESSAGE },
  {
    group: "Try a second wording (A/B test)",
    folded: true,
    fields: [
      { at: "/variants", as: "variants" },
      {
        row: [
          {
            at: "/winner/sample",
            label: "Try them on, percent",
            as: "percent",
            min: 0,
            max: 100,
            placeholder: "everybody, in equal parts",
          },
          {
            at: "/winner/after",
            label: "The better one goes on after",
            as: "seconds",
            value: 3600,
            beside: "/winner/sample",
          },
        ],
      },
    ],
  },
  { at: "/audience", as: "audience", required: true },
  {
    group: "When",
    fields: [
      { at: "/schedule", as: "schedule" },
      CATEGORY,
      {
        group: "How it travels",
        folded: true,
        fields: [
          PACE,
          QUIET,
          ...TRAVEL,
          {
            row: [
              {
                at: "/pause_when/failure_share",
                label: "Pause at failures, percent",
                as: "percent",
                min: 0,
                max: 100,
                placeholder: "never",
              },
              {
                at: "/pause_when/after",
                label: "Once so many have ended",
                as: "number",
                min: 1,
                value: 100,
                beside: "/pause_when/failure_share",
              },
            ],
          },
        ],
      },
    ],
  },
];
const said = (values) => Object.fromEntries(Object.entries(values ?? {}).filter(([, value]) => value !== null));

/** The campaign that would be what `from` was, and what of it cannot be again. */
function again(from) {
  const past = [];
  const { name, content, audience, category } = from;
  const kept = said({ name: name ?? undefined, content, audience, category });
  for (const part of ["throttle", "quiet_hours", "winner", "pause_when"]) if (from[part]) kept[part] = said(from[part]);
  if (from.variants.length)
    kept.variants = from.variants.map((variant) => ({
      name: variant.name,
      weight: variant.weight,
      content: variant.content,
    }));
  const { lane, expires_at: expires, ...travel } = from.delivery;
  kept.delivery = said(travel);
  // Alerts go before all else, and not by their author's choice.
  if (from.kind === "campaign") kept.delivery.lane = lane;
  // What was given no end of its own ends with its time to live, which is counted from its start.
  const ended = new Date(expires) - new Date(from.start_at) < 1000 * travel.ttl;
  if (ended && new Date(expires) > new Date()) kept.delivery.expires_at = expires;
  else if (ended) past.push(`never after ${exactly(expires)}`);
  const planned =
    from.schedule ?? (new Date(from.start_at) - new Date(from.created_at) > 1000 ? { at: from.start_at } : null);
  if (planned && new Date(planned.at) > new Date()) kept.schedule = planned;
  else if (planned) past.push(`start at ${exactly(planned.at)}`);
  return [kept, past];
}

export async function open(body, { query: asked, session, signal }) {
  const from = asked.from ? await get(`/v1/notifications/${asked.from}`) : null;
  const [given, past] = from ? again(from) : [asked.segment ? { audience: { segment: asked.segment } } : {}, []];
  const templates = await get("/v1/templates?limit=200").then(
    ({ items }) => items,
    () => [],
  );
  const categories = await get("/v1/categories?limit=200").then(
    ({ items }) => items.map(({ name }) => name),
    () => [],
  );
  const saved = field("Begin with a template", "template", {
    options: [{ value: "", text: "none" }, ...templates.map(({ id, name }) => ({ value: id, text: name }))],
  });
  const draft = form(FIELDS, given, { signal, categories });
  const node = element(
    "form",
    { className: "form", id: "draft", noValidate: true },
    past.length > 0 &&
      element("p", { className: "note", role: "status" }, `Left out, since it is past: ${past.join("; ")}.`),
    templates.length > 0 && saved,
    draft.node,
    element(
      "div",
      { className: "orders" },
      element("button", { className: "primary" }, "Send"),
      button("Send a test …", test),
      draft.other,
    ),
  );
  const shown = element("div", {});
  const size = soft("");
  body.replaceChildren(
    element("p", { className: "crumbs" }, link("campaigns", "Campaigns"), " / new"),
    heading("New campaign"),
    element(
      "div",
      { className: "columns" },
      element("section", { className: "card" }, node),
      element(
        "section",
        { className: "card sticky", "aria-label": "Preview" },
        element("h3", {}, "Preview"),
        shown,
        size,
      ),
    ),
  );

  /** As far as it is written; what is wrong with it is told when it is sent. */
  function content() {
    try {
      return draft.said("/content").content ?? {};
    } catch {
      return null;
    }
  }
  let last = 0;
  const rendered = settledTyping(async () => {
    const mine = (last += 1);
    const now = content();
    if (!now?.title) return;
    const answer = await post("/v1/templates/preview", { content: now }).catch((error) => ({ problem: error.message }));
    if (mine !== last || signal.aborted) return;
    size.textContent =
      answer.problem ?? `${count(answer.octets)} of 3,993 octets; shown as to somebody of whom nothing is known`;
    if (answer.content) shown.replaceChildren(preview(answer.content, session.application));
  });
  const draw = () => {
    const now = content();
    if (now) shown.replaceChildren(preview(now, session.application));
    rendered();
  };

  async function test() {
    const user = field("Send it now to the user", "user", { placeholder: "u-42" });
    const device = field("or to the device", "device", { placeholder: "dev_…" });
    const send = element("button", { className: "primary" }, "Send the test");
    const made = dialog(
      "Send a test",
      soft("As it stands, and at once: your own browsers show it as everybody’s will."),
      element(
        "form",
        {
          className: "form",
          onsubmit: async (submitted) => {
            submitted.preventDefault();
            const [whom, which] = [user.lastChild.value.trim(), device.lastChild.value.trim()];
            if (!whom && !which) return;
            const sent = await doing(send, () =>
              post("/v1/notifications", {
                content: draft.said("/content").content,
                audience: which ? { device_id: which } : { user_id: whom },
              }),
            );
            if (!sent) return;
            tell("The test is on its way.");
            made.close();
          },
        },
        user,
        device,
        send,
      ),
    );
  }

  node.addEventListener("input", draw);
  saved.addEventListener("change", () => {
    const chosen = templates.find(({ id }) => id === saved.lastChild.value);
    if (chosen) draft.fill({ ...draft.said(), content: chosen.content });
    draw();
  });
  node.addEventListener("submit", async (event) => {
    event.preventDefault();
    draft.fail(null);
    try {
      const wanted = draft.value();
      const { devices } = await post("/v1/audiences/preview", { audience: wanted.audience });
      if (
        !(await sure(
          `“${wanted.name}” goes to ${count(devices)} ${devices === 1 ? "device" : "devices"}${wanted.schedule ? "" : " now"}.`,
          "Send it",
        ))
      )
        return;
      const sent = await post("/v1/campaigns", wanted);
      if (!signal.aborted) location.hash = `#/campaigns/${sent.id}`;
    } catch (error) {
      draft.fail(error);
    }
  });
  draw();
}
