// The types that an application meets. No code.

/** @typedef {{ field: string, message: string, code?: string }} FieldError */

/** @typedef {{ status: "accepted", eventId: number }
 *   | { status: "rejected", reason: string, errors: FieldError[] }
 *   | { status: "undecided" }} Outcome */

/** What was submitted. `settled` resolves once, and never rejects.
 * @typedef {{ id: string, type: string, payload: any, settled: Promise<Outcome> }} Draft */

/** A draft that was refused. `restedOn` is the refused draft without which this one stopped to fold.
 * @typedef {{ id: string, type: string, payload: any, reason: string, errors: FieldError[], restedOn?: string }} RejectedDraft */

/** @typedef {{ type: string, payload: any, partition: string, id: string, eventId: number, timestamp: number,
 *   clientId: string, userId?: string, draftId?: string }} CommittedEvent */

/** @typedef {"starting" | "connecting" | "connected" | "disconnected" | "needs-auth" | "update-needed" | "closed"} ConnectionState */

/** What the client knows of itself. A new object only when something in it changed.
 * @typedef {{
 *   connection: ConnectionState, reason?: string, code?: number, retryAt?: number,
 *   synced: boolean, pending: number, head: number, cursor: number,
 *   storage: { kind: "durable" | "memory", reason?: string }, leader: boolean }} Status */

/** @typedef {{
 *   reduce?: (given: any) => any, check?: (given: any) => any }} EventRule */

/** The rules module that the server runs too.
 * @typedef {{ version?: number, initialState?: () => any, events?: Record<string, EventRule> }} Rules */

/** One draft as a store keeps it. @typedef {{ id: string, type: string, payload: any, baseEventId?: number }} DraftRow */

/** The committed state as a store keeps it; `folded` are the drafts in it that the server has not answered yet.
 * @typedef {{ state: any, cursor: number, stamp?: string, logId?: string, rules?: string, folded: [string, number][] }} Base */

/** What one write changes, in this order; what is put or rejected again stays as it is. All of it is stored, or nothing.
 * @typedef {{ put?: DraftRow[], remove?: string[], base?: Base, dismiss?: string[], reject?: RejectedDraft[] }} Changes */

/** What a store holds. `generation` is new with every `load`: a write with an older one is refused.
 * @typedef {{ generation: number, clientId: string, base?: Base, drafts: DraftRow[], rejected: RejectedDraft[] }} Stored */

/** Where a client keeps what it must not lose. A failure is an error with a `code`: `missing`, `forbidden`, `full`,
 * `evicted`, `broken`, or `fenced` when a newer generation has loaded. A write that only puts drafts needs no generation.
 * @typedef {{
 *   name: string, durable: boolean,
 *   load(fresh: { clientId: string }): Promise<Stored>,
 *   write(changes: Changes, generation?: number): Promise<void>,
 *   clear(): Promise<void>, close(): Promise<void> }} Store */

/** How tabs find each other; `tabs()` of `insieme-client/tabs` makes one.
 * @typedef {{ join(given: { name: string, env: any, onLead: () => void, onLost: () => void,
 *   onMessage: (message: any) => void }): TabLink | undefined }} Tabs */

/** @typedef {{ post(message: any): void, yieldLead(): void, steal(): void, leave(): Promise<void> }} TabLink */

/** @typedef {{
 *   url: string, partition?: string, clientId?: string,
 *   token?: string | ((given: { reason: "connect" | "expiring" | "refused" }) => string | Promise<string>),
 *   rules?: Rules, store?: Store, tabs?: Tabs, WebSocket?: any, env?: any }} ClientOptions */

export {};
