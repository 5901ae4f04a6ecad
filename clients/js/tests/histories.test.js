// 10,000 random histories: whatever the order of answers and broadcasts, whatever is cut, repeated or reloaded, the
// client shows at every step what the log holds up to its cursor and, on top, its drafts that are not in it. And 1,000
// of several tabs, which are closed, killed and frozen: each shows at every step what was submitted in it, once.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

for (const [name, count] of [["histories", 10_000], ["tab-histories", 1000]]) {
  test(`${count} random ${name}`, async () => {
    const file = fileURLToPath(new URL(`./lib/${name}.mjs`, import.meta.url));
    // In a process of its own: the test runner follows every promise, which makes it ten times slower.
    const { stdout } = await promisify(execFile)(process.execPath, [file, "1", String(count)]);
    assert.equal(stdout, `${count} histories\n`);
  });
}
