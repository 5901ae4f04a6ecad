// What the client takes from where it runs: clock, timers, frames, sockets, page events. A test gives its own.

/** A frame at 60 a second. */
const FRAME_MS = 16;
/** A visible page that is not drawn gets no frames: a notification waits no longer than this. */
const FRAME_WAIT_MS = 100;

/** The environment of a page, a worker or Node; made when a client is, so that importing needs nothing. */
export function defaultEnv() {
  const { document, window, WebSocket, navigator, crypto } = /** @type {any} */ (globalThis);
  const now = () => Date.now();
  let lastFrame = 0;

  /** Runs `run` with the next frame, and at most once a frame. Gives what runs it if it is due: a hidden page gets no
   * frames, and its timers come late. @param {() => void} run */
  function frame(run) {
    let done = false;
    const once = () => {
      if (done) return;
      done = true;
      // Both: what `run` changes waits for the next frame, and that comes a frame after the end of this one.
      lastFrame = now();
      run();
      lastFrame = now();
    };
    const since = now() - lastFrame;
    if (document && !document.hidden && globalThis.requestAnimationFrame) {
      globalThis.requestAnimationFrame(once);
      setTimeout(once, FRAME_WAIT_MS);
    } else if (since >= FRAME_MS || since < 0) {
      queueMicrotask(once);
    } else {
      setTimeout(once, FRAME_MS - since);
    }
    return () => {
      if (document?.hidden && now() - lastFrame >= FRAME_MS) queueMicrotask(once);
    };
  }

  function randomId() {
    const bytes = new Uint8Array(16);
    if (crypto?.getRandomValues) crypto.getRandomValues(bytes);
    else bytes.forEach((_, index) => (bytes[index] = Math.random() * 256));
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  return {
    now,
    frame,
    randomId,
    random: Math.random,
    setTimeout: (/** @type {() => void} */ run, /** @type {number} */ ms) => setTimeout(run, ms),
    clearTimeout: (/** @type {any} */ timer) => clearTimeout(timer),
    WebSocket,
    document,
    window,
    navigator,
    report: (/** @type {unknown} */ error) => void Promise.reject(error),
  };
}

/** Calls `heard` for page events that say something of the connection; gives the remover.
 * @param {any} env @param {(name: string, event: any) => void} heard */
export function watchPage({ window, document }, heard) {
  // As the options of a listener, it gives its signal.
  const watch = new AbortController();
  const of = [
    [window, ["online", "focus", "pageshow", "pagehide"]],
    [document, ["visibilitychange", "resume"]],
  ];
  for (const [target, names] of of) {
    for (const name of names) target?.addEventListener?.(name, (/** @type {any} */ event) => heard(name, event), watch);
  }
  return () => watch.abort();
}
