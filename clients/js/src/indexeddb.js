// A store in IndexedDB: one database a partition; what belongs together is written in one transaction.

const STORES = ["meta", "drafts", "rejected"];
/** Web Locks are missing on plain http: then each tab keeps a queue of its own. */
const TAB_KEY = "insieme-client-tab";

/** @param {string} code @param {unknown} [cause] */
const storeError = (code, cause) => Object.assign(new Error(code, { cause }), { code });

/** What went wrong, in a word. @param {any} error */
function codeOf(error) {
  if (typeof error?.code === "string") return error.code;
  if (error?.name === "QuotaExceededError") return "full";
  if (error?.name === "SecurityError") return "forbidden";
  return "broken";
}

/** @param {any} request @returns {Promise<any>} */
const result = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

/** A name of this tab, which a reload keeps. */
function tabName() {
  const { sessionStorage, location } = /** @type {any} */ (globalThis);
  if (!location || !sessionStorage) return "";
  let name = sessionStorage.getItem(TAB_KEY);
  if (!name) {
    name = String(Math.random()).slice(2);
    sessionStorage.setItem(TAB_KEY, name);
  }
  return `-${name}`;
}

/**
 * @param {{ name?: string }} [options] the database's name; one for each partition and user
 * @returns {import("./types.js").Store}
 */
