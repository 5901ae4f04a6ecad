// Several tabs of one client: one of them leads. A Web Lock says which, a BroadcastChannel carries what they say.

/** @returns {import("./types.js").Tabs} */
export function tabs() {
  return {
    join({ name, env, onLead, onLost, onMessage }) {
      const locks = env.navigator?.locks;
      const { BroadcastChannel } = /** @type {any} */ (globalThis);
      if (!locks || !BroadcastChannel) return undefined;
      const channel = new BroadcastChannel(name);
      channel.onmessage = (/** @type {any} */ { data }) => onMessage(data);
      let left = false;
      /** Ends with the last request. @type {Promise<void>} */
      let asked;
      /** Ends the tenure that this tab has. @type {(() => void) | undefined} */
      let release;
      /** Withdraws the request that waits. @type {AbortController | undefined} */
      let waiting;

      /** @param {boolean} steal */
      async function request(steal) {
        waiting?.abort();
        const mine = (waiting = new AbortController());
        const options = steal ? { steal: true } : { signal: mine.signal };
        /** @type {(() => void) | undefined} */
        let end;
        try {
          await locks.request(name, options, () => {
            if (left || waiting !== mine) return undefined;
            waiting = undefined;
            return new Promise((/** @type {(value?: any) => void} */ resolve) => {
              release = end = resolve;
              onLead();
            });
          });
        } catch {
          // Withdrawn, or stolen by another tab.
        }
        if (end === undefined || release !== end) return;
        release = undefined;
        onLost();
        if (!left) await request(false);
      }
      asked = request(false);

      return {
        post: (message) => {
          if (!left) channel.postMessage(message);
        },
        yieldLead: () => release?.(),
        steal: () => void (asked = request(true)),
        leave() {
          left = true;
          waiting?.abort();
          release?.();
          channel.close();
          return asked;
        },
      };
    },
  };
}
