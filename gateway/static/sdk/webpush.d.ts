/** Types of the Web Push gateway's client, `/sdk/webpush.js`. */

export interface Options {
  /** Base URL of the gateway, such as `https://push.example.org`. */
  gateway: string;
  /** The application's publishable key, `pk_...`. */
  key: string;
  /** base64url of the VAPID public key; asked from the gateway when left out. */
  vapidPublicKey?: string;
  /** Path of the service worker on the app's own origin. Default `/service-worker.js`. */
  serviceWorker?: string;
  /**
   * Scope of the worker. Default: the directory the worker is in. A worker of the app's own that has this scope is never
   * replaced: have it `importScripts` the gateway's, and name it above.
   */
  scope?: string;
  /** Whether to `sync()` by itself now. Default true. */
  sync?: boolean;
}

export interface Location {
  /** WGS 84 degrees. */
  lat: number;
  lon: number;
  /** Radius of uncertainty in metres. */
  accuracy_m?: number;
}

export interface Client {
  platform?: string;
  browser?: string;
  locale?: string;
  timezone?: string;
  app_version?: string;
}

export interface Registration {
  /** Your own id for the person, and its HMAC-SHA256 (hex) where the application demands a proof. */
  userId?: string;
  userHash?: string;
  attributes?: Record<string, unknown>;
  /** What is left out stays as it was; an empty list ends all. */
  topics?: string[];
  /** Codes of the areas it is in, for alerts that name them: UGC, SAME, EMMA_ID or any other. */
  zones?: string[];
  location?: Location;
  /** Filled in from the browser; what is given here wins. */
  client?: Client;
}

export interface Preference {
  /** The name to set it by. */
  category: string;
  title: string;
  description: string | null;
  enabled: boolean;
}

/** One notification that was sent to this browser, as it would be shown now. */
export interface Mail {
  id: string;
  notification_id: string;
  kind: string;
  /** Null when its template can no longer be rendered. */
  content: { title: string; body?: string; url?: string; tag: string; [name: string]: unknown } | null;
  sent_at: string;
  expires_at: string;
  read_at: string | null;
  /** Its place in the log; null over the live channel, before it has one. */
  position: number | null;
}

export interface Inbox {
  items: Mail[];
  next_cursor: string | null;
  unread: number;
  /** The newest's: ask for what comes `after` it. */
  position: number;
}

/** `needs-install`: on iOS only what was added to the home screen has Web Push. */
export type State = "unsupported" | "needs-install" | "denied" | "ready" | "subscribed";

/** What the service worker tells open pages about a notification. */
export interface Message {
  source: "webpush-gateway";
  event: "displayed" | "clicked" | "dismissed";
  /** The notification's id at the gateway, when it came from there. */
  id?: string;
  title: string;
  /** The action chosen; empty for the notification itself. */
  action: string;
  /** Whether the gateway took the receipt. */
  reported: boolean;
}

export interface WebPush {
  /**
   * Ask for permission, subscribe, register. Call it from a click. Safe to repeat: it refreshes what the gateway
   * knows, and subscribes anew when the VAPID key has changed. Throws WebPushError.
   */
  subscribe(registration?: Registration): Promise<{ id: string; subscription: PushSubscription }>;
  /** End the subscription here and at the gateway. Answers false when there was none. */
  unsubscribe(): Promise<boolean>;
  state(): Promise<State>;
  /**
   * Heal a subscription that was lost or is about to expire, and, once a day or with `force`, tell the gateway anew and
   * see to a changed VAPID key. Asks nobody anything; `init` does it at every load.
   */
  sync(options?: { force?: boolean }): Promise<State>;
  /**
   * Whose browser this is: your own id, with its proof where the application demands one. Before subscribing too. With
   * null, when somebody has signed out: what is sent to them no longer comes here.
   */
  identify(userId: string | null, userHash?: string): Promise<void>;
  /** Merged with those of before; null removes one. Before subscribing too. */
  setAttributes(attributes: Record<string, unknown>): Promise<void>;
  /** What is registered from here, or null. */
  device(): Promise<{ id: string; topics: string[]; location?: Location } | null>;
  topics: {
    add(topic: string): Promise<void>;
    remove(topic: string): Promise<void>;
  };
  /** What kinds of message there are, and which of them this browser wants. */
  preferences: {
    list(): Promise<Preference[]>;
    /** Opt in to a category, or out of it. */
    set(category: string, enabled: boolean): Promise<void>;
  };
  /** What was sent to this browser: for what could not be pushed to it, and what was missed. */
  inbox: {
    /** The newest first; with `after` what is newer, the oldest first, waiting up to `wait` seconds for it. */
    list(options?: { after?: number; wait?: number; limit?: number; cursor?: string }): Promise<Inbox>;
    /** Mark one as read by its id, or everything up to a position. */
    markRead(which: string | number): Promise<void>;
  };
  /**
   * Hear of notifications at once while this page is open, and of those missed since it was. Answers how to stop.
   * With `instead`, what `onNotification` has taken (a promise is waited for) is not sent by Web Push; what it has not
   * within 5 seconds is.
   */
  live(options?: {
    mode?: "beside" | "instead";
    onNotification?: (mail: Mail) => void | Promise<void>;
    /** `open`, `waiting` to connect again, `closed` for good. */
    onState?: (state: "open" | "waiting" | "closed") => void;
  }): () => void;
  location: {
    set(location: Location): Promise<void>;
    /**
     * Ask the browser where it is, and tell the gateway: to about a kilometre, unless `precise`. Who has said no, or
     * nothing, is not asked again, unless `again`. Answers what was told, or null.
     */
    share(options?: { precise?: boolean; again?: boolean }): Promise<Location | null>;
  };
  /** Hear of every notification displayed, clicked or dismissed while this page is open. Answers how to stop. */
  on(kind: "message" | "click" | "dismiss", callback: (message: Message) => void): () => void;
}

/**
 * `code` is the gateway's own (`origin_not_allowed`, `identity_unproven`, `invalid`, ...) or one of `unsupported`,
 * `denied`, `dismissed`, `not_subscribed`, `subscribe_failed`, `worker_failed`, `worker_taken`, `unreachable`,
 * `http_error`, `no_key`, `secret_key`, `unknown_kind`.
 */
export class WebPushError extends Error {
  code: string;
  /** HTTP status, or 0 when the gateway was not asked. */
  status: number;
  errors: { pointer: string; detail: string }[];
}

export function init(options: Options): WebPush;
export function supported(): boolean;
export function clientDetails(): Client;
