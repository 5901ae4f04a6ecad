// What is shipped: its size, its types, and that importing it does nothing.

import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync, mkdirSync, cpSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { build } from "esbuild";

const root = fileURLToPath(new URL("..", import.meta.url));
const KIB = 1024;

/** The bytes of entry points together: minified, as a bundler gives them, and compressed. */
async function size(entries) {
  const contents = entries.map((entry) => `export * from ${JSON.stringify(join(root, "src", entry))};`).join("\n");
  const stdin = { contents, resolveDir: root };
  const { outputFiles } = await build({ stdin, bundle: true, minify: true, format: "esm", target: "es2022", write: false });
  const bytes = outputFiles[0].contents;
  return { brotli: brotliCompressSync(bytes).length, gzip: gzipSync(bytes, { level: 9 }).length };
}

// Each entry point's limit, so that it grows only on purpose. Together: 12 KiB over the wire.
for (const [entries, limit] of [
  [["index.js"], 10.75 * KIB],
  [["indexeddb.js"], 1.5 * KIB],
  [["tabs.js"], 0.6 * KIB],
  [["v1-transport.js"], 1.7 * KIB],
  [["index.js", "indexeddb.js", "tabs.js"], 12 * KIB],
]) {
  test(`${entries.join(" + ")} stays within ${limit} bytes`, async (t) => {
    const { brotli, gzip } = await size(entries);
    t.diagnostic(`${brotli} bytes by brotli, ${gzip} by gzip`);
    assert.ok(brotli <= limit, `${brotli} bytes`);
  });
}

test("the source is sound by its types", () => {
  execFileSync(join(root, "node_modules/.bin/tsc"), ["-p", "tsconfig.json"], { cwd: root, encoding: "utf8" });
});

test("the packed types hold under node16, nodenext and bundler", () => {
  const dir = mkdtempSync(join(tmpdir(), "insieme-client-"));
  try {
    const at = join(dir, "node_modules/insieme-client");
    mkdirSync(at, { recursive: true });
    cpSync(join(root, "src"), join(at, "src"), { recursive: true });
    cpSync(join(root, "package.json"), join(at, "package.json"));
    const tsc = join(root, "node_modules/.bin/tsc");
    execFileSync(tsc, ["-p", "tsconfig.pack.json", "--outDir", join(at, "types")], { cwd: root });
    writeFileSync(join(dir, "package.json"), '{ "type": "module" }');
    writeFileSync(
      join(dir, "use.ts"),
      `import { createClient, memoryStore } from "insieme-client";
import { indexedDbStore } from "insieme-client/indexeddb";
import { tabs } from "insieme-client/tabs";
import { createV1Transport } from "insieme-client/v1-transport";
createV1Transport({ url: "ws://x/ws" });
const client = createClient({ url: "ws://x", token: async ({ reason }) => reason, store: indexedDbStore(), tabs: tabs() });
const remove: () => void = client.subscribe(() => {});
const outcome = await client.submit("set", { target: "x", value: 1 }).settled;
if (outcome.status === "rejected") outcome.errors[0].message.trim();
const kind: "durable" | "memory" = client.status.storage.kind;
// @ts-expect-error there is no such event
client.on("nothing", () => {});
remove(); console.log(kind, memoryStore());
`,
    );
    for (const [module, resolution] of [["node16", "node16"], ["nodenext", "nodenext"], ["esnext", "bundler"]]) {
      const options = ["--module", module, "--moduleResolution", resolution, "--target", "es2022", "--strict", "--skipLibCheck", "--noEmit", "use.ts"];
      const { status, stdout } = spawnSync(tsc, options, { cwd: dir, encoding: "utf8" });
      assert.equal(status, 0, `${resolution}: ${stdout}`);
    }
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

test("importing does nothing and needs nothing; a process ends after close", () => {
  const names = "document window WebSocket indexedDB BroadcastChannel MessageChannel navigator crypto setImmediate".split(" ");
  const script = `
    for (const name of ${JSON.stringify(names)}) Object.defineProperty(globalThis, name, { get() { throw new Error(name); }, configurable: true });
    const { createClient } = await import("./src/index.js");
    await import("./src/indexeddb.js");
    await import("./src/tabs.js");
    for (const name of ${JSON.stringify(names)}) Object.defineProperty(globalThis, name, { value: undefined, configurable: true, writable: true });
    globalThis.setImmediate = setTimeout;
    const client = createClient({ url: "ws://127.0.0.1:9" });
    client.submit("set", { target: "x", value: 1 });
    console.log(JSON.stringify([client.getSnapshot(), client.getServerSnapshot()]));
    await new Promise((done) => setTimeout(done, 50));
    console.log(client.status.connection, client.status.reason);
    await client.close();
  `;
  const { stdout, stderr, status } = spawnSync(process.execPath, ["--input-type=module", "-e", script], { cwd: root, encoding: "utf8", timeout: 20_000 });
  assert.equal(status, 0, stderr);
  assert.equal(stdout, '[{"x":1},{}]\ndisconnected no-websocket\n');
});

test("no dynamic import, no eval, no dependency", () => {
  for (const name of readdirSync(join(root, "src"))) {
    const text = readFileSync(join(root, "src", name), "utf8").replace(/import\("\.\/[a-z]+\.js"\)\./g, "");
    assert.doesNotMatch(text, /\bimport\(|\beval\b|new Function|innerHTML/, name);
  }
  assert.equal(JSON.parse(readFileSync(join(root, "package.json"), "utf8")).dependencies, undefined);
});
