// 10,000 random histories: whatever the order of answers and broadcasts, whatever is cut, repeated or reloaded, the
// client shows at every step what the log holds up to its cursor and, on top, its drafts that are not in it.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const HISTORIES = 10_000;
const file = fileURLToPath(new URL("./lib/histories.mjs", import.meta.url));

test(`${HISTORIES} random histories`, async () => {
  // In a process of its own: the test runner follows every promise, which makes it ten times slower.
  const { stdout } = await promisify(execFile)(process.execPath, [file, "1", String(HISTORIES)]);
  assert.equal(stdout, `${HISTORIES} histories\n`);
});
