// Breaks the client in one way after the other, and shows that a test finds each. Slow; not one of the tests.
//
//     node tests/faults.mjs [REQUIREMENT ...]
//
// A fault is a text in a file of src/ and what stands there instead. The numbers are those of the client's requirements.

import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const FAULTS = [
  [1, "a folded draft is shown again", "replica.js", "if (entry) entry.foldedAs = event.eventId;", "", "drafts"],
  [1, "an answer ends a draft before its event is folded", "engine.js", "else if (entry.foldedAs !== undefined || eventId <= this.#replica.cursor) this", "else this", "drafts"],
  [1, "an answer before the broadcast is forgotten", "engine.js", "else entry.committedAs = eventId;", "", "drafts"],
  [1, "a tab goes back with a new leader", "client.js", "ahead = cursor < replica.cursor;", "ahead = false;", "tab-histories"],
  [2, "no part keeps its identity", "replica.js", "this.#visible = share(this.#visible, state);", "this.#visible = structuredClone(state);", "state"],
  [2, "a notification for each change", "client.js", "if (scheduled || closing) return;", "", "state"],
  [2, "a notification without a change", "client.js", "if (snapshot !== told) {", "{", "state"],
  [2, "a status that is new each time", "client.js", "if (JSON.stringify(next) !== JSON.stringify(status)) status = next;", "status = next;", "state"],
  [2, "time changes the snapshot", "replica.js", "timestamp: entry.at };", "timestamp: this.#now() };\n      this.#stale = true;\n      state = { ...state, at: this.#now() };", "state"],
  [3, "silence is not noticed", "connection.js", 'if (!this.#heard && asked) return this.#fail({ error: "silent" });', "", "connection"],
  [3, "the page's waking is not heard", "client.js", "engine?.connection.wake();", "", "connection"],
  [3, "resume is not heard", "env.js", '"visibilitychange", "resume"', '"visibilitychange"', "connection"],
  [3, "a probe starts over each time", "connection.js", 'if (this.#timers.has("probe") && !this.#heard) return;', "", "connection"],
  [4, "no doubling", "connection.js", "BACKOFF_MS * 2 ** this.#attempts", "BACKOFF_MS", "connection"],
  [4, "no limit", "connection.js", "Math.min(BACKOFF_MAX_MS, BACKOFF_MS * 2 ** this.#attempts)", "BACKOFF_MS * 2 ** this.#attempts", "connection"],
  [4, "no jitter", "connection.js", "const jitter = this.#env.random() * limit;", "const jitter = limit;", "connection"],
  [4, "retryAfterMs is not honoured", "connection.js", "if (details?.retryAfterMs > 0)", "if (false)", "connection"],
  [4, "the back-off is reset at once", "connection.js", "() => (this.#attempts = 0));", "() => {});\n      this.#attempts = 0;", "connection"],
  [4, "an attempt that is given up goes on", "connection.js", "      socket.close();\n", "", "connection"],
  [4, "an attempt that hangs", "connection.js", 'this.#timer("attempt", CONNECT_MS, () => this.#fail({ error: "timeout" }));', "", "connection"],
  [5, "a closed database is not opened again", "indexeddb.js", '["InvalidStateError", "AbortError", "UnknownError"].includes(error?.name)', "false", "store"],
  [5, "a transaction that the browser ended is no failure", "indexeddb.js", 'reject(tx.error ?? { name: "AbortError" })', "resolve(undefined)", "store"],
  [5, "a failed store stops the drafts", "client.js", "      entry.durable = true;\n      engine?.pump();", "      entry.durable = durable;\n      engine?.pump();", "store"],
  [7, "a draft is sent before it is stored", "engine.js", "if (!entry?.durable) return;", "if (!entry) return;", "drafts"],
  [7, "a draft counts before its transaction is complete", "indexeddb.js", "    await complete;\n", "", "store"],
  [7, "drafts are written relaxed", "indexeddb.js", 'transact("strict", (tx) => Promise.all', 'transact("relaxed", (tx) => Promise.all', "store"],
  [7, "state is written for each event", "client.js", "        if (leads) persistence.later();\n        emit(\"event\"", "        if (leads) (persistence.later(), persistence.flush());\n        emit(\"event\"", "store"],
  [7, "a settled draft stays in the store", "persistence.js", "if (settled !== undefined) this.#remove.add(settled);", "", "store"],
  [7, "close does not wait for the store", "client.js", "await atMost(CLOSE_MS, persistence.idle());", "await atMost(CLOSE_MS, persistence.flush());", "store"],
  [8, "a draft that is found again has another id", "client.js", "else replica.add(row, { durable: true, suspect: true });", "else replica.add({ ...row, id: env.randomId() }, { durable: true, suspect: true });", "drafts"],
  [8, "the client's id is not kept", "indexeddb.js", "clientId: fence?.clientId ?? fresh.clientId", "clientId: fresh.clientId", "store"],
  [8, "a draft of unknown outcome is not known again", "engine.js", "replica.match(event, open)", "undefined", "connection"],
  [8, "a new leader does not hear of the older drafts first", "client.js", "if (following) link?.post({ k: \"submit\", row: entry.row, durable });", "link?.post({ k: \"submit\", row: entry.row, durable });", "tab-histories"],
  [8, "an older generation writes", "memory.js", "if (!only && asGeneration !== generation)", "if (false)", "store"],
  [9, "a client that is closed at once connects", "client.js", "    if (!closing) join();\n  });", "    join();\n  });", "drafts"],
  [9, "listeners stay", "client.js", "      unwatch();\n", "", "drafts"],
  [9, "timers of a store that hangs stay", "client.js", "      persistence.end();\n", "", "store"],
  [9, "a lock stays", "tabs.js", "          release?.();\n          channel", "          channel", "tabs"],
  [10, "a rejected draft is not stored", "client.js", "void persistence.write({ remove: [op.id], reject: [rejected] });", "persistence.later(op.id);", "drafts"],
  [10, "what it rested on is not told", "replica.js", "if (!other.folds && other !== entry) other.restedOn = id;", ";", "drafts"],
  [10, "dismissing is not stored", "client.js", "if (leads) void persistence.write({ dismiss: [op.id] });", "", "drafts"],
  [10, "what a tab refused is its own affair", "client.js", 'if (following) link?.post({ k: "refused", draft });', "if (following) ;", "tabs"],
  [11, "state of other rules is kept", "client.js", "if (base.rules !== rulesKey) return true;", "", "state"],
  [11, "drafts of unknown type are sent", "client.js", "if (!rules?.events || BUILT_IN", "if (true || BUILT_IN", "state"],
  [12, "nothing is sent at pagehide", "client.js", "    suspended = true;\n    engine?.flush();", "    suspended = true;", "drafts"],
  [12, "everything is sent at pagehide", "engine.js", "if (!entry.durable || room < 0) return;", "if (!entry.durable) return;", "drafts"],
  [12, "the page stays dead after pageshow", "client.js", "if (suspended) join();", "", "drafts"],
  [16, "close leaves drafts open", "client.js", 'for (const id of [...replica.entries.keys()]) replica.settle(id, { status: "undecided" });', "", "drafts"],
  [17, "an event that does not fold is skipped", "engine.js", 'return this.#take("fold");', "return;", "state"],
  [17, "a draft that does not fold is not sent", "engine.js", "if (entry.committedAs === undefined) return entry;", "if (entry.committedAs === undefined && entry.folds !== false) return entry;", "drafts"],
  [18, "what is too large is queued", "client.js", "if (new TextEncoder().encode(text).length > DRAFT_BYTES_MAX)", "if (false)", "drafts"],
  [18, "what is too deep is queued", "json.js", "if (depth > DEPTH_MAX)", "if (false)", "drafts"],
  [18, "a draft that closes the connection goes on for ever", "engine.js", "if (entry.strikes < STRIKES_MAX) return;", "return;", "drafts"],
  [19, "importing needs a browser", "indexeddb.js", 'const STORES = ["meta", "drafts", "rejected"];', 'const STORES = ["meta", "drafts", "rejected"];\nnavigator.locks;', "package"],
  [20, "a store that failed is never tried again", "persistence.js", "this.#again ??= this.#env.setTimeout(() => void this.#tryAgain(), AGAIN_MS);", "", "store"],
  [20, "why it failed is not told", "persistence.js", 'reason: error?.code ?? "broken"', 'reason: "broken"', "store"],
  [20, "a store that hangs stops all", "persistence.js", "Promise.race([work, limit])", "work", "store"],
  [20, "what was settled meanwhile stays", "client.js", "remove: done(drafts), dismiss: done(rejected)", "remove: [], dismiss: []", "store"],
  [21, "without locks there is no client", "client.js", "if (!link) return void lead();", "if (!link) return;", "drafts"],
  [22, "a log that went back is not noticed", "engine.js", "if (head < replica.cursor) return this.#wentBack();", "", "connection"],
  [22, "another log is taken for the same", "engine.js", 'if (!same) return this.#take("replaced");', "", "connection"],
  [22, "another logId is not noticed", "engine.js", 'if (other) return this.#take("replaced");', "", "connection"],
  [22, "drafts are taken for committed in another log", "engine.js", "entry.committedAs = entry.foldedAs = undefined;", "", "connection"],
  [22, "a reset is not told", "client.js", 'if (op.reason && op.reason !== "behind") emit', "if (false) emit", "connection"],
  [28, "a dynamic import", "index.js", "export { memoryStore }", 'export const later = () => import("./fold.js");\nexport { memoryStore }', "package"],
  [28, "a type that does not hold", "types.js", '"durable" | "memory", reason?: string', "number", "package"],
];