export function indexedDbStore({ name = "insieme" } = {}) {
  /** @type {Promise<any> | undefined} */
  let opened;
  let closed = false;
  const shared = Boolean(/** @type {any} */ (globalThis).navigator?.locks);

  function open() {
    const { indexedDB } = /** @type {any} */ (globalThis);
    if (!indexedDB) return Promise.reject(storeError("missing"));
    if (closed) return Promise.reject(storeError("closed"));
    opened ??= new Promise((resolve, reject) => {
      const request = indexedDB.open(shared ? name : name + tabName(), 1);
      request.onupgradeneeded = () => {
        request.result.createObjectStore("meta");
        request.result.createObjectStore("drafts", { autoIncrement: true }).createIndex("id", "id", { unique: true });
        request.result.createObjectStore("rejected", { autoIncrement: true }).createIndex("id", "id", { unique: true });
      };
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        const db = request.result;
        // The browser closes it when the site's data are cleared, and under pressure.
        db.onclose = () => (opened = undefined);
        db.onversionchange = () => {
          db.close();
          opened = undefined;
        };
        if (closed) db.close();
        resolve(db);
      };
    });
    opened.catch(() => (opened = undefined));
    return opened;
  }

  /** Runs one transaction; resolves when it is complete, which alone means that it is stored.
   * @template T @param {"strict" | "relaxed"} durability @param {(tx: any) => Promise<T>} work @returns {Promise<T>} */
  async function once(durability, work) {
    const db = await open();
    const tx = db.transaction(STORES, "readwrite", { durability });
    const complete = new Promise((resolve, reject) => {
      tx.oncomplete = resolve;
      // Without an error, the browser has closed the database.
      tx.onabort = () => reject(tx.error ?? { name: "AbortError" });
    });
    complete.catch(() => {});
    let value;
    try {
      value = await work(tx);
    } catch (error) {
      try {
        tx.abort();
      } catch {
        // It ended already.
      }
      throw error;
    }
    await complete;
    return value;
  }

  /** The same, and once more on a fresh database if the browser has closed this one.
   * @template T @param {"strict" | "relaxed"} durability @param {(tx: any) => Promise<T>} work @returns {Promise<T>} */
  async function transact(durability, work) {
    try {
      return await once(durability, work);
    } catch (/** @type {any} */ error) {
      if (!["InvalidStateError", "AbortError", "UnknownError"].includes(error?.name)) {
        throw storeError(codeOf(error), error);
      }
      opened = undefined;
    }
    try {
      return await once(durability, work);
    } catch (error) {
      throw storeError(codeOf(error), error);
    }
  }

  /** Drafts on their way into the database. A page that goes away takes its transactions with it.
   * @type {Set<import("./types.js").DraftRow>} */
  const unstored = new Set();
  const leftKey = `insieme-client ${name} `;

  function leave() {
    try {
      if (unstored.size > 0) localStorage.setItem(leftKey + Math.random(), JSON.stringify([...unstored]));
    } catch {
      // There is no other place.
    }
  }

  /** What pages left when they went away, by its key. @returns {[string, import("./types.js").DraftRow[]][]} */
  function left() {
    try {
      const keys = Object.keys(localStorage).filter((key) => key.startsWith(leftKey));
      return keys.map((key) => [key, JSON.parse(localStorage.getItem(key) ?? "[]")]);
    } catch {
      return [];
    }
  }

  /** Drafts need no fence: any tab may add one. @param {import("./types.js").DraftRow[]} rows */
  async function putAll(rows) {
    if (unstored.size === 0) globalThis.addEventListener?.("pagehide", leave);
    for (const row of rows) unstored.add(row);
    try {
      await transact("strict", (tx) => Promise.all(rows.map((row) => add(tx, "drafts", row))));
    } finally {
      for (const row of rows) unstored.delete(row);
      if (unstored.size === 0) globalThis.removeEventListener?.("pagehide", leave);
    }
  }

  /** Adds a row that is not there yet. @param {any} tx @param {string} store @param {any} row */
  async function add(tx, store, row) {
    const rows = tx.objectStore(store);
    if ((await result(rows.index("id").getKey(row.id))) === undefined) rows.add(row);
  }

  return {
    name,
    durable: true,
    async load(fresh) {
      const late = left();
      const stored = await transact("strict", async (tx) => {
        const meta = tx.objectStore("meta");
        const fence = await result(meta.get("fence"));
        const next = { generation: (fence?.generation ?? 0) + 1, clientId: fence?.clientId ?? fresh.clientId };
        meta.put(next, "fence");
        for (const [, rows] of late) for (const row of rows) await add(tx, "drafts", row);
        const [base, drafts, rejected] = await Promise.all([
          result(meta.get("base")),
          result(tx.objectStore("drafts").getAll()),
          result(tx.objectStore("rejected").getAll()),
        ]);
        return { ...next, base, drafts, rejected };
      });
      for (const [key] of late) localStorage.removeItem(key);
      return stored;
    },
    async write(changes, generation) {
      if (changes.put && Object.keys(changes).length === 1) return putAll(changes.put);
      return transact(changes.put ? "strict" : "relaxed", async (tx) => {
        const meta = tx.objectStore("meta");
        const fence = await result(meta.get("fence"));
        if (!fence) throw storeError("evicted");
        if (generation !== fence.generation) throw storeError("fenced");
        const drop = async (/** @type {string} */ store, /** @type {string} */ id) => {
          const rows = tx.objectStore(store);
          const key = await result(rows.index("id").getKey(id));
          if (key !== undefined) rows.delete(key);
        };
        if (changes.base) meta.put(changes.base, "base");
        for (const row of changes.put ?? []) await add(tx, "drafts", row);
        for (const id of changes.remove ?? []) await drop("drafts", id);
        for (const id of changes.dismiss ?? []) await drop("rejected", id);
        for (const row of changes.reject ?? []) await add(tx, "rejected", row);
      });
    },
    clear: () =>
      transact("strict", async (tx) => {
        for (const [key] of left()) localStorage.removeItem(key);
        // The fence stays, so that no older client writes into what is new; who it was is forgotten.
        const fence = await result(tx.objectStore("meta").get("fence"));
        for (const name of STORES) tx.objectStore(name).clear();
        if (fence) tx.objectStore("meta").put({ generation: fence.generation }, "fence");
      }),
    async close() {
      closed = true;
      const was = opened;
      opened = undefined;
      await was?.then((db) => db.close()).catch(() => {});
    },
  };
}
