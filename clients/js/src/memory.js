// A store in memory: it lives as long as the object does, so two clients after each other can share it.

/** @returns {import("./types.js").Store} */
export function memoryStore() {
  let generation = 0;
  /** @type {string | undefined} */
  let clientId;
  /** @type {import("./types.js").Base | undefined} */
  let base;
  /** @type {Map<string, import("./types.js").DraftRow>} */
  const drafts = new Map();
  /** @type {Map<string, import("./types.js").RejectedDraft>} */
  const rejected = new Map();
  return {
    name: "memory",
    durable: false,
    async load(fresh) {
      generation += 1;
      clientId ??= fresh.clientId;
      return { generation, clientId, base, drafts: [...drafts.values()], rejected: [...rejected.values()] };
    },
    async write(changes, asGeneration) {
      const only = Object.keys(changes).every((name) => name === "put");
      if (!only && asGeneration !== generation) {
        throw Object.assign(new Error("fenced"), { code: "fenced" });
      }
      for (const row of changes.put ?? []) if (!drafts.has(row.id)) drafts.set(row.id, row);
      for (const id of changes.remove ?? []) drafts.delete(id);
      for (const id of changes.dismiss ?? []) rejected.delete(id);
      for (const draft of changes.reject ?? []) rejected.set(draft.id, draft);
      if (changes.base) base = changes.base;
    },
    async clear() {
      base = clientId = undefined;
      drafts.clear();
      rejected.clear();
    },
    async close() {},
  };
}
