/**
 * Register this browser with a Web Push gateway.
 *
 * One module without dependencies, so that a page needs no build. What the service worker must know when no
 * page is open (who we are, what we asked for) is kept in IndexedDB, one record per worker scope: the worker
 * registers anew by it when the browser changes the subscription. `webpush.d.ts` describes every call.
 */

export class WebPushError extends Error {
  constructor(code, message, { status = 0, errors = [], cause } = {}) {
    super(message, { cause });
    this.name = "WebPushError";
    this.code = code;
    this.status = status;
    this.errors = errors;
  }
}

const DAY_MS = 86_400_000;
/** A share of a location tells a district and not a house: two decimals are about a kilometre. */
const COARSE = { decimals: 2, accuracy_m: 1500 };
const KINDS = { message: "displayed", click: "clicked", dismiss: "dismissed" };

export function init({
  gateway,
  key,
  vapidPublicKey,
  serviceWorker = "/service-worker.js",
  scope,
  sync: atLoad = true,
}) {
  const base = new URL(gateway, location.href).href.replace(/\/+$/, "");
  if (!key) throw new WebPushError("no_key", "init needs the publishable key (pk_...)");
  if (/^sk_/.test(key)) throw new WebPushError("secret_key", "a secret key must never be in a web page; use the pk_");

  const workerScope = new URL(scope ?? new URL(".", new URL(serviceWorker, location.href)), location.href).href;
  const call = (method, path, token, body) => request(method, base + path, token, body);

  const stored = () => inStore("readonly", (store) => store.get(workerScope));
  const devicePath = ({ id }) => `/v1/devices/${encodeURIComponent(id)}`;
  const store = (record) => inStore("readwrite", (store) => store.put(record, workerScope));

  async function current() {
    const registration = await navigator.serviceWorker.getRegistration(workerScope);
    // getRegistration also answers with a worker of a wider scope, which is another application's.
    return registration?.scope === workerScope ? registration.pushManager.getSubscription() : null;
  }

  async function device() {
    const record = await stored();
    if (!record?.id) throw new WebPushError("not_subscribed", "this browser is not subscribed; call subscribe() first");
    return record;
  }

  /** Change the device at the gateway, then what the worker would register anew with. */
  async function change(method, path, body, edit) {
    const record = await device();
    const body_ = edit(record.body);
    try {
      await call(method, devicePath(record) + path, record.device_token, body);
    } catch (error) {
      if (error.status !== 404 && error.status !== 401) throw error;
      await store({ ...record, body: body_ }); // the gateway no longer knows this device: register it with the change
      await register();
      return;
    }
    await store({ ...record, body: body_ });
  }

  /** What is known of the person and the device, also before there is a subscription to tell it with. */
  async function say(said, edit) {
    const record = await stored();
    if (record?.id) return change("PATCH", "", said, edit);
    await store({ gateway: base, key, body: edit(record?.gateway === base ? record.body : {}) });
  }

  async function subscribe({ userId, userHash, attributes, topics, zones, location: place, client } = {}) {
    if (!supported()) throw new WebPushError("unsupported", "this browser has no Web Push");
    // First of all: browsers ask only while the user's click is fresh, and awaiting anything else would use it up.
    const permission = await Notification.requestPermission();
    if (permission === "denied") throw new WebPushError("denied", "the user does not allow notifications");
    if (permission !== "granted") throw new WebPushError("dismissed", "the user did not answer; ask again later");

    return register({
      user_id: userId,
      user_hash: userHash,
      attributes,
      topics,
      zones,
      location: place,
      client,
    });
  }

  /** Subscribe where that is needed, and tell the gateway; nobody is asked. */
  async function register({ client, ...given } = {}) {
    const wanted = vapidPublicKey ?? (await call("GET", "/v1/vapid-public-key", key)).vapid_public_key;
    const registration = await activated(await ours(serviceWorker, workerScope));
    const subscription = await subscribed(registration, wanted);
    const before = await stored().then((record) => (record?.gateway === base ? record : undefined));
    const remembered = before?.body ?? {};
    const said = defined({ ...given, client: { ...clientDetails(), ...client }, vapid_public_key: wanted });
    // To the gateway a new endpoint is a new device, so it is told again what was said of the old one.
    const renewed = before && before.endpoint !== subscription.endpoint;
    const body = { subscription: subscription.toJSON(), ...(renewed ? { ...remembered, ...said } : said) };
    let answer = await call("POST", "/v1/devices", key, body);
    if (before?.id && before.id !== answer.id && !renewed) {
      // The gateway had lost the old device: the new one is told what was said of that.
      answer = { ...answer, ...(await call("POST", "/v1/devices", key, { ...body, ...remembered, ...said })) };
    }
    const { id, device_token = before?.device_token } = answer;
    await store({
      gateway: base,
      key,
      id,
      device_token,
      endpoint: subscription.endpoint,
      body: { ...remembered, ...said },
      told_at: Date.now(),
    });
    if (renewed && before.id && before.id !== id) {
      // At worst the old device stays until the push service answers 410 for it.
      await call("DELETE", devicePath(before), before.device_token).catch(() => {});
    }
    return { id, subscription };
  }

  async function unsubscribe() {
    const [record, subscription] = await Promise.all([stored(), current()]);
    // The browser's own end comes first: whatever the gateway answers, no push arrives from here on.
    await subscription?.unsubscribe();
    await inStore("readwrite", (store) => store.delete(workerScope));
    if (!record?.id) return Boolean(subscription);
    try {
      await call("DELETE", devicePath(record), record.device_token);
    } catch (error) {
      if (error.status !== 404 && error.status !== 401) throw error;
    }
    return true;
  }

  /**
   * Heal what has come apart since: a subscription that the browser has lost or that is about to expire, at once; a
   * VAPID key that was changed, and a device that the gateway no longer has, once a day. Never asks anybody anything.
   */
  async function sync({ force = false } = {}) {
    const record = await stored();
    if (!supported() || Notification.permission !== "granted") return state();
    const subscription = await current();
    if (!record?.id || record.gateway !== base) {
      // Subscribed at our scope, and not by us: by the sender before us, which the person has agreed to.
      if (subscription) await register();
      return state();
    }
    const ending = subscription?.expirationTime && subscription.expirationTime < Date.now() + DAY_MS;
    if (ending) await subscription.unsubscribe();
    if (force || ending || subscription?.endpoint !== record.endpoint || Date.now() > (record.told_at ?? 0) + DAY_MS)
      await register();
    return state();
  }

  async function state() {
    if (!supported())
      return clientDetails().platform === "ios" && !navigator.standalone ? "needs-install" : "unsupported";
    if (Notification.permission === "denied") return "denied";
    const [record, subscription] = await Promise.all([stored(), current()]);
    return record?.id && subscription ? "subscribed" : "ready";
  }

  const topicPath = (topic) => `/topics/${encodeURIComponent(topic)}`;
  const without = (topic) => (body) => ({ ...body, topics: (body.topics ?? []).filter((name) => name !== topic) });
  const withTopic = (topic) => (body) => ({ ...body, topics: [...without(topic)(body).topics, topic] });

  const withMuted = (category, enabled) => (body) => {
    const others = (body.muted ?? []).filter((name) => name !== category);
    return { ...body, muted: enabled ? others : [...others, category] };
  };

  const place = (at) => change("PUT", "/location", at, (body) => ({ ...body, location: at }));

  /** Ask the browser where it is, at most once: who has said no, or nothing, is not asked again. */
  async function share({ precise = false, again = false } = {}) {
    await device(); // without one nobody could be told
    const asked = `webpush-location-${workerScope}`;
    const { state: permission } = await (navigator.permissions?.query({ name: "geolocation" }) ?? { state: "prompt" });
    if (permission === "denied" || (permission === "prompt" && !again && localStorage.getItem(asked))) return null;
    localStorage.setItem(asked, "1");
    const found = await new Promise((resolve) => {
      navigator.geolocation.getCurrentPosition(resolve, () => resolve(null), { enableHighAccuracy: precise });
    });
    if (!found) return null;
    const { latitude: lat, longitude: lon, accuracy } = found.coords;
    const round = (degrees) => Number(degrees.toFixed(COARSE.decimals));
    const at = precise
      ? { lat, lon, accuracy_m: accuracy }
      : { lat: round(lat), lon: round(lon), accuracy_m: Math.max(accuracy, COARSE.accuracy_m) };
    await place(at);
    return at;
  }

  if (atLoad) sync().catch((error) => console.warn("webpush: not in step with the gateway", error));

  return {
    subscribe,
    sync,
    identify: (userId, userHash) => {
      const said =
        userId === null ? { user_id: null, user_hash: null } : defined({ user_id: userId, user_hash: userHash });
      return say(said, (body) => ({ ...body, ...said }));
    },
    setAttributes: (attributes) =>
      say({ attributes }, (body) => ({
        ...body,
        attributes: Object.fromEntries(
          Object.entries({ ...body.attributes, ...attributes }).filter(([, value]) => value !== null),
        ),
      })),
    unsubscribe,
    state,
    device: async () => {
      const record = await stored();
      return record?.id ? { id: record.id, topics: record.body.topics ?? [], location: record.body.location } : null;
    },
    topics: {
      add: (topic) => change("PUT", topicPath(topic), undefined, withTopic(topic)),
      remove: (topic) => change("DELETE", topicPath(topic), undefined, without(topic)),
    },
    preferences: {
      list: async () => {
        const record = await device();
        return (await call("GET", `${devicePath(record)}/preferences`, record.device_token)).categories;
      },
      set: (category, enabled) =>
        change("PATCH", "/preferences", { categories: { [category]: enabled } }, withMuted(category, enabled)),
    },
    inbox: {
      list: async ({ after, wait, limit, cursor } = {}) => {
        const record = await device();
        const asked = new URLSearchParams(defined({ after, wait, limit, cursor }));
        return call("GET", `${devicePath(record)}/inbox?${asked}`, record.device_token);
      },
      markRead: async (which) => {
        const record = await device();
        const path = `${devicePath(record)}/inbox`;
        if (typeof which === "number") return call("POST", `${path}/read`, record.device_token, { upto: which });
        return call("PUT", `${path}/${encodeURIComponent(which)}/read`, record.device_token);
      },
    },
    live: (options = {}) => openLive(base.replace(/^http/, "ws"), device, options),
    location: { set: place, share },
    on(kind, callback) {
      if (!KINDS[kind])
        throw new WebPushError("unknown_kind", `there is ${Object.keys(KINDS).join(", ")}, and no ${kind}`);
      const heard = ({ data }) => data?.source === "webpush-gateway" && data.event === KINDS[kind] && callback(data);
      navigator.serviceWorker.addEventListener("message", heard);
      navigator.serviceWorker.startMessages();
      return () => navigator.serviceWorker.removeEventListener("message", heard);
    },
  };
}

