/** Types of the Web Push gateway's browser SDK, `/sdk/webpush.js`. */

export interface Options {
  /** Base URL of the gateway, such as `https://push.example.org`. */
  gateway: string;
  /** The application's publishable key, `pk_...`. */
  key: string;
  /** The VAPID public key in base64url. Default: requested from the gateway. */
  vapidPublicKey?: string;
  /** Path of the service worker on the application's own origin. Default: `/service-worker.js`. */
  serviceWorker?: string;
  /**
   * Scope of the worker. Default: the directory of the worker. The SDK never replaces a worker of the application at
   * this scope: load the gateway's worker in it with `importScripts`, and pass its path as `serviceWorker`.
   */
  scope?: string;
  /** Whether to call `sync()` now. Default: true. */
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

/** Details of a device. Omitted values stay as they are. */
export interface Registration {
  /** Your own ID of the user. */
  userId?: string;
  /** HMAC-SHA256 of the user ID in hex, if the application requires identity verification. */
  userHash?: string;
  attributes?: Record<string, unknown>;
  /** An empty list ends all topic subscriptions. */
  topics?: string[];
  /** Codes of the areas that the device is in, for alerts that name areas: UGC, SAME, EMMA_ID or any other scheme. */
  zones?: string[];
  location?: Location;
  /** Overrides what the SDK detects. */
  client?: Client;
}

export interface Preference {
  /** Name of the category, for `preferences.set`. */
  category: string;
  title: string;
  description: string | null;
  enabled: boolean;
}

/** One notification sent to this browser. */
export interface InboxItem {
  id: string;
  notification_id: string;
  kind: string;
  /** Null when the template can no longer be rendered. */
  content: { title: string; body?: string; url?: string; tag: string; [name: string]: unknown } | null;
  sent_at: string;
  expires_at: string;
  read_at: string | null;
  /** Position in the inbox. Null over the live channel until the notification is in the inbox. */
  position: number | null;
}

export interface Inbox {
  items: InboxItem[];
  next_cursor: string | null;
  unread: number;
  /** Position of the newest item: pass it as `after` to get only newer ones. */
  position: number;
}

/** `needs-install`: on iOS, only apps on the home screen have Web Push. */
export type State = "unsupported" | "needs-install" | "denied" | "ready" | "subscribed";

/** A message from the service worker to open pages about a notification. */
export interface Message {
  source: "webpush-gateway";
  event: "displayed" | "clicked" | "dismissed";
  /** ID of the notification at the gateway, if the gateway sent it. */
  id?: string;
  title: string;
  /** The button that was clicked; empty for the notification itself. */
  action: string;
  /** Whether the gateway accepted the receipt. */
  reported: boolean;
}

export interface WebPush {
  /**
   * Ask for permission, subscribe, and register with the gateway. Call it from a click handler. It is safe to repeat:
   * it updates the registration, and replaces a subscription with an old VAPID key. Throws WebPushError.
   */
  subscribe(registration?: Registration): Promise<{ id: string; subscription: PushSubscription }>;
  /** End the subscription in the browser and delete the device at the gateway. Returns false if there was none. */
  unsubscribe(): Promise<boolean>;
  state(): Promise<State>;
  /**
   * Repair the registration without a prompt: a lost or expiring subscription at once; a changed VAPID key or a device
   * that the gateway has lost once a day, or with `force`. `init` calls it unless `sync` is false.
   */
  sync(options?: { force?: boolean }): Promise<State>;
  /**
   * Set the user of this browser: your own ID, with its hash if the application requires identity verification. Call
   * it with null when the user signs out. It can be called before `subscribe`.
   */
  identify(userId: string | null, userHash?: string): Promise<void>;
  /** Merge attributes into the existing ones; null removes one. It can be called before `subscribe`. */
  setAttributes(attributes: Record<string, unknown>): Promise<void>;
  /** The registered device, or null. */
  device(): Promise<{ id: string; topics: string[]; location?: Location } | null>;
  topics: {
    add(topic: string): Promise<void>;
    remove(topic: string): Promise<void>;
  };
  /** The categories of messages, and which of them this browser receives. */
  preferences: {
    list(): Promise<Preference[]>;
    /** Opt in to a category, or out of it. */
    set(category: string, enabled: boolean): Promise<void>;
  };
  /** The notifications sent to this browser, including those that were not displayed. */
  inbox: {
    /**
     * List the newest items first. With `after`, list the items after that position, the oldest first, and wait up to
     * `wait` seconds for one.
     */
    list(options?: { after?: number; wait?: number; limit?: number; cursor?: string }): Promise<Inbox>;
    /** Mark one item as read by its ID, or all items up to a position. */
    markRead(which: string | number): Promise<void>;
  };
  /**
   * Receive notifications immediately while this page is open, and those missed since it was last open. Returns a
   * function that closes the channel.
   *
   * With `exclusive`, a notification is not sent by Web Push once `onNotification` has handled it; a promise is awaited
   * for up to 5 seconds.
   */
  live(options?: {
    mode?: "additional" | "exclusive";
    onNotification?: (item: InboxItem) => void | Promise<void>;
    /** `waiting` means waiting to reconnect; after `closed` there is no reconnect. */
    onState?: (state: "open" | "waiting" | "closed") => void;
  }): () => void;
  location: {
    set(location: Location): Promise<void>;
    /**
     * Ask the browser for its location and store it at the gateway: rounded to about a kilometre, unless `precise`.
     * The browser prompts only once, unless `again` is set. Returns the stored location, or null.
     */
    share(options?: { precise?: boolean; again?: boolean }): Promise<Location | null>;
  };
  /** Listen for notifications that are displayed, clicked or dismissed. Returns a function that stops listening. */
  on(kind: "message" | "click" | "dismiss", callback: (message: Message) => void): () => void;
}

/**
 * `code` is the code of the gateway's error (`origin_not_allowed`, `identity_unproven`, `invalid`, ...) or one of
 * `unsupported`, `denied`, `dismissed`, `not_subscribed`, `subscribe_failed`, `worker_failed`, `worker_taken`,
 * `unreachable`, `http_error`, `no_key`, `secret_key`, `unknown_kind`.
 */
export class WebPushError extends Error {
  code: string;
  /** HTTP status; 0 if there was no response. */
  status: number;
  errors: { pointer: string; detail: string }[];
}

export function init(options: Options): WebPush;
export function supported(): boolean;
export function clientDetails(): Client;
