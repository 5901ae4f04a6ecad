// A module of rules is used by clients as it is: its reducers, handed to `createReducer` of the published package, fold
// each example's random events to the state that the server's `rules check` reports.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { createReducer } from "insieme";
import { Partition, hash, random } from "../../examples/try.mjs";

const EVENTS = 1_000;
const backend = process.env.INSIEME_TEST_BACKEND ?? fileURLToPath(new URL("../../target/debug/insieme-backend", import.meta.url));

for (const name of ["kanban", "ledger", "booking"]) {
  test(`${name}: the published client's createReducer folds as the server does`, async () => {
    const rules = await import(`../../examples/${name}/rules.js`);
    const { draft } = await import(`../../examples/${name}/random.mjs`);
    const here = new Partition(rules);
    const below = random(7);
    while (here.log.length < EVENTS) here.submit(...draft(below, here.state));

    const handlers = Object.fromEntries(Object.entries(rules.events).map(([type, { reduce }]) => [type, reduce]));
    const reducer = createReducer({ schemaHandlers: handlers });
    const state = here.log.reduce((state, event) => reducer({ state, event, partition: event.partition }), rules.initialState());

    const folder = mkdtempSync(join(tmpdir(), "insieme-"));
    try {
      const file = join(folder, "events.jsonl");
      writeFileSync(file, here.lines());
      const module = fileURLToPath(new URL(`../../examples/${name}/rules.js`, import.meta.url));
      const said = execFileSync(backend, ["rules", "check", module, "--events", file, "--json"], { maxBuffer: 1 << 26 });
      const [found] = JSON.parse(said).partitions;
      assert.deepEqual([found.events, found.refused, found.notFolded], [EVENTS, 0, 0]);
      assert.equal(hash(state), found.stateSha256);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
}