/**
 * Keep a WebSocket open for as long as the page wants. Where it stopped is kept in this tab's storage, so that nothing is
 * missed or shown twice when the connection breaks or the page is loaded anew.
 */
function openLive(base, device, { mode = "beside", onNotification = () => {}, onState = () => {} }) {
  let socket,
    timer,
    tries = 0,
    stopped = false;
  const seen = new Set();

  const remember = (id, position) => position != null && sessionStorage.setItem(`webpush-live-${id}`, position);

  async function hear({ id, device_token: token }, message) {
    if (message.type === "ready") {
      tries = 0;
      remember(id, message.position);
      onState("open");
    }
    if (message.type === "notification") {
      if (!seen.has(message.id)) {
        seen.add(message.id);
        await onNotification(message);
      }
      if (mode === "instead" && message.position == null) socket.send(JSON.stringify({ type: "ack", id: message.id }));
    }
    remember(id, message.position);
  }

  async function open() {
    const record = await device();
    if (stopped) return;
    const after = sessionStorage.getItem(`webpush-live-${record.id}`);
    socket = new WebSocket(`${base}/v1/devices/${encodeURIComponent(record.id)}/live`);
    const hello = { type: "hello", token: record.device_token, after: after === null ? null : Number(after), mode };
    socket.onopen = () => socket.send(JSON.stringify(hello));
    let order = Promise.resolve();
    socket.onmessage = ({ data }) => {
      order = order.then(() => hear(record, JSON.parse(data))).catch((error) => reportError(error));
    };
    socket.onclose = ({ code }) => {
      // Asking again would be answered the same: the device is unregistered, or the page's origin is not allowed.
      if (stopped || code === 4401 || code === 4400) return onState("closed");
      onState("waiting");
      timer = setTimeout(start, Math.min(30000, 500 * 2 ** tries++) * (0.5 + Math.random() / 2));
    };
  }

  const start = () =>
    open().catch((error) => {
      onState("closed");
      reportError(error);
    });
  start();
  return () => {
    stopped = true;
    clearTimeout(timer);
    socket?.close(1000);
  };
}

