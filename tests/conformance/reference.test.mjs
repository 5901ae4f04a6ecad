// The runner, tried on the npm package's own server: it finds its two known faults, and no others.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { startReference } from "./reference.mjs";

const RUNNER = fileURLToPath(new URL("run.mjs", import.meta.url));

/** Runs the runner; gives its exit code, what it said, and its JSON. */
const runRunner = (...args) => {
  const dir = mkdtempSync(join(tmpdir(), "insieme-conformance-"));
  const json = join(dir, "results.json");
  return new Promise((resolve) => {
    execFile(process.execPath, [RUNNER, "--json", json, ...args], { timeout: 120_000 }, (error, said) => {
      let results = null;
      try {
        results = JSON.parse(readFileSync(json, "utf8"));
      } catch {}
      rmSync(dir, { recursive: true, force: true });
      resolve({ code: error?.code ?? (error ? -1 : 0), said, results });
    });
  });
};

test("against the package's own server the runner finds exactly the two known faults", async (t) => {
  const server = await startReference();
  t.after(() => server.stop());
  const { code, said, results } = await runRunner(
    "--url", server.url, "--token", "jwt-hs256:conformance-secret", "--profile", "reference", "--no-skips", "--timeout-ms", "5000",
  );
  assert.equal(code, 0, said);
  assert.deepEqual(results.faults, ["repeat-broadcast", "sync-hole"]);
  assert.deepEqual(results.unexpected, []);
  assert.equal(results.skipped, 0);
  const failed = results.results.filter(({ status }) => status === "fail");
  assert.ok(failed.every(({ fault, beyondReference }) => fault || beyondReference), said);
});

test("held to the contract, the package's own server does not pass", async (t) => {
  const server = await startReference();
  t.after(() => server.stop());
  const { code, results } = await runRunner(
    "--url", server.url, "--token", "jwt-hs256:conformance-secret", "--only", "repeat-not-broadcast,connect-is-answered",
  );
  assert.equal(code, 1);
  assert.deepEqual(results.unexpected, ["repeat-not-broadcast"]);
});

test("a server that does not answer is no server that passes", async () => {
  const { code } = await runRunner("--url", "ws://127.0.0.1:9", "--token", "none");
  assert.notEqual(code, 0);
});
