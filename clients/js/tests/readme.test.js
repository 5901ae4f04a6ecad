// Every snippet of the README runs, and prints what its comments say.

import "fake-indexeddb/auto";
import assert from "node:assert/strict";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import WebSocket from "ws";
import { startBackend } from "../../../tests/interop/lib/backend.mjs";

const file = (name) => fileURLToPath(new URL(name, import.meta.url));
const text = readFileSync(file("../README.md"), "utf8");
const snippets = [...text.matchAll(/```js\n(.*?)```/gs)].map(([, code]) => code);

let backend;
before(async () => {
  backend = await startBackend();
  globalThis.WebSocket = WebSocket;
});
after(() => backend?.stop());

for (const [index, snippet] of snippets.entries()) {
  test(`snippet ${index + 1}`, async () => {
    const said = [];
    globalThis.readmeLog = (...values) => said.push(values.map((value) => (typeof value === "string" ? JSON.stringify(value) : String(value))).join(", "));
    const at = file(`./.readme-${index}.mjs`);
    const code = snippet
      .replaceAll('"insieme-client"', '"../src/index.js"')
      .replaceAll(/"insieme-client\/([\w-]+)"/g, '"../src/$1.js"')
      .replaceAll(/ws:\/\/127\.0\.0\.1:3001(\/ws)?/g, backend.url)
      .replaceAll("console.log", "readmeLog");
    writeFileSync(at, code);
    try {
      await import(at);
    } finally {
      rmSync(at);
    }
    for (const [, comment] of snippet.matchAll(/console\.log\(.*\); \/\/ ("[^,]*"(?:, "[^,]*")*)/g)) {
      assert.ok(said.includes(comment), `${comment} among ${said.join("; ")}`);
    }
  });
}

test("there are snippets", () => assert.ok(snippets.length >= 4));