export function supported() {
  return isSecureContext && "serviceWorker" in navigator && "PushManager" in window && "Notification" in window;
}

/** The browser's own account of itself, in the gateway's words. */
export function clientDetails() {
  const { userAgent, userAgentData, maxTouchPoints, language } = navigator;
  // An iPad calls itself a Mac; no Mac has a touch screen.
  const apple = maxTouchPoints > 1 ? "ios" : "macos";
  const [platform] = [
    [/android/i, "android"],
    [/iphone|ipad/i, "ios"],
    [/mac/i, apple],
    [/windows/i, "windows"],
    [/cros|chrome ?os/i, "chromeos"],
    [/linux/i, "linux"],
  ]
    .filter(([pattern]) => pattern.test(userAgentData?.platform || userAgent))
    .map(([, name]) => name);
  // The order matters: Edge, Opera and Samsung Internet also say Chrome, and Chrome also says Safari.
  const [browser] = [
    ["Edge", /Edg\w*\/(\d+)/],
    ["Opera", /OPR\/(\d+)/],
    ["Samsung Internet", /SamsungBrowser\/(\d+)/],
    ["Firefox", /(?:Firefox|FxiOS)\/(\d+)/],
    ["Chrome", /(?:Chrome|CriOS)\/(\d+)/],
    ["Safari", /Version\/(\d+).*Safari/],
  ]
    .map(([name, pattern]) => [name, userAgent.match(pattern)?.[1]])
    .filter(([, version]) => version)
    .map(([name, version]) => `${name} ${version}`);
  return { platform, browser, locale: language, timezone: Intl.DateTimeFormat().resolvedOptions().timeZone };
}

