/** Types of the soft prompt, `/sdk/prompt.js`. */

import type { Registration, WebPush } from "./webpush.js";

export interface Words {
  title?: string;
  body?: string;
  accept?: string;
  later?: string;
  /** Shown on iOS while the page is not on the home screen. */
  install?: string;
}

/**
 * Show a prompt before the browser's permission prompt. It is not shown to a browser that is subscribed, blocked or
 * unsupported, nor for `days` (30) after the user has dismissed it. Returns `hidden` if there was no prompt.
 */
export function ask(
  push: WebPush,
  options?: { registration?: Registration; words?: Words; days?: number; parent?: Element },
): Promise<"subscribed" | "dismissed" | "denied" | "hidden">;
