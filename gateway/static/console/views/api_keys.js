/** The application and its keys. Creating a key needs the operator's admin token, which must not be in a browser. */

import { get } from "../lib/api.js";
import { badge, card, definitionList, element, mutedText, pageHeading, table } from "../lib/elements.js";
import { formatDateTime } from "../lib/format.js";

export async function open(body, { session }) {
  const application = await get(`/v1/applications/${session.application_id}`);
  const columns = [
    ["Name", (key) => [key.name, " ", key.hint === session.key && badge("this session", "live")]],
    ["Key", (key) => element("code", {}, key.hint)],
    ["ID", (key) => element("code", {}, key.id)],
    ["Scopes", (key) => key.scopes.join(", ")],
    ["Created", (key) => formatDateTime(key.created_at)],
  ];
  const commands = [
    `gateway keys create --app ${application.id} --scope read --scope send`,
    `gateway keys remove --app ${application.id} KEY_ID`,
  ];
  body.replaceChildren(
    pageHeading("API keys"),
    card(
      "Application",
      definitionList([
        ["Name", application.name],
        ["ID", application.id],
        ["VAPID subject", application.subject],
        ["Allowed origins", application.allowed_origins.join(", ") || "none"],
        ["User identity verification", application.require_identity ? "required (user_hash)" : "off"],
        ["VAPID public key", element("code", {}, application.vapid_public_key)],
        ["Created", formatDateTime(application.created_at)],
      ]),
    ),
    card("Keys", table(columns, application.keys, "No keys.")),
    card(
      "Create or delete a key",
      mutedText("Keys are managed with the admin token, which the console never asks for. On the server, run:"),
      element("pre", {}, commands.join("\n")),
    ),
  );
}
