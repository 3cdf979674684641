/** The application and its keys. Keys are made and removed by the operator, whose token no browser should hold. */

import { get } from "../lib/api.js";
import { card, element, exactly, facts, heading, soft, table } from "../lib/elements.js";

export async function open(body, { session }) {
  const application = await get(`/v1/applications/${session.application_id}`);
  body.replaceChildren(
    heading("Keys"),
    card(
      "Application",
      facts([
        ["Name", application.name],
        ["Id", application.id],
        ["VAPID subject", application.subject],
        ["Origins", application.allowed_origins.join(", ") || "none"],
        ["Users are proven", application.require_identity ? "yes, by user_hash" : "no"],
        ["VAPID public key", element("code", {}, application.vapid_public_key)],
        ["Created", exactly(application.created_at)],
      ]),
    ),
    card(
      "Keys",
      table(
        [
          ["Name", (key) => key.name],
          ["Key", (key) => element("code", {}, key.hint)],
          ["May", (key) => key.scopes.join(", ")],
          ["Created", (key) => exactly(key.created_at)],
          ["", (key) => (key.name === session.key ? "you are signed in with it" : "")],
        ],
        application.keys,
      ),
    ),
    card(
      "To make or remove one",
      soft("That needs the operator’s admin token, which this page never asks for. On the server:"),
      element(
        "pre",
        {},
        `gateway keys create --app ${application.id} --scope read --scope send\ngateway keys remove --app ${application.id} KEY_ID`,
      ),
    ),
  );
}
