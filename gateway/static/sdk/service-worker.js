/**
 * Show what the gateway pushes, and report what became of it.
 *
 * Used as it is, or from an app's own worker with `importScripts("https://gateway.example/sdk/service-worker.js")`;
 * hence no global names, and no skipWaiting or claim: when a worker takes over is the app's decision.
 *
 * Every push shows a notification, whatever it holds: browsers withdraw the permission of an app that does not.
 * Receipts, badge and messages to open pages come after showing, and their failure changes nothing.
 */
(() => {
  "use strict";

  const RECEIPT_TIMEOUT_MS = 10_000;
  /** A browser that shows the notification by itself does so once we are done: no receipt may hold an alert up. */
  const UNSHOWN_MS = 1000;
  const UNSENT = "webpush-receipts";
  const MOST_UNSENT = 100;

  const clicked = new Set();

  self.addEventListener("push", (event) => event.waitUntil(receive(event)));
  self.addEventListener("notificationclick", (event) => {
    const { notification, action } = event;
    clicked.add(notification.data?.gateway?.receipt);
    notification.close();
    event.waitUntil(Promise.all([open(target(notification, action)), report("clicked", notification, action)]));
  });
  self.addEventListener("notificationclose", (event) => event.waitUntil(closed(event.notification)));
  self.addEventListener("pushsubscriptionchange", (event) => event.waitUntil(renew(event)));
  self.addEventListener("sync", (event) => event.tag === UNSENT && event.waitUntil(sendUnsent()));

  async function receive(event) {
    if (event.notification) return accompany(event.notification);
    const content = parse(event);
    const shown = await show(content);
    await Promise.all([badge(content), shown && report("displayed", shown)]);
  }

  /**
   * A browser that parsed the declarative form itself (Safari) hands over the notification that it will show, badge and
   * all. Nothing of it needs replacing; and a click on it opens its address with no word to us.
   */
  function accompany(notification) {
    return Promise.race([report("displayed", notification), new Promise((done) => setTimeout(done, UNSHOWN_MS))]);
  }

  /** Firefox also calls closed what a click closed and what its successor under the same tag replaced. */
  async function closed(notification) {
    if (clicked.delete(notification.data?.gateway?.receipt)) return;
    if (notification.tag && (await shownUnder(notification.tag)).length) return;
    await report("dismissed", notification);
  }

  function shownUnder(tag) {
    return self.registration.getNotifications({ tag }).catch(() => []);
  }

  /**
   * The notification inside a push: Declarative Web Push JSON (`{"web_push": 8030, "notification": {...}}`), other
   * JSON with a title or body, plain text, nothing at all.
   */
  function parse(event) {
    if (!event.data) return {};
    const text = event.data.text();
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return { body: text };
    }
    if (!isObject(message)) return { body: String(message ?? "") };
    const inner = isObject(message.notification) ? message.notification : message;
    return "app_badge" in message && inner !== message ? { app_badge: message.app_badge, ...inner } : inner;
  }

  /** Show it; answers {title, data} of what is shown, or null when the user has since withdrawn the permission. */
  async function show(content) {
    const title = text(content.title) || self.location.hostname;
    const options = await optionsOf(content);
    for (const attempt of [options, { body: options.body, data: options.data }]) {
      try {
        await self.registration.showNotification(title, attempt);
        return { title, data: options.data };
      } catch (error) {
        // An option this browser does not take must not cost the message: the second attempt has only words.
        console.warn("notification not shown as asked", error);
      }
    }
    return null;
  }

  async function optionsOf(content) {
    const actions = (Array.isArray(content.actions) ? content.actions : []).filter(
      (item) => isObject(item) && text(item.action) && text(item.title),
    );
    const given = content.data ?? {};
    const data = isObject(given) ? { ...given } : { value: given };
    const ours = isObject(data.gateway) ? data.gateway : {};
    data.gateway = {
      ...ours,
      navigate: text(content.navigate) ?? text(content.url),
      actions: Object.fromEntries(actions.map((item) => [item.action, text(item.navigate) ?? text(item.url)])),
    };
    const tag = text(content.tag) || text(ours.id);
    const silent = content.silent === true;
    return defined({
      body: text(content.body),
      icon: text(content.icon),
      image: text(content.image),
      badge: text(content.badge),
      lang: text(content.lang),
      dir: ["ltr", "rtl"].includes(content.dir) ? content.dir : undefined,
      timestamp: Number.isFinite(content.timestamp) ? content.timestamp : undefined,
      tag,
      silent: silent || undefined,
      renotify: tag && !silent ? await renotify(content, tag, ours.id) : undefined,
      requireInteraction: (content.requireInteraction ?? content.require_interaction) === true || undefined,
      actions: actions.map(({ action, title, icon }) => defined({ action, title, icon: text(icon) })),
      data,
    });
  }

  /** A new notification under a tag in use rings again; the same one, delivered twice, does not. */
  async function renotify(content, tag, id) {
    if (typeof content.renotify === "boolean") return content.renotify;
    return (await shownUnder(tag)).every(({ data }) => id === undefined || data?.gateway?.id !== id);
  }

  async function badge({ app_badge: value }) {
    const count = value === undefined || value === null || value === "" ? NaN : Number(value);
    if (!Number.isInteger(count) || count < 0 || !navigator.setAppBadge) return;
    await (count ? navigator.setAppBadge(count) : navigator.clearAppBadge()).catch(() => {});
  }

  /** Tell the gateway, then every open page of this app. Never rejects. */
  async function report(event, { title, data }, action = "") {
    const { id, receipt: token, receipts: url } = data?.gateway ?? {};
    let reported = false;
    if (token && url) {
      const receipt = { url, body: JSON.stringify(action ? { token, event, action } : { token, event }) };
      const answered = await post(receipt);
      reported = answered === "taken";
      if (answered === "later") await keep(receipt).catch((error) => console.warn("receipt lost", error));
      if (reported) await sendUnsent().catch(() => {});
    }
    const message = { source: "webpush-gateway", event, id, title, action, reported };
    for (const page of await windows()) page.postMessage(message);
  }

  /** `taken`, `refused` for good, or `later`: nobody answered, or is too busy to. */
  function post({ url, body }) {
    return fetch(url, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body,
      credentials: "omit",
      keepalive: true,
      signal: AbortSignal.timeout(RECEIPT_TIMEOUT_MS),
    }).then(
      ({ ok, status }) => (ok ? "taken" : status === 429 || status >= 500 ? "later" : "refused"),
      () => "later",
    );
  }

  /** Keep a receipt until the browser is online again, where it tells us, or the next one gets through. */
  async function keep(receipt) {
    await inStore(
      "readwrite",
      (store) => {
        store.add(receipt);
        const keys = store.getAllKeys();
        keys.onsuccess = () => keys.result.slice(0, -MOST_UNSENT).forEach((key) => store.delete(key));
        return keys;
      },
      UNSENT,
    );
    await self.registration.sync?.register(UNSENT).catch(() => {});
  }

  /** Send what was kept, the oldest first. Rejects while it cannot be, so that background sync comes again. */
  async function sendUnsent() {
    const keys = await inStore("readonly", (store) => store.getAllKeys(), UNSENT);
    for (const key of keys) {
      const receipt = await inStore("readonly", (store) => store.get(key), UNSENT);
      if (receipt && (await post(receipt)) === "later") throw new Error("the gateway cannot be reached");
      await inStore("readwrite", (store) => store.delete(key), UNSENT);
    }
  }

  function target({ data }, action) {
    const { navigate, actions } = data?.gateway ?? {};
    try {
      const url = new URL(actions?.[action] ?? navigate ?? "", self.registration.scope);
      if (/^https?:$/.test(url.protocol)) return { url: url.href, exact: url.href !== self.registration.scope };
    } catch {
      // Not an address: the app itself is the best place left.
    }
    return { url: self.registration.scope, exact: false };
  }

  /** Focus a page that already shows the address (or, without one, any page of this app), else open it. */
  async function open({ url, exact }) {
    const pages = await windows();
    const page = pages.find((one) => (exact ? one.url === url : one.url.startsWith(url)));
    await (page ? page.focus() : self.clients.openWindow(url)).catch((error) => console.warn("not opened", error));
  }

  function windows() {
    return self.clients.matchAll({ type: "window", includeUncontrolled: true });
  }

  /** The browser changed or dropped the subscription: subscribe, register anew, and give the old device up. */
  async function renew({ newSubscription }) {
    const scope = self.registration.scope;
    const old = await inStore("readonly", (store) => store.get(scope));
    if (!old?.id) return;
    const { pushManager } = self.registration;
    const subscription =
      newSubscription ??
      (await pushManager.getSubscription()) ??
      (await pushManager.subscribe({
        userVisibleOnly: true,
        applicationServerKey: old.body.vapid_public_key,
      }));
    const answer = await call("POST", `${old.gateway}/v1/devices`, old.key, { subscription, ...old.body });
    const renewed = {
      ...old,
      id: answer.id,
      device_token: answer.device_token ?? old.device_token,
      endpoint: subscription.endpoint,
    };
    await inStore("readwrite", (store) => store.put(renewed, scope));
    if (answer.id !== old.id) {
      await call("DELETE", `${old.gateway}/v1/devices/${old.id}`, old.device_token).catch((error) =>
        console.warn("the old device is left to the push service's 410", error),
      );
    }
  }

  async function call(method, url, token, body) {
    const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
    const response = await fetch(url, { method, headers, body: body && JSON.stringify(body), credentials: "omit" });
    if (!response.ok) throw new Error(`${method} ${url}: ${response.status}`);
    return response.json().catch(() => ({}));
  }

  /**
   * Run one operation on a store: the one that page and worker share, which `webpush.js` opens too, or that of unsent
   * receipts. They are two databases, since a page of an older version could not open a newer one.
   */
  function inStore(mode, operation, name = "registrations") {
    return new Promise((resolve, reject) => {
      const opening = indexedDB.open(name === UNSENT ? UNSENT : "webpush-gateway", 1);
      opening.onupgradeneeded = () => opening.result.createObjectStore(name, { autoIncrement: name === UNSENT });
      opening.onerror = () => reject(opening.error);
      opening.onsuccess = () => {
        const transaction = opening.result.transaction(name, mode);
        const asked = operation(transaction.objectStore(name));
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

  function text(value) {
    return typeof value === "string" ? value : typeof value === "number" ? String(value) : undefined;
  }

  function isObject(value) {
    return typeof value === "object" && value !== null && !Array.isArray(value);
  }

  function defined(object) {
    return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined));
  }
})();