const root = fileURLToPath(new URL("..", import.meta.url));
const asked = process.argv.slice(2).map(Number);
const dir = mkdtempSync(join(tmpdir(), "insieme-faults-"));
const at = join(dir, "clients/js");
mkdirSync(at, { recursive: true });
for (const name of ["src", "tests", "package.json", "tsconfig.json", "tsconfig.pack.json", "README.md"]) {
  cpSync(join(root, name), join(at, name), { recursive: true });
}
symlinkSync(join(root, "node_modules"), join(at, "node_modules"));
symlinkSync(join(root, "../../tests"), join(dir, "tests"));

/** Whether a test passes. */
function passes(test) {
  const args = test.endsWith("histories") ? [`tests/lib/${test}.mjs`, "1", "300"] : ["--test", `tests/${test}.test.js`];
  return spawnSync(process.execPath, args, { cwd: at, timeout: 120_000 }).status === 0;
}

let missed = 0;
try {
  for (const [requirement, what, file, text, instead, test] of FAULTS) {
    if (asked.length > 0 && !asked.includes(requirement)) continue;
    const path = join(at, "src", file);
    const source = readFileSync(path, "utf8");
    if (source.split(text).length !== 2) throw new Error(`${file} does not hold once: ${text}`);
    writeFileSync(path, source.replace(text, () => instead));
    const found = !passes(test);
    writeFileSync(path, source);
    if (!found) missed += 1;
    console.log(`${found ? "found " : "MISSED"} ${String(requirement).padStart(2)} ${what} (${test})`);
  }
} finally {
  rmSync(dir, { recursive: true, force: true });
}
process.exitCode = missed > 0 ? 1 : 0;
