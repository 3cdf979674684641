/** Keep a page up to date: poll, debounce, and redraw without losing the focus. */

/** Replace a node's children. The new element with the tag and name of the focused one gets the focus. */
export function replaceKeepingFocus(node, ...children) {
  const nameOf = (control) => control.getAttribute("aria-label") ?? control.getAttribute("href") ?? control.textContent;
  const active = document.activeElement;
  const focused = node.contains(active) && active !== node ? active : null;
  node.replaceChildren(...children);
  if (!focused) return;
  const candidates = [...node.querySelectorAll(focused.tagName)];
  candidates.find((candidate) => nameOf(candidate) === nameOf(focused))?.focus({ preventScroll: true });
}

/** Run `work` now and again `intervalMs` after it ends, until `signal` aborts. A hidden page does not poll. */
export function poll(work, intervalMs, signal) {
  const run = async () => {
    if (signal.aborted) return;
    if (!document.hidden)
      await work().catch((error) => {
        if (!signal.aborted) console.warn(error.message);
      });
    setTimeout(run, intervalMs);
  };
  return run();
}

/** Return a function whose calls run `work` once, `delayMs` after the last of them. */
export function debounce(work, delayMs = 250) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, delayMs);
  };
}

/** Return a function that runs `load` and passes its result to `show`, unless a newer call has started meanwhile. */
export function latestOnly(load, show, signal) {
  let calls = 0;
  return async () => {
    calls += 1;
    const call = calls;
    const result = await load();
    if (call === calls && !signal.aborted) show(result);
  };
}
