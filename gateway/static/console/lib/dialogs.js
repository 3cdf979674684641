/** Dialogs, confirmations and short notices. */

import { $, actionBar, button, element } from "./elements.js";

const NOTICE_MS = 4000;
const ERROR_NOTICE_MS = 9000;

/** Open a modal dialog. It is removed from the page when it closes. */
export function openDialog(title, ...children) {
  const closeForm = element(
    "form",
    {
      method: "dialog",
      onsubmit: (event) => {
        event.preventDefault();
        node.close();
      },
    },
    element("button", { "aria-label": "Close" }, "×"),
  );
  const node = element("dialog", { "aria-label": title }, closeForm, element("h2", {}, title), children);
  node.addEventListener("close", () => node.remove());
  document.body.append(node);
  node.showModal();
  return node;
}

/** Ask for a confirmation; `title` is the question, `confirm` and `cancel` label the buttons. Resolves to a boolean. */
export function confirmAction({ title, text, confirm, cancel = "Cancel", danger = false }) {
  return new Promise((resolve) => {
    let confirmed = false;
    const accept = () => {
      confirmed = true;
      node.close();
    };
    const node = openDialog(
      title,
      text && element("p", {}, text),
      actionBar(
        button(confirm, accept, { className: danger ? "danger" : "primary" }),
        button(cancel, () => node.close()),
      ),
    );
    node.addEventListener("close", () => resolve(confirmed));
  });
}

/** Show a short notice in the corner of the page. */
export function notify(text, isError = false) {
  const notice = element("p", { className: isError ? "error" : "" }, text);
  $("notices").append(notice);
  setTimeout(() => notice.remove(), isError ? ERROR_NOTICE_MS : NOTICE_MS);
}

/** Run `work` while the button `control`, if any, is disabled. Show an error as a notice, and return undefined. */
export async function runAction(control, work) {
  if (control) control.disabled = true;
  try {
    return await work();
  } catch (error) {
    notify(error.message, true);
    return undefined;
  } finally {
    if (control) control.disabled = false;
  }
}
