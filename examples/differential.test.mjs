// Each example's random events, decided and folded by Node's V8 and by the server's QuickJS: the same verdicts, and
// the same state to the byte. INSIEME_TEST_BACKEND names the binary, INSIEME_TEST_EVENTS how many events an example has.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Partition, hash, random } from "./try.mjs";

const backend = process.env.INSIEME_TEST_BACKEND ?? fileURLToPath(new URL("../target/debug/insieme-backend", import.meta.url));
const EVENTS = Number(process.env.INSIEME_TEST_EVENTS ?? 5_000);

for (const name of ["kanban", "ledger", "booking"]) {
  test(`${name}: QuickJS folds ${EVENTS} events as V8 does`, async () => {
    const rules = await import(`./${name}/rules.js`);
    const { draft } = await import(`./${name}/random.mjs`);
    const here = new Partition(rules);
    const below = random(42);
    let refused = 0;
    while (here.log.length < EVENTS) {
      const found = here.submit(...draft(below, here.state));
      refused += Number(found.length > 0);
      assert.ok(refused < 20 * EVENTS, "hardly any draft is possible");
    }
    const folder = mkdtempSync(join(tmpdir(), "insieme-"));
    try {
      const file = join(folder, "events.jsonl");
      writeFileSync(file, here.lines());
      const module = fileURLToPath(new URL(`./${name}/rules.js`, import.meta.url));
      const said = execFileSync(backend, ["rules", "check", module, "--events", file, "--json"], { maxBuffer: 1 << 26 });
      const [found] = JSON.parse(said).partitions;
      assert.equal(found.events, EVENTS);
      assert.deepEqual([found.refused, found.notFolded, found.told], [0, 0, []]);
      assert.equal(found.stateSha256, hash(here.state));
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
}
