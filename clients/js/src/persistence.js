// Keeps a client's drafts and state in its store; when the store fails, the client goes on in memory and says so.

/** Drafts are stored at once. State is not: it can be had from the server. */
const LATER_MS = 2000;
/** A frozen tab can hold the database for as long as it likes. */
const STORE_MS = 5000;
const AGAIN_MS = 60_000;

/** @typedef {import("./types.js").Changes} Changes */

export class Persistence {
  /** @type {import("./types.js").Status["storage"]} */
  state = { kind: "memory", reason: "starting" };
  #env;
  #store;
  #given;
  /** @type {number | undefined} */
  #generation;
  /** @type {Promise<void>} */
  #ready = Promise.resolve();
  #works = true;
  #dirty = false;
  /** @type {Set<string>} */
  #remove = new Set();
  /** Drafts of this turn. @type {{ rows: import("./types.js").DraftRow[], stored: Promise<boolean> } | undefined} */
  #puts;
  /** @type {any} */
  #later;
  /** @type {any} */
  #again;
  /** This tab has the store to itself. */
  #leads = false;
  /** Tells what is left of an earlier time in the lead. */
  #tenure = 0;
  /** Writes that have not ended. @type {Set<Promise<any>>} */
  #busy = new Set();
  /** Gives up what the store has not answered. @type {Set<() => void>} */
  #waits = new Set();

  /**
   * @param {object} given
   * @param {any} given.env
   * @param {import("./types.js").Store} given.store
   * @param {() => import("./types.js").Base} given.base the committed state
   * @param {{ clientId: string }} given.who the client, for a store that lost its id
   * @param {(stored: import("./types.js").Stored) => Changes} given.all everything, for a store that lost it or missed some
   * @param {() => void} given.onState
   * @param {() => void} given.onFenced another client writes to the store now
   */
  constructor(given) {
    this.#given = given;
    this.#env = given.env;
    this.#store = given.store;
  }

  /** Loads what is stored, and is from then on the one that writes it. Gives undefined if the store fails.
   * @param {{ clientId: string }} fresh */
  async open(fresh) {
    const mine = (this.#tenure += 1);
    this.#leads = true;
    let open = () => {};
    this.#ready = new Promise((done) => (open = done));
    try {
      const stored = await this.#limited(this.#store.load(fresh));
      if (mine !== this.#tenure) return undefined;
      this.#generation = stored.generation;
      this.#works = true;
      this.#say();
      return stored;
    } catch (error) {
      this.#failed(error);
      return undefined;
    } finally {
      open();
    }
  }

  /** Stores a draft, together with the others of this turn. Gives whether it lies in the store. `shared` is for a tab
   * that does not lead. @param {import("./types.js").DraftRow} row @param {boolean} shared @returns {Promise<boolean>} */
  put(row, shared) {
    this.#puts ??= { rows: [], stored: this.#track(Promise.resolve().then(() => this.#putAll(shared))) };
    this.#puts.rows.push(row);
    return this.#puts.stored;
  }

  /** @param {boolean} shared */
  async #putAll(shared) {
    const put = this.#puts?.rows;
    this.#puts = undefined;
    if (!shared) await this.#ready;
    if (!this.#works) return false;
    try {
      await this.#limited(this.#store.write({ put }));
      return true;
    } catch (error) {
      if (!shared) this.#failed(error);
      return false;
    }
  }

  /** The state moved on; a draft that is in it goes from the store together with that. @param {string} [settled] */
  later(settled) {
    if (settled !== undefined) this.#remove.add(settled);
    this.#dirty = true;
    this.#later ??= this.#env.setTimeout(() => void this.flush(), LATER_MS);
  }

  /** Writes something small at once. @param {Changes} changes */
  write(changes) {
    return this.#track(this.#write(changes));
  }

  /** @param {Changes} changes */
  async #write(changes) {
    // Before anything else: what is written last is written while this client stops.
    let generation = this.#generation;
    await this.#ready;
    generation ??= this.#generation;
    if (!this.#works) return;
    try {
      await this.#limited(this.#store.write(changes, generation));
    } catch (error) {
      if (generation === this.#generation) this.#failed(error);
    }
  }

  /** Writes what waits. */
  async flush() {
    this.#env.clearTimeout(this.#later);
    this.#later = undefined;
    if (!this.#dirty || !this.#works) return;
    this.#dirty = false;
    const remove = [...this.#remove];
    this.#remove.clear();
    await this.write({ base: this.#given.base(), remove });
  }

  /** Writes what waits, and ends when all is written. */
  async idle() {
    await this.flush();
    while (this.#busy.size > 0) await Promise.all(this.#busy);
  }

  /** Waits for nothing any more. */
  end() {
    this.#works = false;
    for (const giveUp of this.#waits) giveUp();
  }

  /** Ends the writing, not the store. */
  stop() {
    this.#tenure += 1;
    this.#leads = false;
    this.#env.clearTimeout(this.#later);
    this.#env.clearTimeout(this.#again);
    this.#later = this.#again = this.#generation = undefined;
    this.#dirty = false;
    this.#remove.clear();
  }

  /** @template T @param {Promise<T>} work @returns {Promise<T>} */
  #track(work) {
    this.#busy.add(work);
    void work.finally(() => this.#busy.delete(work));
    return work;
  }

  /** @template T @param {Promise<T>} work @returns {Promise<T>} */
  async #limited(work) {
    let giveUp = () => {};
    const limit = new Promise((_, reject) => (giveUp = () => reject({ code: "blocked" })));
    const timer = this.#env.setTimeout(giveUp, STORE_MS);
    this.#waits.add(giveUp);
    try {
      return /** @type {T} */ (await Promise.race([work, limit]));
    } finally {
      this.#env.clearTimeout(timer);
      this.#waits.delete(giveUp);
    }
  }

  #say() {
    this.state = { kind: this.#store.durable ? "durable" : "memory" };
    this.#given.onState();
  }

  /** @param {any} error */
  #failed(error) {
    if (!this.#leads) return;
    if (error?.code === "fenced") return this.#given.onFenced();
    this.#works = false;
    this.state = { kind: "memory", reason: error?.code ?? "broken" };
    this.#again ??= this.#env.setTimeout(() => void this.#tryAgain(), AGAIN_MS);
    this.#given.onState();
  }

  async #tryAgain() {
    const mine = this.#tenure;
    this.#again = undefined;
    try {
      const stored = await this.#limited(this.#store.load({ clientId: this.#given.who.clientId }));
      if (mine !== this.#tenure) return;
      await this.#limited(this.#store.write(this.#given.all(stored), stored.generation));
      if (mine !== this.#tenure) return;
      this.#generation = stored.generation;
      this.#works = true;
      this.#say();
    } catch (error) {
      if (mine === this.#tenure) this.#failed(error);
    }
  }
}
