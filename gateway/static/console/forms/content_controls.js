/** Controls for parts of a notification's content: translations, buttons and the variants of an A/B test. */

import { Problem } from "../lib/api.js";
import { actionBar, button, element, field, textOf } from "../lib/elements.js";

// The indexes of the buttons. All browsers that support buttons display at least two.
const BUTTONS = [0, 1];

/** Return a copy of `original` with the overrides applied. An empty override removes the value of that name. */
function mergeOverrides(original, overrides) {
  const merged = { ...original };
  for (const [name, value] of Object.entries(overrides)) {
    if (value) merged[name] = value;
    else delete merged[name];
  }
  return merged;
}

/** Content in other languages, by language tag. */
export function translationsControl({ pointer }, value) {
  const rows = [];
  const node = element("div", { className: "form" });
  const addRow = (tag = "", content = {}) => {
    const language = field("Language", "language", { value: tag, placeholder: "de or de-AT", required: true });
    const title = field("Translated title", "title", { value: content.title, maxLength: 500 });
    const body = field("Translated text", "body", { type: "textarea", rows: 2, value: content.body });
    const url = field("Click URL", "url", { value: content.url, placeholder: "Same as the default" });
    const row = {
      language,
      read: () => mergeOverrides(content, { title: textOf(title), body: textOf(body), url: textOf(url) }),
    };
    const remove = () => {
      fieldset.remove();
      rows.splice(rows.indexOf(row), 1);
    };
    const fieldset = element(
      "fieldset",
      {},
      element("div", { className: "field-row" }, language, url),
      title,
      body,
      actionBar(button("Remove language", remove)),
    );
    rows.push(row);
    node.lastChild.before(fieldset);
  };
  node.append(actionBar(button("Add language", () => addRow())));
  for (const [tag, content] of Object.entries(value ?? {})) addRow(tag, content);
  const read = () => {
    const tags = rows.map(({ language }) => textOf(language));
    if (new Set(tags).size < tags.length)
      throw Problem.of([{ pointer, detail: "Each language can be added only once." }]);
    return rows.length ? Object.fromEntries(rows.map((row, n) => [tags[n], row.read()])) : undefined;
  };
  return { node, read };
}

/** The buttons of a notification. */
export function buttonsControl(_, value = []) {
  const rows = BUTTONS.map((n) => ({
    title: field(`Button ${n + 1} label`, `action${n}`, { value: value[n]?.title }),
    url: field(`Button ${n + 1} URL`, `action${n}_url`, { value: value[n]?.url }),
  }));
  const read = () => {
    const buttons = rows.map(({ title, url }, n) => {
      const original = { action: `button-${n + 1}`, ...value[n] };
      return textOf(title) && mergeOverrides(original, { title: textOf(title), url: textOf(url) });
    });
    const all = [...buttons.filter(Boolean), ...value.slice(BUTTONS.length)];
    return all.length ? all : undefined;
  };
  const nodes = rows.map(({ title, url }) => element("div", { className: "field-row" }, title, url));
  return { node: element("div", { className: "form" }, nodes), read };
}

/** The variants of an A/B test: each overrides parts of the campaign's content. */
export function variantsControl(_, value) {
  const rows = [];
  const node = element("div", { className: "form" });
  const addVariant = (variant) => {
    const { name = String.fromCharCode(65 + rows.length), content = {}, ...rest } = variant;
    const placeholder = "Same as above";
    const title = field(`Variant ${name} title`, "title", { value: content.title, placeholder });
    const body = field(`Variant ${name} text`, "body", {
      type: "textarea",
      rows: 2,
      value: content.body,
      placeholder,
    });
    const read = () => mergeOverrides(content, { title: textOf(title), body: textOf(body) });
    rows.push(() => ({ name, ...rest, content: read() }));
    node.lastChild.before(element("fieldset", {}, title, body));
  };
  node.append(actionBar(button("Add variant", () => addVariant({}))));
  (value ?? [{}, {}]).forEach(addVariant);
  const read = () => {
    const variants = rows.map((readVariant) => readVariant());
    return variants.some(({ content }) => Object.keys(content).length) ? variants : undefined;
  };
  return { node, read };
}
