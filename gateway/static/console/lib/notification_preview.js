/** How a notification looks on a phone and on a desktop. Icons and images are those the author named. */

import { element } from "./elements.js";

const picture = (address, className) =>
  /^(https:|data:image\/|\/)/.test(address ?? "")
    ? element("img", { className, src: address, alt: "", referrerPolicy: "no-referrer" })
    : null;

export function preview(content, from) {
  const actions = (content.actions ?? []).slice(0, 2).map(({ title }) => element("span", {}, title));
  const message = () =>
    element(
      "div",
      { className: "message" },
      element(
        "div",
        { className: "from" },
        picture(content.icon, "icon") ?? element("span", { className: "icon" }, (from ?? "P")[0]),
        from,
        element("small", {}, "now"),
      ),
      element("b", {}, content.title || "Title"),
      element("p", {}, content.body ?? ""),
      picture(content.image, "image"),
      actions.length > 0 && element("div", { className: "actions" }, actions),
    );
  return element(
    "div",
    { className: "preview" },
    element(
      "figure",
      {},
      element("div", { className: "phone" }, element("time", {}, "9:41"), message()),
      element("figcaption", {}, "Phone"),
    ),
    element("figure", {}, element("div", { className: "desktop" }, message()), element("figcaption", {}, "Desktop")),
  );
}
