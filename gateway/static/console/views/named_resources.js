/**
 * Pages of named resources (segments, templates, triggers, ...): a list, and a dialog that creates or edits one.
 *
 * resource_types.js describes how the pages differ.
 */

import { buildForm } from "../forms/form.js";
import { call, get, post, queryString } from "../lib/api.js";
import { confirmAction, openDialog, runAction } from "../lib/dialogs.js";
import { actionBar, button, element, mutedText, pageHeading, table } from "../lib/elements.js";
import { openPreview } from "../lib/notification_preview.js";
import { CONTENT, RESOURCE_TYPES } from "./resource_types.js";

const PAGE_SIZE = 100;
// Objects in which the API returns unset values as null. A request must not contain these nulls.
const WITH_NULLS = ["delivery", "throttle"];

const withoutNulls = (values) => Object.fromEntries(Object.entries(values).filter(([, value]) => value !== null));

export async function open(body, { page, session, signal }) {
  const type = RESOURCE_TYPES[page];
  const canEdit = type.singular && session.scopes.includes(type.scope);
  const results = element("div", {});
  const more = button("Load more", null, { hidden: true });
  const create = button(`New ${type.singular}`, () => openEditor(null), { className: "primary" });
  body.replaceChildren(
    pageHeading(type.title, canEdit && create),
    element("section", { className: "card" }, mutedText(type.description), results, more),
  );
  let items = [];
  let cursor = null;

  async function load(from) {
    const response = await get(`/v1/${page}${queryString({ limit: PAGE_SIZE, cursor: from })}`);
    if (signal.aborted) return;
    items = from ? [...items, ...response.items] : response.items;
    cursor = response.next_cursor;
    more.hidden = !cursor;
    const columns = canEdit ? [...type.columns, ["Actions", itemActions]] : type.columns;
    results.replaceChildren(table(columns, items, type.emptyText));
  }

  function itemActions(item) {
    const path = `/v1/${page}/${item.id}`;
    const labelled = (label, onclick, attributes) =>
      button(label, onclick, { "aria-label": `${label} ${item.name}`, ...attributes });
    const actions = (type.actions ?? []).map(({ label, run }) =>
      labelled(label(item), (event) =>
        runAction(event.target, async () => {
          await run(path, item);
          await load();
        }),
      ),
    );
    const remove = async (event) => {
      const confirmed = await confirmAction({
        title: `Delete ${type.singular} “${item.name}”?`,
        text: "This cannot be undone.",
        confirm: "Delete",
        danger: true,
      });
      if (!confirmed) return;
      await runAction(event.target, () => call("DELETE", path));
      await load();
    };
    const edit = labelled("Edit", () => openEditor(item));
    return actionBar(actions, edit, labelled("Delete", remove, { className: "danger" }));
  }

  async function openEditor(item) {
    const categories = await get("/v1/categories?limit=200").then(
      (response) => response.items.map(({ name }) => name),
      () => [],
    );
    const fields = type.fields.filter(({ createOnly }) => !(item && createOnly));
    const initial = item ? editableValues(item, fields) : {};
    const form = buildForm(fields, initial, { signal, categories });
    const save = element("button", { className: "primary" }, item ? "Save" : "Create");
    const preview = button("Preview", () =>
      runAction(preview, () => openPreview("Preview", { content: form.read().content }, session.application)),
    );
    const submit = async (event) => {
      event.preventDefault();
      save.disabled = true;
      form.showError(null);
      try {
        const values = form.readValid();
        const response = item
          ? await call("PATCH", `/v1/${page}/${item.id}`, changes(initial, values))
          : await post(`/v1/${page}`, values);
        dialog.close();
        if (response[type.secretName]) openSecretDialog(response[type.secretName]);
        await load();
      } catch (error) {
        form.showError(error);
      }
      save.disabled = false;
    };
    const buttons = element(
      "div",
      { className: "actions dialog-actions" },
      save,
      type.fields.includes(CONTENT) && preview,
      form.modeButton,
    );
    const dialog = openDialog(
      item ? `Edit ${item.name}` : `New ${type.singular}`,
      element("form", { className: "form", noValidate: true, onsubmit: submit }, form.node, buttons),
    );
  }

  more.onclick = () => runAction(more, () => load(cursor));
  await load();
}

/** The values of an item that the fields edit. */
function editableValues(item, fields) {
  const names = topLevelNames(fields).filter((name) => item[name] !== null && item[name] !== undefined);
  return Object.fromEntries(
    names.map((name) => [name, WITH_NULLS.includes(name) ? withoutNulls(item[name]) : item[name]]),
  );
}

/** The names of the values that the fields edit. */
function topLevelNames(fields) {
  const names = fields.flatMap(({ pointer, fields: members, row }) =>
    pointer ? [pointer.split("/")[1]] : topLevelNames(members ?? row),
  );
  return [...new Set(names)];
}

/** The body of a PATCH that turns `initial` into `values`. */
function changes(initial, values) {
  const names = Object.keys({ ...initial, ...values });
  const changed = names.filter((name) => JSON.stringify(values[name]) !== JSON.stringify(initial[name]));
  return Object.fromEntries(changed.map((name) => [name, values[name] ?? null]));
}

function openSecretDialog(secret) {
  openDialog(
    "Signing secret",
    mutedText("Copy the secret now: it is not shown again. The receiver needs it to verify signatures."),
    element("p", {}, element("code", {}, secret)),
  );
}
