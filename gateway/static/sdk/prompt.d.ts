/** Types of the polite question, `/sdk/prompt.js`. */

import type { Registration, WebPush } from "./webpush.js";

export interface Words {
  title?: string;
  body?: string;
  accept?: string;
  later?: string;
  /** What is said on iOS before the page was added to the home screen. */
  install?: string;
}

/**
 * Ask politely before the browser asks. Shown only where there is something to ask and nobody has put it away within
 * `days` (30). Answers what came of it; `hidden` where nothing was shown.
 */
export function ask(
  push: WebPush,
  options?: { registration?: Registration; words?: Words; days?: number; parent?: Element },
): Promise<"subscribed" | "dismissed" | "denied" | "hidden">;
