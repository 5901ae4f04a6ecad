// The client: what an application holds. Puts together replica, store, connection and tabs.

import { Engine } from "./engine.js";
import { defaultEnv, watchPage } from "./env.js";
import { refusal } from "./json.js";
import { memoryStore } from "./memory.js";
import { Persistence } from "./persistence.js";
import { Replica, stampOf } from "./replica.js";

/** What fits into a frame of the server's default size, with the message around it. */
const DRAFT_BYTES_MAX = 255 * 1024;
/** Drafts that wait at most. */
const PENDING_MAX = 10_000;
const CLOSE_MS = 1000;
/** A tab that leads and lives answers within this. */
const CLAIM_MS = 3000;
const CLAIM_EVERY_MS = 10_000;
const BUILT_IN = ["init", "set", "unset", "treePush", "treeDelete", "treeUpdate", "treeMove", "event"];

/** @typedef {import("./types.js").Outcome} Outcome */
/** @typedef {import("./types.js").Status} Status */

/** Opens a client. It connects by itself, and works at once, with or without a network.
 * @param {import("./types.js").ClientOptions} options */
export function createClient(options) {
  const env = { ...defaultEnv(), ...(options.WebSocket ? { WebSocket: options.WebSocket } : {}), ...options.env };
  const { rules, partition = "default" } = options;
  const store = options.store ?? memoryStore();
  const rulesKey = rules?.version === undefined ? undefined : String(rules.version);
  const initial = rules?.initialState?.() ?? {};
  const replica = new Replica({ rules, partition, now: env.now });
  replica.clientId = options.clientId ?? "";
  const persistence = new Persistence({ env, store, who: replica, base, all, onState: changed, onFenced: fenced });

  /** @type {Record<string, Set<(value: any) => void>>} */
  const listeners = { status: new Set(), rejected: new Set(), reset: new Set(), "update-needed": new Set(), event: new Set() };
  /** @type {Set<() => void>} */
  const subscribers = new Set();
  /** @type {Engine | undefined} */
  let engine;
  /** @type {import("./types.js").TabLink | undefined} */
  let link;
  let leads = false;
  /** Tells what is left of an earlier time in the lead. */
  let tenure = 0;
  /** @type {Promise<void> | undefined} */
  let closing;
  let scheduled = false;
  /** @type {(() => void) | undefined} */
  let due;
  let told = replica.snapshot();
  /** @type {any} */
  let connection = { connection: "starting" };
  let synced = false;
  let head = 0;
  let newerRules = 0;
  /** @type {Status} */
  let status = makeStatus();
  let statusTold = status;
  /** @type {readonly import("./types.js").Draft[]} */
  let pending = Object.freeze([]);
  // Of tabs: whose messages count, what is to be said to the others, whether there are any.
  let leader = 0;
  /** @type {any[]} */
  let ops = [];
  let peers = false;
  /** This tab has heard what the one that leads has. */
  let following = false;
  /** It has folded more than that one. */
  let ahead = false;
  /** @type {any} */
  let claimTimer;
  /** What was refused here before anybody led. @type {import("./types.js").RejectedDraft[]} */
  const unsaid = [];
  /** What `clear` waits for: another tab has done it, or this one leads. @type {((byOther: boolean) => void) | undefined} */
  let cleared;

  // What the application is told.

  /** @returns {Status} */
  function makeStatus() {
    const state = newerRules > 0 && connection.connection === "connected" ? { connection: "update-needed" } : connection;
    let count = 0;
    for (const entry of replica.entries.values()) if (entry.foldedAs === undefined) count += 1;
    const { cursor } = replica;
    return Object.freeze({ ...state, synced, pending: count, head: Math.max(head, cursor), cursor, storage: Object.freeze(persistence.state), leader: leads });
  }

  function getStatus() {
    if (engine) {
      synced = engine.synced;
      head = engine.head;
    }
    const next = makeStatus();
    if (JSON.stringify(next) !== JSON.stringify(status)) status = next;
    return status;
  }

  function changed() {
    if (closing) return;
    if (scheduled) return void due?.();
    scheduled = true;
    due = env.frame(notify);
  }

  function notify() {
    scheduled = false;
    if (closing) return;
    const snapshot = replica.snapshot();
    if (snapshot !== told) {
      told = snapshot;
      for (const subscriber of [...subscribers]) guarded(subscriber);
    }
    tellStatus();
  }

  /** What is the same for all tabs. */
  const shared = () => ({ connection, synced, head, storage: persistence.state });

  /** @param {any} given */
  const share = (given) => ({ connection, synced, head, storage: persistence.state } = given);

  function tellStatus() {
    const now = getStatus();
    if (now === statusTold) return;
    statusTold = now;
    if (leads && peers) say({ o: "status", ...shared() });
    emit("status", now);
  }

  /** @param {() => void} call */
  function guarded(call) {
    try {
      call();
    } catch (error) {
      env.report(error);
    }
  }

  /** @param {string} name @param {any} value */
  function emit(name, value) {
    for (const listener of [...listeners[name]]) guarded(() => listener(value));
  }

  // What changes the replica, here and in the other tabs.

  /** @param {any} op */
  function apply(op) {
    switch (op.o) {
      case "event":
        replica.commit(op.event, op.id);
        if (leads) persistence.later();
        emit("event", op.event);
        break;
      case "settle": {
        const rejected = replica.settle(op.id, op.outcome);
        if (leads && rejected) void persistence.write({ remove: [op.id], reject: [rejected] });
        else if (leads) persistence.later(op.id);
        if (rejected) emit("rejected", rejected);
        break;
      }
      case "state":
        replica.replace(op.state, op.cursor);
        if (op.logId !== undefined) replica.logId = op.logId;
        for (const [id, outcome] of op.done) {
          replica.settle(id, outcome);
          if (leads) persistence.later(id);
        }
        if (leads) persistence.later();
        if (op.reason && op.reason !== "behind") emit("reset", { reason: op.reason, head: op.cursor });
        break;
      case "refused":
        if (leads) void persistence.write({ reject: [op.draft] });
        if (replica.keepRejected(op.draft)) emit("rejected", op.draft);
        break;
      case "add":
        replica.add(op.row, { durable: true, suspect: true });
        break;
      case "dismiss":
        replica.dismiss(op.id);
        if (leads) void persistence.write({ dismiss: [op.id] });
        break;
      case "log":
        replica.logId = op.logId;
        break;
      case "status":
        share(op);
        break;
    }
    if (leads && peers && op.o !== "status") say(op);
    changed();
  }

  /** Says something to the other tabs, with all that is said in this turn. @param {any} op */
  function say(op) {
    if (ops.push(op) > 1) return;
    queueMicrotask(() => {
      link?.post({ k: "ops", leader, ops });
      ops = [];
    });
  }

  // Leading.

  /** @returns {import("./types.js").Base} */
  function base() {
    const { state, cursor, stamp, logId } = replica;
    /** @type {[string, number][]} */
    const folded = [];
    for (const [id, { foldedAs }] of replica.entries) if (foldedAs !== undefined) folded.push([id, foldedAs]);
    return { state, cursor, stamp, logId, rules: rulesKey, folded };
  }

  /** What a store is given that works again, from what it has: drafts of which this client did not know are its own.
   * @param {import("./types.js").Stored} stored */
  function all({ drafts, rejected }) {
    for (const row of drafts) apply({ o: "add", row });
    engine?.pump();
    for (const draft of rejected) if (!replica.outcomes.has(draft.id)) replica.keepRejected(draft);
    const done = (/** @type {{ id: string }[]} */ rows) => rows.map(({ id }) => id).filter((id) => replica.outcomes.has(id));
    const put = [...replica.entries.values()].map(({ row }) => row);
    return { put, remove: done(drafts), dismiss: done(rejected), reject: replica.rejected, base: base() };
  }

  async function lead() {
    const mine = (tenure += 1);
    leads = true;
    const fallback = options.clientId ?? env.randomId();
    const stored = await persistence.open({ clientId: fallback });
    if (closing || mine !== tenure) return;
    leader = stored?.generation ?? leader + 1;
    replica.clientId = options.clientId || stored?.clientId || replica.clientId || fallback;
    const takeState = stored ? adopt(stored) : false;
    if (!stored) for (const entry of replica.entries.values()) entry.durable = true;
    engine = new Engine({
      env, replica, options, partition, apply,
      onState: (state) => {
        if (state.connection) connection = state;
        changed();
      },
      onRules,
    });
    engine.start(takeState);
    for (const draft of unsaid.splice(0)) apply({ o: "refused", draft });
    link?.post({ k: "lead" });
    changed();
  }

  /** Takes what was stored. Gives whether the state is of no use and the server's must be taken.
   * @param {import("./types.js").Stored} stored */
  function adopt({ base, drafts, rejected }) {
    for (const draft of rejected) replica.keepRejected(draft);
    const here = [...replica.entries.values()];
    replica.entries.clear();
    const known = new Map(here.map((entry) => [entry.row.id, entry]));
    for (const row of drafts) {
      const entry = known.get(row.id);
      if (replica.outcomes.has(row.id)) persistence.later(row.id);
      else if (entry) replica.entries.set(row.id, Object.assign(entry, { durable: true, suspect: true }));
      else replica.add(row, { durable: true, suspect: true });
    }
    for (const entry of here) if (!replica.outcomes.has(entry.row.id)) replica.entries.set(entry.row.id, entry);
    for (const { row } of [...replica.entries.values()]) {
      if (!rules?.events || BUILT_IN.includes(row.type) || Object.hasOwn(rules.events, row.type)) continue;
      const errors = [{ field: "type", message: `this version knows no ${row.type}`, code: "UNKNOWN_EVENT_TYPE" }];
      apply({ o: "settle", id: row.id, outcome: { status: "rejected", reason: "set-aside", errors } });
    }
    if (!base) return false;
    if (base.rules !== rulesKey) return true;
    if (base.cursor >= replica.cursor) {
      replica.replace(base.state, base.cursor, base.stamp);
      replica.logId = base.logId;
      for (const [id, foldedAs] of base.folded) {
        const entry = replica.entries.get(id);
        if (entry) entry.foldedAs = foldedAs;
      }
    }
    return false;
  }

  /** @param {{ version?: number }} given */
  function onRules({ version = 0 }) {
    if (rules?.version === undefined || version <= rules.version || version === newerRules) return;
    newerRules = version;
    emit("update-needed", { version });
  }

  function stopLeading() {
    tenure += 1;
    leads = following = false;
    engine?.stop();
    engine = undefined;
    persistence.stop();
  }

  /** The store has another writer. */
  function fenced() {
    if (link) {
      stopLeading();
      link.yieldLead();
    } else {
      persistence.stop();
      persistence.state = { kind: "memory", reason: "taken-over" };
    }
    changed();
  }

  async function handOver() {
    const mine = tenure;
    engine?.flush();
    await atMost(CLOSE_MS, persistence.flush());
    if (mine !== tenure || !leads) return;
    stopLeading();
    link?.yieldLead();
    link?.post({ k: "hello" });
  }

  // Being one of several tabs.

  function join() {
    link = options.tabs?.join({
      name: `insieme ${store.name} ${partition}`,
      env,
      onLead() {
        void lead();
        cleared?.(false);
      },
      onLost: () => {
        if (leads) stopLeading();
        if (!closing) link?.post({ k: "hello" });
        changed();
      },
      onMessage: hear,
    });
    if (!link) return void lead();
    link.post({ k: "hello" });
    watchLeader(CLAIM_MS / 2);
  }

  /** Asks from time to time whether the tab that leads lives; a frozen one answers messages, but runs no timers.
   * @param {number} ms */
  function watchLeader(ms) {
    env.clearTimeout(claimTimer);
    claimTimer = env.setTimeout(() => {
      if (leads || closing || !link) return watchLeader(CLAIM_EVERY_MS);
      link.post({ k: "claim", visible: !env.document?.hidden });
      claimTimer = env.setTimeout(() => {
        if (!leads && !closing) link?.steal();
        watchLeader(CLAIM_EVERY_MS);
      }, CLAIM_MS);
    }, ms);
  }

  /** @param {boolean} [wiped] */
  function tellAll(wiped) {
    const rows = [...replica.entries.values()].map(({ row, foldedAs }) => [row, foldedAs]);
    const { rejected, clientId } = replica;
    link?.post({ k: "sync", leader, ...base(), rows, rejected, clientId, status: shared(), wiped });
  }

  /** @param {any} message */
  function hear(message) {
    if (closing) return;
    const { k } = message;
    if (leads && engine) {
      if (k === "hello") {
        peers = true;
        tellAll();
      } else if (k === "submit") {
        const outcome = replica.outcomes.get(message.row.id);
        if (outcome) return say({ o: "settle", id: message.row.id, outcome });
        const entry = replica.add(message.row, { durable: message.durable, suspect: true });
        if (entry) {
          say({ o: "add", row: message.row });
          if (message.durable) engine.pump();
          else void keep(entry);
          changed();
        }
      } else if (k === "refused") apply({ o: "refused", draft: message.draft });
      else if (k === "dismiss") apply({ o: "dismiss", id: message.id });
      else if (k === "clear") void clear();
      else if (k === "token") engine.connection.setToken(message.token);
      else if (k === "claim") {
        env.setTimeout(() => {
          if (!leads) return;
          if (message.visible && env.document?.hidden) void handOver();
          else link?.post({ k: "alive" });
        }, 0);
      }
      return;
    }
    if (k === "lead") {
      following = false;
      link?.post({ k: "hello" });
    }
    else if (k === "alive") watchLeader(CLAIM_EVERY_MS);
    else if (k === "sync" && message.leader >= leader && !leads) follow(message);
    else if (k === "ops" && message.leader === leader && !leads) {
      watchLeader(CLAIM_EVERY_MS);
      for (const op of message.ops) {
        if (ahead && !behind(op)) continue;
        try {
          apply(op);
        } catch {
          // Its event does not fold: the leader takes the server's state, and says so.
        }
      }
    }
  }

  /** Whether to apply what a leader says that has folded less than this tab: nothing here goes back for that. Once it
   * has caught up, it must have met the event at this tab's cursor: else the log is another one.
   * @param {any} op */
  function behind({ o, event, synced }) {
    if (o === "state") ahead = false;
    // Drafts of others may be folded here; those that are not come with the next sync.
    if (o === "add" || event?.eventId < replica.cursor) return false;
    if (!event && !(o === "status" && synced)) return true;
    ahead = false;
    if (event?.eventId !== replica.cursor || stampOf(event) !== replica.stamp) replica.cursor = 0;
    link?.post({ k: "hello" });
    return false;
  }

  /** Takes what the tab that leads has. @param {any} message */
  function follow({ leader: from, state, cursor, stamp, logId, rows, rejected, clientId, status, wiped }) {
    leader = from;
    following = true;
    const here = [...replica.entries.values()];
    // Or it was, while this tab slept.
    wiped ||= replica.clientId !== "" && replica.clientId !== clientId;
    if (wiped) replica.wipe(initial);
    replica.clientId = clientId;
    ahead = cursor < replica.cursor;
    if (!ahead) {
      replica.replace(state, cursor, stamp);
      replica.logId = logId;
    }
    replica.rejected = [];
    for (const draft of [...rejected, ...unsaid]) replica.keepRejected(draft);
    for (const draft of unsaid.splice(0)) link?.post({ k: "refused", draft });
    replica.entries.clear();
    const known = new Map(here.map((entry) => [entry.row.id, entry]));
    for (const [row, foldedAs] of rows) {
      const entry = known.get(row.id);
      known.delete(row.id);
      if (entry) replica.entries.set(row.id, entry);
      const added = entry ?? (ahead ? undefined : replica.add(row, { durable: true }));
      if (added && !ahead) added.foldedAs = foldedAs;
    }
    for (const entry of known.values()) {
      if (wiped) continue;
      if (!entry.own) {
        entry.resolve({ status: "undecided" });
        continue;
      }
      // The tab that leads does not know it: it never heard of it, or the draft is settled, and it says how.
      replica.entries.set(entry.row.id, entry);
      entry.foldedAs = undefined;
      link?.post({ k: "submit", row: entry.row, durable: entry.durable });
    }
    if (wiped) cleared?.(true);
    share(status);
    changed();
  }

  /** Stores a draft, then has it sent. @param {import("./replica.js").Entry} entry */
  async function keep(entry) {
    const shared = link !== undefined && !leads;
    const durable = await persistence.put(entry.row, shared);
    if (closing || !replica.entries.has(entry.row.id)) return;
    if (leads) {
      entry.durable = true;
      engine?.pump();
    } else {
      entry.durable = durable;
      // Else it is told with those before it, so that their order stays.
      if (following) link?.post({ k: "submit", row: entry.row, durable });
    }
  }

  // What the page does.

  let suspended = false;

  function suspend() {
    // It writes nothing: a transaction that the page cannot end any more would hold up the other tabs.
    suspended = true;
    engine?.flush();
    stopLeading();
    void link?.leave();
    link = undefined;
    env.clearTimeout(claimTimer);
    connection = { connection: "disconnected", reason: "suspended" };
  }

  const unwatch = watchPage(env, (name, event) => {
    if (closing) return;
    if (name === "pagehide") return suspend();
    if (name === "pageshow") {
      if (suspended) join();
      suspended = false;
      return;
    }
    if (name === "visibilitychange" && env.document.hidden) return void (leads && persistence.flush());
    engine?.connection.wake();
    if (!leads && link) watchLeader(0);
  });

  /** @template T @param {number} ms @param {Promise<T>} work */
  const atMost = (ms, work) =>
    new Promise((resolve) => {
      const timer = env.setTimeout(resolve, ms);
      work.catch(() => {}).finally(() => {
        env.clearTimeout(timer);
        resolve(undefined);
      });
    });

  // What the application calls.

  const getSnapshot = () => replica.snapshot();

  /** Tells of changes of the snapshot, at most once a frame. Gives the remover. @param {() => void} subscriber */
  function subscribe(subscriber) {
    const one = () => subscriber();
    subscribers.add(one);
    return () => void subscribers.delete(one);
  }

  /** Listens. Gives the remover.
   * @param {"status" | "rejected" | "reset" | "update-needed" | "event"} name @param {(value: any) => void} listener */
  function on(name, listener) {
    if (!Object.hasOwn(listeners, name)) throw new TypeError(`there is no event ${name}`);
    const one = (/** @type {any} */ value) => listener(value);
    listeners[name].add(one);
    return () => void listeners[name].delete(one);
  }

  /** Proposes an event; it is shown at once. A payload that is no JSON throws; what the server can never take is
   * rejected here. With `baseEventId` a later change of the same place by someone else is a conflict.
   * @param {string} type @param {any} payload @param {{ baseEventId?: number }} [given]
   * @returns {import("./types.js").Draft} */
  function submit(type, payload, { baseEventId } = {}) {
    const text = JSON.stringify(payload);
    if (typeof type !== "string" || text === undefined) throw new TypeError("submit takes a type and a JSON value");
    const row = { id: env.randomId(), type, payload: JSON.parse(text), ...(baseEventId === undefined ? {} : { baseEventId }) };
    const full = replica.entries.size >= PENDING_MAX;
    const entry = /** @type {import("./replica.js").Entry} */ (replica.add(row, { own: true }));
    if (closing) {
      replica.settle(row.id, { status: "undecided" });
      return entry.draft;
    }
    let error = refusal(payload, "payload");
    if (new TextEncoder().encode(text).length > DRAFT_BYTES_MAX) {
      error = { field: "payload", message: `is longer than ${DRAFT_BYTES_MAX} bytes`, code: "TOO_LARGE" };
    } else if (full) {
      error = { field: "", message: `${PENDING_MAX} drafts wait already`, code: "QUEUE_FULL" };
    }
    if (error) {
      apply({ o: "settle", id: row.id, outcome: { status: "rejected", reason: "invalid", errors: [error] } });
      const draft = /** @type {import("./types.js").RejectedDraft} */ (replica.rejected.at(-1));
      if (following) link?.post({ k: "refused", draft });
      else if (!leads) unsaid.push(draft);
    } else void keep(entry);
    if (leads && peers && !error) say({ o: "add", row });
    changed();
    return entry.draft;
  }

  /** Forgets a rejected draft. @param {string} draftId */
  function dismiss(draftId) {
    apply({ o: "dismiss", id: draftId });
    if (!leads) link?.post({ k: "dismiss", id: draftId });
  }

  /** Gives the client another token: it goes on under it. @param {string} token */
  function setToken(token) {
    options.token = typeof options.token === "function" ? options.token : token;
    if (leads) engine?.connection.setToken(token);
    else link?.post({ k: "token", token });
  }

  /** Forgets all that is kept here, drafts too, and begins with the server's state. */
  async function clear() {
    if (!leads && link) {
      let done = false;
      const answer = () => new Promise((resolve) => (cleared = (byOther) => resolve((done = byOther))));
      link.post({ k: "clear" });
      await atMost(CLAIM_MS, answer());
      if (done || closing) return;
      // The tab that leads has stopped: this one takes its place.
      if (!leads) link?.steal();
      if (!leads) await atMost(CLAIM_MS, answer());
    }
    stopLeading();
    replica.wipe(initial);
    replica.clientId = "";
    changed();
    await store.clear().catch(() => {});
    if (!closing) await lead();
    tellAll(true);
  }

  /** Ends the client; may be called at any time, and twice. What is open ends undecided, and is found again. */
  function close() {
    closing ??= (async () => {
      unwatch();
      engine?.flush();
      await atMost(CLOSE_MS, persistence.idle());
      stopLeading();
      persistence.end();
      const left = link?.leave();
      link = undefined;
      env.clearTimeout(claimTimer);
      connection = { connection: "closed" };
      synced = false;
      for (const id of [...replica.entries.keys()]) replica.settle(id, { status: "undecided" });
      await atMost(CLOSE_MS, Promise.all([left, store.close()]));
      emit("status", getStatus());
      subscribers.clear();
      for (const set of Object.values(listeners)) set.clear();
    })();
    return closing;
  }

  // In a task of its own: a client that is closed at once opens nothing.
  queueMicrotask(() => {
    if (!closing) join();
  });

  return Object.freeze({
    getSnapshot,
    /** What a server renders. */
    getServerSnapshot: () => initial,
    subscribe,
    on,
    submit,
    dismiss,
    setToken,
    clear,
    close,
    get status() {
      return getStatus();
    },
    get pending() {
      const now = [...replica.entries.values()].filter(({ foldedAs }) => foldedAs === undefined).map(({ draft }) => draft);
      if (now.length !== pending.length || now.some((draft, index) => draft !== pending[index])) pending = Object.freeze(now);
      return pending;
    },
    get rejected() {
      return replica.rejected;
    },
    get clientId() {
      return replica.clientId;
    },
  });
}
