/**
 * Register this browser with a Web Push gateway.
 *
 * One module without dependencies, so that a page needs no build step. `webpush.d.ts` documents every call.
 *
 * The registration is stored in IndexedDB, one record for each worker scope. The service worker reads it to register
 * again when the browser changes the subscription while no page is open.
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
// Chromium's endpoint of a subscription that it has removed.
const REMOVED_ENDPOINT = "https://permanently-removed.invalid/";
// Two decimals of a degree are about a kilometre, so the location is that of a district and not of a house.
const COARSE_LOCATION = { decimals: 2, accuracy_m: 1500 };
const MESSAGE_EVENTS = { message: "displayed", click: "clicked", dismiss: "dismissed" };
const MIN_RECONNECT_DELAY_MS = 500;
const MAX_RECONNECT_DELAY_MS = 30_000;
// The gateway closes a live channel with these codes when the device is unknown or the request not allowed.
const FINAL_CLOSE_CODES = [4400, 4401];

export function init({
  gateway,
  key,
  vapidPublicKey,
  serviceWorker = "/service-worker.js",
  scope,
  sync: syncAtLoad = true,
}) {
  const base = new URL(gateway, location.href).href.replace(/\/+$/, "");
  if (!key) throw new WebPushError("no_key", "init needs the application's publishable key (pk_...)");
  if (/^sk_/.test(key))
    throw new WebPushError("secret_key", "a secret key must never be in a web page; use the publishable key (pk_...)");

  const workerScope = new URL(scope ?? new URL(".", new URL(serviceWorker, location.href)), location.href).href;
  const call = (method, path, token, body) => request(method, base + path, token, body);

  const loadRecord = () => inStore("readonly", (store) => store.get(workerScope));
  // The owner of the stored details is the last user, also after the user has signed out.
  const ownerOf = (record) => record?.body?.user_id ?? record?.owner;
  const saveRecord = (record) =>
    inStore("readwrite", (store) => store.put({ ...record, owner: ownerOf(record) }, workerScope));
  const devicePath = ({ id }) => `/v1/devices/${encodeURIComponent(id)}`;

  async function currentSubscription() {
    const registration = await navigator.serviceWorker.getRegistration(workerScope);
    // getRegistration may return the worker of a wider scope, which belongs to another application.
    return registration?.scope === workerScope ? registration.pushManager.getSubscription() : null;
  }

  async function requireDevice() {
    const record = await loadRecord();
    if (!record?.id) throw new WebPushError("not_subscribed", "this browser is not subscribed; call subscribe() first");
    return record;
  }

  /** Change the device at the gateway, then the stored registration. `edit` returns the changed registration. */
  async function changeDevice(method, path, body, edit) {
    const record = await requireDevice();
    const changed = { ...record, owner: ownerOf(record), body: edit(record.body, ownerOf(record)) };
    try {
      await call(method, devicePath(record) + path, record.device_token, body);
    } catch (error) {
      if (!isUnknownDevice(error)) throw error;
      // The gateway no longer has this device: register it again, with the change.
      await saveRecord(changed);
      await register();
      return;
    }
    await saveRecord(changed);
  }

  /** Change details of the user or the device. Before subscribing, they are stored for the registration. */
  async function changeDetails(details, edit) {
    const record = await loadRecord();
    if (record?.id) return changeDevice("PATCH", "", details, edit);
    const previous = record?.gateway === base ? record : { body: {} };
    const owner = ownerOf(previous);
    await saveRecord({ gateway: base, key, owner, body: edit(previous.body, owner) });
  }

  async function subscribe({ userId, userHash, attributes, topics, zones, location: place, client } = {}) {
    if (!supported()) throw new WebPushError("unsupported", "this browser does not support Web Push");
    // Nothing may be awaited before this call: browsers show the prompt only while the user's click is recent.
    const permission = await Notification.requestPermission();
    if (permission === "denied") throw new WebPushError("denied", "notifications are blocked for this site");
    if (permission !== "granted") throw new WebPushError("dismissed", "the user dismissed the permission prompt");

    return register({ user_id: userId, user_hash: userHash, attributes, topics, zones, location: place, client });
  }

  /** Subscribe if necessary, and register with the gateway. Never shows a prompt. */
  async function register({ client, ...details } = {}) {
    const vapidKey = vapidPublicKey ?? (await call("GET", "/v1/vapid-public-key", key)).vapid_public_key;
    const registration = await activated(await registerWorker(serviceWorker, workerScope));
    let subscription = await subscribeWith(registration, vapidKey);
    const previous = await loadRecord().then((record) => (record?.gateway === base ? record : undefined));
    const stored = detailsFor(details.user_id, previous?.body ?? {}, ownerOf(previous));
    const current = defined({ ...details, client: { ...clientDetails(), ...client }, vapid_public_key: vapidKey });
    // For the gateway a new endpoint is a new device, so it needs all stored details again.
    const isNewEndpoint = () => previous && previous.endpoint !== subscription.endpoint;
    const createDevice = (details) =>
      call("POST", "/v1/devices", key, { subscription: subscription.toJSON(), ...details });
    let device;
    try {
      device = await createDevice(isNewEndpoint() ? { ...stored, ...current } : current);
    } catch (error) {
      if (error.code !== "device_proof_required") throw error;
      // Somebody else has registered this endpoint with other keys: give it up.
      await subscription.unsubscribe();
      subscription = await subscribeWith(registration, vapidKey);
      device = await createDevice({ ...stored, ...current });
    }
    if (previous?.id && previous.id !== device.id && !isNewEndpoint()) {
      // The gateway had lost the previous device: repeat the registration with all stored details.
      device = { ...device, ...(await createDevice({ ...stored, ...current })) };
    }
    const { id, device_token = previous?.device_token } = device;
    await saveRecord({
      gateway: base,
      key,
      owner: ownerOf(previous),
      id,
      device_token,
      endpoint: subscription.endpoint,
      body: { ...stored, ...current },
      registered_at: Date.now(),
    });
    if (isNewEndpoint() && previous.id && previous.id !== id) {
      // If this fails, the gateway deletes the previous device when the push service returns 410 for it.
      await call("DELETE", devicePath(previous), previous.device_token).catch(() => {});
    }
    return { id, subscription };
  }

  async function unsubscribe() {
    const [record, subscription] = await Promise.all([loadRecord(), currentSubscription()]);
    // The browser unsubscribes first, so that no more messages arrive even if the request to the gateway fails.
    await subscription?.unsubscribe();
    await inStore("readwrite", (store) => store.delete(workerScope));
    if (!record?.id) return Boolean(subscription);
    try {
      await call("DELETE", devicePath(record), record.device_token);
    } catch (error) {
      if (!isUnknownDevice(error)) throw error;
    }
    return true;
  }

  /**
   * Repair the registration without a prompt: at once when the browser has lost the subscription or it is about to
   * expire, and once a day in case the VAPID key has changed or the gateway has lost the device.
   */
  async function sync({ force = false } = {}) {
    const record = await loadRecord();
    if (!supported() || Notification.permission !== "granted") return state();
    const subscription = await currentSubscription();
    if (!record?.id || record.gateway !== base) {
      // A previous sender created this subscription, and the user has agreed to it: register it with this gateway.
      if (subscription) await register();
      return state();
    }
    const isExpiring = subscription?.expirationTime && subscription.expirationTime < Date.now() + DAY_MS;
    if (isExpiring) await subscription.unsubscribe();
    const isLost = isExpiring || subscription?.endpoint !== record.endpoint;
    if (force || isLost || Date.now() > (record.registered_at ?? 0) + DAY_MS) await register();
    return state();
  }

  async function state() {
    if (!supported())
      return clientDetails().platform === "ios" && !navigator.standalone ? "needs-install" : "unsupported";
    if (Notification.permission === "denied") return "denied";
    const [record, subscription] = await Promise.all([loadRecord(), currentSubscription()]);
    return record?.id && subscription ? "subscribed" : "ready";
  }

  const topicPath = (topic) => `/topics/${encodeURIComponent(topic)}`;
  const withoutTopic = (topic) => (body) => ({
    ...body,
    topics: (body.topics ?? []).filter((name) => name !== topic),
  });
  const withTopic = (topic) => (body) => ({ ...body, topics: [...withoutTopic(topic)(body).topics, topic] });

  const withPreference = (category, enabled) => (body) => {
    const others = (body.muted ?? []).filter((name) => name !== category);
    return { ...body, muted: enabled ? others : [...others, category] };
  };

  const setLocation = (place) => changeDevice("PUT", "/location", place, (body) => ({ ...body, location: place }));

  /** Share the browser's location. The browser prompts at most once, unless `again` is set. */
  async function shareLocation({ precise = false, again = false } = {}) {
    await requireDevice();
    const promptedKey = `webpush-location-${workerScope}`;
    const { state: permission } = await (navigator.permissions?.query({ name: "geolocation" }) ?? { state: "prompt" });
    if (permission === "denied" || (permission === "prompt" && !again && localStorage.getItem(promptedKey)))
      return null;
    localStorage.setItem(promptedKey, "1");
    const position = await new Promise((resolve) => {
      navigator.geolocation.getCurrentPosition(resolve, () => resolve(null), { enableHighAccuracy: precise });
    });
    if (!position) return null;
    const { latitude: lat, longitude: lon, accuracy } = position.coords;
    const round = (degrees) => Number(degrees.toFixed(COARSE_LOCATION.decimals));
    const place = precise
      ? { lat, lon, accuracy_m: accuracy }
      : { lat: round(lat), lon: round(lon), accuracy_m: Math.max(accuracy, COARSE_LOCATION.accuracy_m) };
    await setLocation(place);
    return place;
  }

  if (syncAtLoad) sync().catch((error) => console.warn("webpush: sync with the gateway failed", error));

  return {
    subscribe,
    sync,
    identify: (userId, userHash) => {
      const details =
        userId === null ? { user_id: null, user_hash: null } : defined({ user_id: userId, user_hash: userHash });
      return changeDetails(details, (body, owner) => ({ ...detailsFor(userId, body, owner), ...details }));
    },
    setAttributes: (attributes) =>
      changeDetails({ attributes }, (body) => {
        const merged = Object.entries({ ...body.attributes, ...attributes });
        return { ...body, attributes: Object.fromEntries(merged.filter(([, value]) => value !== null)) };
      }),
    unsubscribe,
    state,
    device: async () => {
      const record = await loadRecord();
      return record?.id ? { id: record.id, topics: record.body.topics ?? [], location: record.body.location } : null;
    },
    topics: {
      add: (topic) => changeDevice("PUT", topicPath(topic), undefined, withTopic(topic)),
      remove: (topic) => changeDevice("DELETE", topicPath(topic), undefined, withoutTopic(topic)),
    },
    preferences: {
      list: async () => {
        const record = await requireDevice();
        return (await call("GET", `${devicePath(record)}/preferences`, record.device_token)).categories;
      },
      set: (category, enabled) => {
        const body = { categories: { [category]: enabled } };
        return changeDevice("PATCH", "/preferences", body, withPreference(category, enabled));
      },
    },
    inbox: {
      list: async ({ after, wait, limit, cursor } = {}) => {
        const record = await requireDevice();
        const parameters = new URLSearchParams(defined({ after, wait, limit, cursor }));
        return call("GET", `${devicePath(record)}/inbox?${parameters}`, record.device_token);
      },
      markRead: async (which) => {
        const record = await requireDevice();
        const path = `${devicePath(record)}/inbox`;
        if (typeof which === "number") return call("POST", `${path}/read`, record.device_token, { upto: which });
        return call("PUT", `${path}/${encodeURIComponent(which)}/read`, record.device_token);
      },
    },
    live: (options = {}) => openLiveChannel(base.replace(/^http/, "ws"), requireDevice, options),
    location: { set: setLocation, share: shareLocation },
    on(kind, callback) {
      const event = MESSAGE_EVENTS[kind];
      if (!event) {
        const kinds = Object.keys(MESSAGE_EVENTS).join(", ");
        throw new WebPushError("unknown_kind", `"${kind}" is not one of ${kinds}`);
      }
      const listener = ({ data }) => data?.source === "webpush-gateway" && data.event === event && callback(data);
      navigator.serviceWorker.addEventListener("message", listener);
      navigator.serviceWorker.startMessages();
      return () => navigator.serviceWorker.removeEventListener("message", listener);
    },
  };
}

