/**
 * HTTP client of the gateway's API.
 *
 * The browser adds the HttpOnly session cookie to each request. The header with the session's CSRF token proves to the
 * gateway that the request comes from this page.
 */

let csrfToken = "";

/** An error with a message for people and a list `faults` of {pointer, detail}, one for each invalid field. */
export class Problem extends Error {
  faults = [];

  static of(faults) {
    const message = faults.map(({ pointer, detail }) => `${pointer}: ${detail}`).join("; ");
    return Object.assign(new Problem(message), { faults });
  }
}

// Requests that create a message carry an Idempotency-Key.
const IDEMPOTENT_PATHS = ["/v1/notifications", "/v1/campaigns", "/v1/alerts"];
const MAX_RECONNECT_DELAY_MS = 15_000;

function withCsrfToken(headers = {}) {
  return { "X-CSRF-Token": csrfToken, ...headers };
}

/** Sign in with a secret key, or return the session that the cookie belongs to. */
export async function signIn(key) {
  const session = await (key ? call("POST", "/v1/session", { key }) : call("GET", "/v1/session"));
  csrfToken = session.csrf_token;
  return session;
}

export async function signOut() {
  await call("DELETE", "/v1/session");
  csrfToken = "";
}

/** Send one request and return its JSON. Throws a Problem made from the gateway's problem+json (RFC 9457). */
export async function call(method, path, body) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  if (method === "POST" && IDEMPOTENT_PATHS.includes(path))
    headers["Idempotency-Key"] = crypto.randomUUID?.() ?? `${Math.random()}`;
  let response;
  try {
    response = await fetch(path, { method, headers: withCsrfToken(headers), body: body && JSON.stringify(body) });
  } catch {
    throw new Problem("The gateway cannot be reached.");
  }
  const payload = await response.json().catch(() => ({}));
  if (response.ok) return payload;
  if (response.status === 401) endSession();
  const { detail, title, errors } = payload;
  throw errors?.length
    ? Problem.of(errors)
    : new Problem(detail ?? title ?? `The gateway returned ${response.status}.`);
}

/** The gateway no longer accepts the session: it expired, or somebody signed out in another tab. */
function endSession() {
  if (csrfToken) document.dispatchEvent(new Event("session-ended"));
  csrfToken = "";
}

export const get = (path) => call("GET", path);
export const post = (path, body) => call("POST", path, body);

/** Build `?a=b` from the values that are not empty. Returns an empty string if all values are empty. */
export function queryString(values) {
  const filled = Object.entries(values).filter(([, value]) => `${value ?? ""}`.trim() !== "");
  const parameters = new URLSearchParams(filled);
  return parameters.size ? `?${parameters}` : "";
}

/**
 * Follow the delivery log until `signal` aborts. `onDeliveries` gets the deliveries of one chunk, `onState` "live" or
 * "reconnecting".
 *
 * EventSource cannot send headers, so the events are parsed from the response body. A broken connection resumes after
 * the last event received.
 */
export async function followDeliveries(parameters, onDeliveries, onState, signal) {
  let lastEventId;
  for (let failures = 0; !signal.aborted; failures += 1) {
    try {
      const resume = lastEventId === undefined ? {} : { "Last-Event-ID": lastEventId };
      const response = await fetch(`/v1/deliveries/stream?${parameters}`, { headers: withCsrfToken(resume), signal });
      if (response.status === 401) endSession();
      // 429 means that too many streams are open, which is temporary.
      if (response.status >= 400 && response.status < 500 && response.status !== 429) return;
      if (!response.ok) throw new Problem(`The gateway returned ${response.status}.`);
      onState("live");
      failures = 0;
      for await (const events of parseEventStream(response.body)) {
        const deliveries = events.filter(({ data }) => data);
        if (deliveries.length) lastEventId = deliveries.at(-1).id;
        onDeliveries(deliveries.map(({ data }) => JSON.parse(data)));
      }
    } catch {
      if (signal.aborted) return;
    }
    onState("reconnecting");
    await new Promise((resolve) => setTimeout(resolve, Math.min(1000 * 2 ** failures, MAX_RECONNECT_DELAY_MS)));
  }
}

/** Yield a list of the events of each chunk (HTML standard, section 9.2.6: the part that the gateway uses). */
async function* parseEventStream(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    yield blocks.map((block) => Object.fromEntries(block.split("\n").map(parseEventField)));
  }
}

function parseEventField(line) {
  const colon = line.indexOf(":");
  return [line.slice(0, colon), line.slice(colon + 1).trimStart()];
}
