/** Preview a notification as a phone and a desktop would display it, with the icons and images of its content. */

import { post } from "./api.js";
import { openDialog } from "./dialogs.js";
import { element, mutedText } from "./elements.js";
import { formatCount } from "./format.js";

// In bytes, before encryption: the largest payload that every push service accepts.
const MAX_PAYLOAD = 3993;
const IMAGE_URL = /^(https:|data:image\/|\/)/;

function image(url, className) {
  if (!IMAGE_URL.test(url ?? "")) return null;
  return element("img", { className, src: url, alt: "", referrerPolicy: "no-referrer" });
}

export function notificationPreview(content, appName) {
  const message = () => {
    const buttons = (content.actions ?? []).slice(0, 2).map(({ title }) => element("span", {}, title));
    const initial = element("span", { className: "icon" }, (appName ?? "P")[0]);
    return element(
      "div",
      { className: "message" },
      element(
        "div",
        { className: "sender" },
        image(content.icon, "icon") ?? initial,
        appName,
        element("small", {}, "now"),
      ),
      element("b", {}, content.title || "Title"),
      element("p", {}, content.body ?? ""),
      image(content.image, "image"),
      buttons.length > 0 && element("div", { className: "buttons" }, buttons),
    );
  };
  const screen = (className, caption, ...children) =>
    element("figure", {}, element("div", { className }, children), element("figcaption", {}, caption));
  return element(
    "div",
    { className: "preview" },
    screen("phone", "Phone", element("time", {}, "9:41"), message()),
    screen("desktop", "Desktop", message()),
  );
}

/** Format the size of a rendered payload with the maximum: "312 of 3,993 bytes". */
export const payloadSize = (octets) => `${formatCount(octets)} of ${formatCount(MAX_PAYLOAD)} bytes`;

/** Render content or a template on the server and show it in a dialog. `request` is the body of the preview call. */
export async function openPreview(title, request, appName) {
  const { content, octets } = await post("/v1/templates/preview", request);
  openDialog(
    title,
    notificationPreview(content, appName),
    mutedText(`${payloadSize(octets)}, rendered for an anonymous user`),
  );
}
