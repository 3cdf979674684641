/**
 * Show the notifications that the gateway pushes, and report what happens to them.
 *
 * Use it as it is, or load it in the application's own worker with
 * `importScripts("https://gateway.example/sdk/service-worker.js")`. Because of the second use, this script defines no
 * global names and calls neither skipWaiting nor claim: the application decides when a new worker takes over.
 *
 * Every push shows a notification, whatever its content: browsers revoke the permission of applications that do not.
 * Receipts, badges and messages to open pages follow; the notification stays if one of these fails.
 */
(() => {
  "use strict";

  const RECEIPT_TIMEOUT_MS = 10_000;
  // A browser that shows the notification itself waits for this worker: a receipt must not delay the notification.
  const MAX_DISPLAY_DELAY_MS = 1000;
  const UNSENT_RECEIPTS = "webpush-receipts";
  const MAX_UNSENT_RECEIPTS = 100;

  const clickedReceipts = new Set();

  self.addEventListener("push", (event) => event.waitUntil(handlePush(event)));
  self.addEventListener("notificationclick", (event) => {
    const { notification, action } = event;
    clickedReceipts.add(notification.data?.gateway?.receipt);
    notification.close();
    event.waitUntil(
      Promise.all([openPage(clickTarget(notification, action)), report("clicked", notification, action)]),
    );
  });
  self.addEventListener("notificationclose", (event) => event.waitUntil(handleClose(event.notification)));
  self.addEventListener("pushsubscriptionchange", (event) => event.waitUntil(renewSubscription(event)));
  self.addEventListener("sync", (event) => event.tag === UNSENT_RECEIPTS && event.waitUntil(sendUnsentReceipts()));

  async function handlePush(event) {
    if (event.notification) return reportDeclarative(event.notification);
    const content = parseContent(event);
    const notification = await show(content);
    await Promise.all([setBadge(content), notification && report("displayed", notification)]);
  }

  /**
   * Report a notification that the browser shows itself, because it parses the declarative form (Safari).
   *
   * The browser sets the badge too, and opens the URL on a click without an event.
   */
  function reportDeclarative(notification) {
    const timeout = new Promise((resolve) => setTimeout(resolve, MAX_DISPLAY_DELAY_MS));
    return Promise.race([report("displayed", notification), timeout]);
  }

  /** Report a dismissal. Firefox fires a close event also for a notification that was clicked or replaced. */
  async function handleClose(notification) {
    if (clickedReceipts.delete(notification.data?.gateway?.receipt)) return;
    if (notification.tag && (await notificationsWithTag(notification.tag)).length) return;
    await report("dismissed", notification);
  }

  function notificationsWithTag(tag) {
    return self.registration.getNotifications({ tag }).catch(() => []);
  }

  /**
   * Parse the content of a push: Declarative Web Push JSON (`{"web_push": 8030, "notification": {...}}`), other JSON
   * with a title or body, plain text, or no data.
   */
  function parseContent(event) {
    if (!event.data) return {};
    const data = event.data.text();
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      return { body: data };
    }
    if (!isObject(message)) return { body: String(message ?? "") };
    const content = isObject(message.notification) ? message.notification : message;
    if ("app_badge" in message && content !== message) return { app_badge: message.app_badge, ...content };
    return content;
  }

  /** Show a notification. Returns its {title, data}, or null if the browser refused it (the permission is revoked). */
  async function show(content) {
    const title = asText(content.title) || self.location.hostname;
    const options = await notificationOptions(content);
    // If the browser refuses an option, the second attempt shows the text alone.
    for (const attempt of [options, { body: options.body, data: options.data }]) {
      try {
        await self.registration.showNotification(title, attempt);
        return { title, data: options.data };
      } catch (error) {
        console.warn("webpush: the notification could not be shown with all options", error);
      }
    }
    return null;
  }

  async function notificationOptions(content) {
    const actions = (Array.isArray(content.actions) ? content.actions : []).filter(
      (item) => isObject(item) && asText(item.action) && asText(item.title),
    );
    const contentData = content.data ?? {};
    const data = isObject(contentData) ? { ...contentData } : { value: contentData };
    const gatewayData = isObject(data.gateway) ? data.gateway : {};
    data.gateway = {
      ...gatewayData,
      navigate: asText(content.navigate) ?? asText(content.url),
      actions: Object.fromEntries(actions.map((item) => [item.action, asText(item.navigate) ?? asText(item.url)])),
    };
    const tag = asText(content.tag) || asText(gatewayData.id);
    const silent = content.silent === true;
    return defined({
      body: asText(content.body),
      icon: asText(content.icon),
      image: asText(content.image),
      badge: asText(content.badge),
      lang: asText(content.lang),
      dir: ["ltr", "rtl"].includes(content.dir) ? content.dir : undefined,
      timestamp: Number.isFinite(content.timestamp) ? content.timestamp : undefined,
      tag,
      silent: silent || undefined,
      renotify: tag && !silent ? await shouldRenotify(content, tag, gatewayData.id) : undefined,
      requireInteraction: (content.requireInteraction ?? content.require_interaction) === true || undefined,
      actions: actions.map(({ action, title, icon }) => defined({ action, title, icon: asText(icon) })),
      data,
    });
  }

  /** A new notification that replaces another with the same tag alerts again; a repeated delivery does not. */
  async function shouldRenotify(content, tag, id) {
    if (typeof content.renotify === "boolean") return content.renotify;
    return (await notificationsWithTag(tag)).every(({ data }) => id === undefined || data?.gateway?.id !== id);
  }

  async function setBadge({ app_badge: value }) {
    const count = value === undefined || value === null || value === "" ? NaN : Number(value);
    if (!Number.isInteger(count) || count < 0 || !navigator.setAppBadge) return;
    await (count ? navigator.setAppBadge(count) : navigator.clearAppBadge()).catch(() => {});
  }

  /** Send a receipt to the gateway, then a message to every open page. Never rejects. */
  async function report(event, { title, data }, action = "") {
    const { id, receipt: token, receipts: url } = data?.gateway ?? {};
    let reported = false;
    if (token && url) {
      const receipt = { url, body: JSON.stringify(action ? { token, event, action } : { token, event }) };
      const result = await postReceipt(receipt);
      reported = result === "accepted";
      if (result === "retry")
        await storeReceipt(receipt).catch((error) => console.warn("webpush: a receipt was lost", error));
      if (reported) await sendUnsentReceipts().catch(() => {});
    }
    const message = { source: "webpush-gateway", event, id, title, action, reported };
    for (const page of await openPages()) page.postMessage(message);
  }

  /** Returns `accepted`, `refused`, or `retry` if the gateway cannot be reached or is overloaded. */
  function postReceipt({ url, body }) {
    return fetch(url, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body,
      credentials: "omit",
      keepalive: true,
      signal: AbortSignal.timeout(RECEIPT_TIMEOUT_MS),
    }).then(
      ({ ok, status }) => (ok ? "accepted" : status === 429 || status >= 500 ? "retry" : "refused"),
      () => "retry",
    );
  }

  /** Store a receipt until background sync runs, where the browser has it, or until another receipt is accepted. */
  async function storeReceipt(receipt) {
    const addReceipt = (store) => {
      store.add(receipt);
      const keys = store.getAllKeys();
      keys.onsuccess = () => {
        for (const key of keys.result.slice(0, -MAX_UNSENT_RECEIPTS)) store.delete(key);
      };
      return keys;
    };
    await inStore("readwrite", addReceipt, UNSENT_RECEIPTS);
    await self.registration.sync?.register(UNSENT_RECEIPTS).catch(() => {});
  }

  /** Send the stored receipts, the oldest first. Rejects if the gateway does not respond, for background sync. */
  async function sendUnsentReceipts() {
    const keys = await inStore("readonly", (store) => store.getAllKeys(), UNSENT_RECEIPTS);
    for (const key of keys) {
      const receipt = await inStore("readonly", (store) => store.get(key), UNSENT_RECEIPTS);
      if (receipt && (await postReceipt(receipt)) === "retry") throw new Error("the gateway cannot be reached");
      await inStore("readwrite", (store) => store.delete(key), UNSENT_RECEIPTS);
    }
  }

  /** The URL that a click opens. `exact` is false if the click may focus any open page of the application. */
  function clickTarget({ data }, action) {
    const { navigate, actions } = data?.gateway ?? {};
    try {
      const url = new URL(actions?.[action] ?? navigate ?? "", self.registration.scope);
      if (/^https?:$/.test(url.protocol)) return { url: url.href, exact: url.href !== self.registration.scope };
    } catch {
      // Not a valid URL: open the application instead.
    }
    return { url: self.registration.scope, exact: false };
  }

  /** Focus an open page with the URL, or open the URL in a new one. */
  async function openPage({ url, exact }) {
    const pages = await openPages();
    const page = pages.find((client) => (exact ? client.url === url : client.url.startsWith(url)));
    const opening = page ? page.focus() : self.clients.openWindow(url);
    await opening.catch((error) => console.warn("webpush: the page could not be opened", error));
  }

  function openPages() {
    return self.clients.matchAll({ type: "window", includeUncontrolled: true });
  }

  /** Subscribe again after the browser has changed or dropped the subscription, and replace the device. */
  async function renewSubscription({ newSubscription }) {
    const scope = self.registration.scope;
    const record = await inStore("readonly", (store) => store.get(scope));
    if (!record?.id) return;
    const { pushManager } = self.registration;
    const options = { userVisibleOnly: true, applicationServerKey: record.body.vapid_public_key };
    const subscription =
      newSubscription ?? (await pushManager.getSubscription()) ?? (await pushManager.subscribe(options));
    const url = `${record.gateway}/v1/devices`;
    const device = await call("POST", url, record.key, { subscription, ...record.body });
    const renewed = {
      ...record,
      id: device.id,
      device_token: device.device_token ?? record.device_token,
      endpoint: subscription.endpoint,
    };
    await inStore("readwrite", (store) => store.put(renewed, scope));
    if (device.id !== record.id) {
      // If this fails, the gateway deletes the old device when the push service returns 410 for it.
      await call("DELETE", `${url}/${record.id}`, record.device_token).catch((error) =>
        console.warn("webpush: the old device could not be deleted", error),
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
   * Run one operation on a store: the registrations, which `webpush.js` opens too, or the unsent receipts.
   *
   * The stores are in two databases. A second store in the first database would need a newer version of the database,
   * which a page with an older SDK could not open.
   */
  function inStore(mode, operation, name = "registrations") {
    return new Promise((resolve, reject) => {
      const isReceipts = name === UNSENT_RECEIPTS;
      const opening = indexedDB.open(isReceipts ? UNSENT_RECEIPTS : "webpush-gateway", 1);
      opening.onupgradeneeded = () => opening.result.createObjectStore(name, { autoIncrement: isReceipts });
      opening.onerror = () => reject(opening.error);
      opening.onsuccess = () => {
        const transaction = opening.result.transaction(name, mode);
        const query = operation(transaction.objectStore(name));
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

  function asText(value) {
    return typeof value === "string" ? value : typeof value === "number" ? String(value) : undefined;
  }

  function isObject(value) {
    return typeof value === "object" && value !== null && !Array.isArray(value);
  }

  function defined(object) {
    return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined));
  }
})();
