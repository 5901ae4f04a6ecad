// What the tabs of one origin share, without a browser: locks and channels that move only when the test says so.

export class FakeOrigin {
  /** @type {Map<string, any>} */
  #holders = new Map();
  #requests = [];
  #channels = new Set();

  /** Gives a tab its locks, and channels to all that are opened from now on. */
  join(env) {
    const origin = this;
    env.navigator = { locks: { request: (name, options, run) => origin.#request(env, name, options, run) } };
    env.late = [];
    globalThis.BroadcastChannel = class {
      inbox = [];
      constructor(name) {
        Object.assign(this, { name, env });
        origin.#channels.add(this);
      }
      postMessage(data) {
        if (env.dead) return;
        for (const other of origin.#channels) {
          if (other !== this && other.name === this.name) other.inbox.push(structuredClone(data));
        }
      }
      close() {
        origin.#channels.delete(this);
      }
    };
  }

  #request(env, name, { steal, signal }, run) {
    return new Promise((resolve, reject) => {
      const request = { env, name, run, resolve, reject };
      if (steal) {
        const was = this.#holders.get(name);
        this.#holders.delete(name);
        // A frozen page hears of it when it wakes.
        if (was) was.env.late.push(() => was.reject(new Error("stolen")));
        this.#grant(request);
        return;
      }
      signal?.addEventListener("abort", () => {
        if (!this.#requests.includes(request)) return;
        this.#requests.splice(this.#requests.indexOf(request), 1);
        reject(new Error("withdrawn"));
      });
      this.#requests.push(request);
    });
  }

  #grant(request) {
    this.#holders.set(request.name, request);
    const release = () => {
      if (this.#holders.get(request.name) !== request) return;
      this.#holders.delete(request.name);
      request.resolve();
    };
    Promise.resolve(request.run()).then(release, release);
  }

  /** Grants a lock that is free; gives whether there was one. */
  grant() {
    const free = this.#requests.find(({ env, name }) => !env.frozen && !this.#holders.has(name));
    if (!free) return false;
    this.#requests.splice(this.#requests.indexOf(free), 1);
    this.#grant(free);
    return true;
  }

  /** Gives a tab its next message; gives whether there was one. */
  deliver(env) {
    for (const channel of this.#channels) {
      if (channel.env !== env || channel.inbox.length === 0) continue;
      channel.onmessage?.({ data: channel.inbox.shift() });
      return true;
    }
    return false;
  }

  /** The tab is gone, with its locks and channels. */
  die(env) {
    env.dead = true;
    for (const channel of this.#channels) if (channel.env === env) this.#channels.delete(channel);
    this.#requests = this.#requests.filter((request) => request.env !== env);
    for (const [name, request] of this.#holders) if (request.env === env) this.#holders.delete(name);
  }

  /** Locks that are held or asked for, and channels that are open. */
  get open() {
    return this.#holders.size + this.#requests.length + this.#channels.size;
  }
}