/** The stored details as they are for a user: another one than their owner starts without topics and attributes. */
function detailsFor(userId, body, owner) {
  if (!userId || !owner || userId === owner) return body;
  const { topics, attributes, ...others } = body;
  return others;
}

/** The gateway no longer has the device, or no longer accepts its token. */
const isUnknownDevice = ({ status }) => status === 404 || status === 401;

/**
 * Keep a WebSocket open until the returned function is called.
 *
 * The last position is stored in the tab's session storage, so that a reconnect or a reload neither misses nor repeats
 * a notification.
 */
function openLiveChannel(base, requireDevice, { mode = "additional", onNotification = () => {}, onState = () => {} }) {
  let socket;
  let timer;
  let failures = 0;
  let stopped = false;
  const received = new Set();

  const savePosition = (id, position) => position != null && sessionStorage.setItem(`webpush-live-${id}`, position);

  async function receive({ id }, message) {
    if (message.type === "ready") {
      failures = 0;
      savePosition(id, message.position);
      onState("open");
    }
    if (message.type === "notification") {
      if (!received.has(message.id)) {
        received.add(message.id);
        await onNotification(message);
      }
      if (mode === "exclusive" && message.position == null)
        socket.send(JSON.stringify({ type: "ack", id: message.id }));
    }
    savePosition(id, message.position);
  }

  async function open() {
    const record = await requireDevice();
    if (stopped) return;
    const after = sessionStorage.getItem(`webpush-live-${record.id}`);
    socket = new WebSocket(`${base}/v1/devices/${encodeURIComponent(record.id)}/live`);
    const hello = { type: "hello", token: record.device_token, after: after === null ? null : Number(after), mode };
    socket.onopen = () => socket.send(JSON.stringify(hello));
    // Messages are handled one after another, in their order.
    let queue = Promise.resolve();
    socket.onmessage = ({ data }) => {
      queue = queue.then(() => receive(record, JSON.parse(data))).catch((error) => reportError(error));
    };
    socket.onclose = ({ code }) => {
      if (stopped || FINAL_CLOSE_CODES.includes(code)) return onState("closed");
      onState("waiting");
      const delay = Math.min(MAX_RECONNECT_DELAY_MS, MIN_RECONNECT_DELAY_MS * 2 ** failures);
      failures += 1;
      timer = setTimeout(start, delay * (0.5 + Math.random() / 2));
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

/** Describe this browser with the names that the gateway uses. */
export function clientDetails() {
  const { userAgent, userAgentData, maxTouchPoints, language } = navigator;
  // The user agent of an iPad is that of a Mac, but no Mac has a touch screen.
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
  // Order matters: the user agents of Edge, Opera and Samsung Internet contain "Chrome", that of Chrome "Safari".
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
  const { timeZone } = Intl.DateTimeFormat().resolvedOptions();
  // Browsers name a zone that they cannot determine Etc/Unknown, which is no time zone.
  return { platform, browser, locale: language, timezone: timeZone === "Etc/Unknown" ? undefined : timeZone };
}

/** Register the service worker. A different worker at the scope is the application's own and is not replaced. */
async function registerWorker(script, scope) {
  const existing = await navigator.serviceWorker.getRegistration(scope);
  const existingUrl = (existing?.active ?? existing?.waiting ?? existing?.installing)?.scriptURL;
  const url = new URL(script, location.href);
  if (existing?.scope === scope && existingUrl && new URL(existingUrl).pathname !== url.pathname) {
    throw new WebPushError(
      "worker_taken",
      `the scope ${scope} already has the service worker ${existingUrl}. Load the gateway's worker in it with ` +
        "importScripts() and pass its path to init({serviceWorker}), or choose another scope.",
    );
  }
  return navigator.serviceWorker.register(script, { scope });
}

/** Subscribe with a VAPID key. A subscription that is removed or has another key is replaced: nothing reaches it. */
async function subscribeWith({ pushManager }, vapidKey) {
  const applicationServerKey = fromBase64url(vapidKey);
  const existing = await pushManager.getSubscription();
  const isUsable = existing && !existing.endpoint.startsWith(REMOVED_ENDPOINT);
  if (isUsable && sameBytes(existing.options?.applicationServerKey, applicationServerKey)) return existing;
  await existing?.unsubscribe();
  try {
    return await pushManager.subscribe({ userVisibleOnly: true, applicationServerKey });
  } catch (cause) {
    throw new WebPushError("subscribe_failed", `the browser could not subscribe: ${cause.message}`, { cause });
  }
}

/** Wait until the registration's worker is active. Unlike `serviceWorker.ready`, it need not control the page. */
function activated(registration) {
  if (registration.active) return registration;
  const worker = registration.installing ?? registration.waiting;
  return new Promise((resolve, reject) => {
    const checkState = () => {
      if (worker.state === "activated") resolve(registration);
      if (worker.state === "redundant") reject(new WebPushError("worker_failed", "the service worker did not install"));
    };
    worker.addEventListener("statechange", checkState);
    checkState();
  });
}

/** Send one request and return its JSON. Throws a WebPushError made from the problem+json response (RFC 9457). */
async function request(method, url, token, body) {
  const headers = { authorization: `Bearer ${token}` };
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(url, { method, headers, body: body && JSON.stringify(body), credentials: "omit" });
  } catch (cause) {
    throw new WebPushError("unreachable", `the gateway cannot be reached at ${url}: ${cause.message}`, { cause });
  }
  const payload = await response.json().catch(() => ({}));
  if (response.ok) return payload;
  const message = payload.detail ?? payload.title ?? `the gateway returned ${response.status}`;
  throw new WebPushError(payload.code ?? "http_error", message, { status: response.status, errors: payload.errors });
}

/** Run one operation on the store of registrations, which `service-worker.js` opens too. */
function inStore(mode, operation) {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open("webpush-gateway", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("registrations");
    opening.onerror = () => reject(opening.error);
    opening.onsuccess = () => {
      const transaction = opening.result.transaction("registrations", mode);
      const query = operation(transaction.objectStore("registrations"));
      transaction.oncomplete = () => {
        opening.result.close();
        resolve(query.result);
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
  const base64 = text.replace(/-/g, "+").replace(/_/g, "/").replace(/=+$/, "");
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

function sameBytes(buffer, bytes) {
  if (buffer?.byteLength !== bytes.length) return false;
  const other = new Uint8Array(buffer);
  return bytes.every((byte, index) => byte === other[index]);
}
