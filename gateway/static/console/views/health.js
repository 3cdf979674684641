/** Whether the gateway can work, what waits in its queue, and where more is told. */

import { get } from "../lib/api.js";
import { badge, card, count, element, facts, heading, lasting, repeating, table } from "../lib/elements.js";

const EVERY_MS = 3000;

export async function open(body, { signal, live }) {
  async function refresh() {
    const asked = performance.now();
    const ready = await fetch("/readyz").then(
      (answer) => answer.json(),
      () => ({ status: "cannot be reached", checks: {} }),
    );
    const took = performance.now() - asked;
    const told = await get("/v1/stats?by=minute");
    if (signal.aborted) return;
    live(ready.status === "ready" ? "live" : "reconnecting");
    body.replaceChildren(
      heading("Health", badge(ready.status === "ready" ? "ok" : "failing")),
      card(
        "This server",
        facts([["Ready", ready.status], ...Object.entries(ready.checks), ["Answers in", lasting(took)]]),
      ),
      card(
        "Queue of this application",
        table(
          [
            ["Lane", (lane) => element("b", {}, lane.lane)],
            ["Due", (lane) => count(lane.due)],
            ["Later", (lane) => count(lane.later)],
            ["Paused", (lane) => count(lane.paused)],
            ["Oldest that is due", (lane) => (lane.due ? lasting(1000 * lane.oldest_s) : "–")],
          ],
          told.queue,
        ),
      ),
      card(
        "Push services in the last hour",
        table(
          [
            ["Push service", (one) => one.push_service],
            ["Breaker", (one) => badge({ open: "failing", closed: "ok" }[one.breaker] ?? "unknown")],
            ["Accepted", (one) => count(one.outcomes.accepted)],
            ["Gone", (one) => count(one.outcomes.gone)],
            ["Rejected", (one) => count(one.outcomes.rejected)],
            ["Expired", (one) => count(one.outcomes.expired)],
          ],
          told.push_services,
          "Nothing was sent in the last hour.",
        ),
      ),
      card(
        "More",
        element(
          "p",
          { className: "soft" },
          "For Prometheus at ",
          element("a", { href: "/metrics" }, "/metrics"),
          "; on the server, ",
          element("code", {}, "gateway doctor"),
          " says what to do.",
        ),
      ),
    );
  }
  await refresh();
  repeating(refresh, EVERY_MS, signal);
}