/** Our worker at this scope. Another one that is there is the app's own, and is never replaced by ours. */
async function ours(script, scope) {
  const there = await navigator.serviceWorker.getRegistration(scope);
  const theirs = (there?.active ?? there?.waiting ?? there?.installing)?.scriptURL;
  const wanted = new URL(script, location.href);
  if (there?.scope === scope && theirs && new URL(theirs).pathname !== wanted.pathname) {
    throw new WebPushError(
      "worker_taken",
      `${theirs} is the service worker of ${scope}. Have it importScripts() the ` +
        "gateway's and name it in init({serviceWorker}), or give ours a scope of its own.",
    );
  }
  return navigator.serviceWorker.register(script, { scope });
}

/** Subscribe with this VAPID key; a subscription made with another one could never be sent to by us. */
async function subscribed({ pushManager }, vapidKey) {
  const applicationServerKey = fromBase64url(vapidKey);
  const existing = await pushManager.getSubscription();
  if (existing && sameBytes(existing.options?.applicationServerKey, applicationServerKey)) return existing;
  await existing?.unsubscribe();
  try {
    return await pushManager.subscribe({ userVisibleOnly: true, applicationServerKey });
  } catch (cause) {
    throw new WebPushError("subscribe_failed", `the browser could not subscribe: ${cause.message}`, { cause });
  }
}

/** Wait for this registration's own worker; `serviceWorker.ready` would wait for one that controls the page. */
function activated(registration) {
  if (registration.active) return registration;
  const worker = registration.installing ?? registration.waiting;
  return new Promise((resolve, reject) => {
    const look = () => {
      if (worker.state === "activated") resolve(registration);
      if (worker.state === "redundant") reject(new WebPushError("worker_failed", "the service worker did not install"));
    };
    worker.addEventListener("statechange", look);
    look();
  });
}

/** One HTTP call; answers the parsed JSON, or throws what the gateway's problem+json (RFC 9457) says. */
async function request(method, url, token, body) {
  const headers = { authorization: `Bearer ${token}` };
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(url, { method, headers, body: body && JSON.stringify(body), credentials: "omit" });
  } catch (cause) {
    throw new WebPushError("unreachable", `the gateway cannot be reached at ${url}: ${cause.message}`, { cause });
  }
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  const message = answer.detail ?? answer.title ?? `the gateway answered ${response.status}`;
  throw new WebPushError(answer.code ?? "http_error", message, { status: response.status, errors: answer.errors });
}

/** Run one operation on the store that page and worker share. `service-worker.js` opens the same one. */
function inStore(mode, operation) {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open("webpush-gateway", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("registrations");
    opening.onerror = () => reject(opening.error);
    opening.onsuccess = () => {
      const transaction = opening.result.transaction("registrations", mode);
      const asked = operation(transaction.objectStore("registrations"));
      transaction.oncomplete = () => {
        opening.result.close();
        resolve(asked.result);
      };
      transaction.onabort = () => {
        opening.result.close();
        reject(transaction.error);
      };
    };
  });
}

function defined(object) {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined));
}

function fromBase64url(text) {
  const padded = text.replace(/-/g, "+").replace(/_/g, "/").replace(/=+$/, "");
  return Uint8Array.from(atob(padded), (character) => character.charCodeAt(0));
}

function sameBytes(buffer, bytes) {
  if (buffer?.byteLength !== bytes.length) return false;
  const theirs = new Uint8Array(buffer);
  return bytes.every((octet, at) => octet === theirs[at]);
}
