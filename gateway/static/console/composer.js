/** A campaign is written here: what is said, to whom and when, with how it will look beside it. */

import { get, post } from "./api.js";
import { audience } from "./audience.js";
import { button, count, dialog, doing, element, field, heading, link, settledTyping, soft, sure, tell } from "./elements.js";
import { preview } from "./preview.js";

const WORDS = ["title", "body", "url", "icon", "image"];

export async function open(body, { query: asked, session, signal }) {
  const from = asked.from ? await get(`/v1/notifications/${asked.from}`) : null;
  const given = from?.content ?? {};
  const who = audience({ given: from?.audience ?? (asked.segment ? { segment: asked.segment } : undefined), signal });
  const templates = await get("/v1/templates?limit=200").then(({ items }) => items, () => []);
  const categories = await get("/v1/categories?limit=200").then(({ items }) => items.map(({ name }) => name), () => []);
  // What a campaign that is used again had, and the form does not ask for.
  const kept = Object.fromEntries(["cap", "pause_when", "throttle", "quiet_hours"].filter((name) => from?.[name]).map((name) => [name, from[name]]));
  const saved = field("Begin with a template", "template", { options: [{ value: "", text: "none" }, ...templates.map(({ id, name }) => ({ value: id, text: name }))] });
  const actions = given.actions ?? [];
  const form = element("form", { className: "form", id: "draft" },
    field("Name of the campaign", "name", { required: true, maxLength: 200, value: from?.name ?? "", placeholder: "Autumn sale" }),
    element("fieldset", {}, element("legend", {}, "Message"), templates.length > 0 && saved,
      field("Title", "title", { required: true, maxLength: 500, value: given.title, placeholder: "Hi {{ user.attributes.first_name | default: 'there' }}" }),
      field("Text", "body", { type: "textarea", maxLength: 4000, value: given.body }),
      field("Where a click leads", "url", { value: given.url, placeholder: "/offers" }),
      element("details", { open: Boolean(given.icon ?? given.image ?? actions.length) }, element("summary", {}, "Pictures and buttons"), element("div", { className: "form" },
        field("Icon", "icon", { value: given.icon, placeholder: "https://…" }), field("Image", "image", { value: given.image, placeholder: "https://…" }),
        ...[0, 1].map((n) => element("div", { className: "pair" }, field(`Button ${n + 1}`, `action${n}`, { value: actions[n]?.title }), field("leads to", `action${n}_url`, { value: actions[n]?.url })))))),
    element("details", {}, element("summary", {}, "Try a second wording (A/B test)"), element("div", { className: "form" },
      field("Title of B", "title_b"), field("Text of B", "body_b", { type: "textarea" }),
      element("div", { className: "pair" }, field("Try both on, percent", "sample", { type: "number", min: 1, max: 99, placeholder: "everybody, half each" }),
        field("then the better one to the rest, after minutes", "winner_after", { type: "number", min: 1, value: 60 })))),
    who.node,
    element("fieldset", {}, element("legend", {}, "When"),
      element("div", { className: "pair" },
        field("Start", "start", { options: [{ value: "now", text: "at once" }, { value: "at", text: "at a time of mine" }, { value: "device", text: "at that time where each device is" }] }),
        field("At", "at", { type: "datetime-local" })),
      field("What people opt out of it by", "category", { options: [{ value: "", text: "nothing" }, ...categories] }),
      element("details", {}, element("summary", {}, "How it travels"), element("div", { className: "pair" },
        field("At most, a second", "per_second", { type: "number", min: 1, placeholder: "as fast as it goes" }),
        field("Kept for, hours", "ttl", { type: "number", min: 0, step: "any", placeholder: "as usual" }),
        field("Urgency", "urgency", { options: [{ value: "", text: "as usual" }, "very-low", "low", "normal", "high"] }),
        field("Quiet from", "quiet_start", { type: "time" }), field("Quiet until", "quiet_end", { type: "time" })))),
    element("p", { className: "problem", role: "alert" }),
    element("div", { className: "orders" }, element("button", { className: "primary" }, "Send"), button("Send a test …", test)));
  const shown = element("div", {});
  const size = soft("");
  body.replaceChildren(element("p", { className: "crumbs" }, link("campaigns", "Campaigns"), " / new"), heading("New campaign"),
    element("div", { className: "columns" }, element("section", { className: "card" }, form),
      element("section", { className: "card sticky", "aria-label": "Preview" }, element("h3", {}, "Preview"), shown, size)));

  const { elements } = form;
  elements.category.value = from?.category ?? "";
  const problem = form.querySelector(".problem");
  const text = (name) => elements[name].value.trim();

  function content() {
    const said = { ...given };
    for (const name of WORDS) {
      if (text(name)) said[name] = text(name);
      else delete said[name];
    }
    const buttons = [0, 1].filter((n) => text(`action${n}`))
      .map((n) => ({ action: actions[n]?.action ?? `button-${n + 1}`, title: text(`action${n}`), ...(text(`action${n}_url`) ? { url: text(`action${n}_url`) } : {}) }));
    if (buttons.length) said.actions = buttons;
    else delete said.actions;
    return said;
  }
  function travel() {
    const delivery = {};
    if (text("ttl")) delivery.ttl = Math.round(Number(text("ttl")) * 3600);
    if (text("urgency")) delivery.urgency = text("urgency");
    return Object.keys(delivery).length ? { delivery } : {};
  }
  function variants() {
    const second = {};
    if (text("title_b")) second.title = text("title_b");
    if (text("body_b")) second.body = text("body_b");
    if (!Object.keys(second).length && text("sample")) throw new Error("Write a second wording to try.");
    if (!Object.keys(second).length) return {};
    const winner = text("sample") ? { winner: { sample: Number(text("sample")) / 100, after: Number(text("winner_after")) * 60 } } : {};
    return { variants: [{ name: "A", content: {} }, { name: "B", content: second }], ...winner };
  }
  function schedule() {
    const start = text("start");
    if (start === "now") return {};
    if (!text("at")) throw new Error("Say at what time it starts.");
    return { schedule: start === "device" ? { at: `${text("at")}:00`.slice(0, 19), timezone: "device" } : { at: new Date(text("at")).toISOString() } };
  }

  let last = 0;
  const rendered = settledTyping(async () => {
    const mine = (last += 1);
    if (!text("title")) return;
    const answer = await post("/v1/templates/preview", { content: content() }).catch((error) => ({ problem: error.message }));
    if (mine !== last || signal.aborted) return;
    size.textContent = answer.problem ?? `${count(answer.octets)} of 3,993 octets; shown as to somebody of whom nothing is known`;
    if (answer.content) shown.replaceChildren(preview(answer.content, session.application));
  });
  const draw = () => {
    elements.at.parentElement.hidden = text("start") === "now";
    shown.replaceChildren(preview(content(), session.application));
    rendered();
  };

  async function test(event) {
    const user = field("Send it now to the user", "user", { placeholder: "u-42" });
    const device = field("or to the device", "device", { placeholder: "dev_…" });
    const send = element("button", { className: "primary" }, "Send the test");
    const made = dialog("Send a test", element("p", { className: "soft" }, "As it stands, and at once: your own browsers show it as everybody’s will."),
      element("form", {
        className: "form",
        onsubmit: async (submitted) => {
          submitted.preventDefault();
          const [whom, which] = [user.lastChild.value.trim(), device.lastChild.value.trim()];
          if (!whom && !which) return;
          const sent = await doing(send, () => post("/v1/notifications", { content: content(), audience: which ? { device_id: which } : { user_id: whom } }));
          if (!sent) return;
          tell("The test is on its way.");
          made.close();
        },
      }, user, device, send));
    event.preventDefault();
  }

  form.addEventListener("input", draw);
  saved.addEventListener("change", () => {
    const chosen = templates.find(({ id }) => id === saved.lastChild.value);
    for (const name of WORDS) elements[name].value = chosen?.content[name] ?? "";
    draw();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem.textContent = "";
    try {
      const reached = who.value();
      if (!reached) throw new Error("Say who shall get it.");
      if (!text("quiet_start") !== !text("quiet_end")) throw new Error("Say both ends of the quiet hours.");
      const quiet = text("quiet_start") && text("quiet_end") ? { quiet_hours: { start: text("quiet_start"), end: text("quiet_end") } } : {};
      const throttle = text("per_second") ? { throttle: { per_second: Number(text("per_second")) } } : {};
      const category = text("category") ? { category: text("category") } : {};
      const wanted = { ...kept, ...category, name: text("name"), content: content(), audience: reached, ...schedule(), ...travel(), ...variants(), ...quiet, ...throttle };
      const { devices } = await post("/v1/audiences/preview", { audience: reached });
      if (!(await sure(`“${wanted.name}” goes to ${count(devices)} ${devices === 1 ? "device" : "devices"}${text("start") === "now" ? " now" : ""}.`, "Send it"))) return;
      const sent = await post("/v1/campaigns", wanted);
      if (!signal.aborted) location.hash = `#/campaigns/${sent.id}`;
    } catch (error) {
      problem.textContent = error.message;
    }
  });
  draw();
}
