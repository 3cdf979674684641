/** The gateway's API. A cookie that no script can read says who is signed in; what changes something carries its token. */

let token = "";

/** What is wrong, in words, and as the faults ({pointer, detail}) that name what is wrong in what was sent. */
export class Problem extends Error {
  faults = [];

  static of(faults) {
    return Object.assign(new Problem(faults.map(({ pointer, detail }) => `${pointer}: ${detail}`).join("; ")), {
      faults,
    });
  }
}

const CREATING = ["/v1/notifications", "/v1/campaigns", "/v1/alerts"];

function headers(more = {}) {
  return { "X-CSRF-Token": token, ...more };
}

/** Sign in with a secret key, or answer who is signed in already. */
export async function signIn(key) {
  const session = await (key ? call("POST", "/v1/session", { key }) : call("GET", "/v1/session"));
  token = session.csrf_token;
  return session;
}

export async function signOut() {
  await call("DELETE", "/v1/session");
  token = "";
}

/** One call; answers the JSON, or throws what the gateway's problem+json says in words. */
export async function call(method, path, body) {
  const sent = body === undefined ? {} : { "Content-Type": "application/json" };
  if (method === "POST" && CREATING.includes(path))
    sent["Idempotency-Key"] = crypto.randomUUID?.() ?? `${Math.random()}`;
  let response;
  try {
    response = await fetch(path, { method, headers: headers(sent), body: body && JSON.stringify(body) });
  } catch {
    throw new Problem("the gateway cannot be reached");
  }
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  if (response.status === 401) over();
  const { detail, title, errors } = answer;
  throw errors?.length ? Problem.of(errors) : new Problem(detail ?? title ?? `the gateway answered ${response.status}`);
}

/** The session has ended, here or elsewhere. */
function over() {
  if (token) document.dispatchEvent(new Event("session-over"));
  token = "";
}

export const get = (path) => call("GET", path);
export const post = (path, body) => call("POST", path, body);

/** `?a=b` of what is given; nothing for what is empty. */
export function query(values) {
  const said = new URLSearchParams(
    Object.entries(values).filter(([, value]) => value !== undefined && value !== null && `${value}`.trim() !== ""),
  );
  return said.size ? `?${said}` : "";
}

/**
 * Follow the log until `signal` aborts: `onDeliveries` gets what arrived together, `onState` live or reconnecting.
 * EventSource cannot send a key, so the events are read from the response; a broken connection resumes after the
 * last event that was seen.
 */
export async function follow(query, onDeliveries, onState, signal) {
  let last;
  for (let failures = 0; !signal.aborted; failures += 1) {
    try {
      const resumed = last === undefined ? {} : { "Last-Event-ID": last };
      const response = await fetch(`/v1/deliveries/stream?${query}`, { headers: headers(resumed), signal });
      if (response.status === 401) over();
      // As 503, 429 passes: too many follow the log for now.
      if (response.status >= 400 && response.status < 500 && response.status !== 429) return;
      if (!response.ok) throw new Problem("not now");
      onState("live");
      failures = 0;
      for await (const events of read(response.body)) {
        const found = events.filter(({ data }) => data);
        if (found.length) last = found.at(-1).id;
        onDeliveries(found.map(({ data }) => JSON.parse(data)));
      }
    } catch (error) {
      if (signal.aborted) return;
    }
    onState("reconnecting");
    await new Promise((later) => setTimeout(later, Math.min(1000 * 2 ** failures, 15000)));
  }
}

/** The events of each chunk that arrives (HTML standard, section 9.2.6), as far as the gateway uses them. */
async function* read(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    yield events.map((text) =>
      Object.fromEntries(
        text.split("\n").map((line) => {
          const at = line.indexOf(":");
          return [line.slice(0, at), line.slice(at + 1).trimStart()];
        }),
      ),
    );
  }
}
