// This backend, with the limits it has by default, passes every case of the conformance runner.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { onReference, startBackend } from "./lib/backend.mjs";
import { Process } from "./lib/processes.mjs";

const RUNNER = fileURLToPath(new URL("../conformance/run.mjs", import.meta.url));

const SECRET = "a secret that only this test knows";

let backend;
before(async () => {
  backend = await startBackend({ limits: true, secret: SECRET });
});
after(() => backend?.stop());

test("the conformance runner finds nothing wrong", { skip: onReference && "tests/conformance tries the runner on it itself" }, async () => {
  const runner = new Process("conformance", process.execPath, [RUNNER, "--url", backend.url, "--token", `jwt-hs256:${SECRET}`, "--no-skips"]);
  await runner.exited;
  const found = runner.said.split("\n").filter((line) => !line.startsWith("ok "));
  assert.equal(runner.child.exitCode, 0, found.join("\n"));
  console.log(found.filter((line) => line.startsWith("# ")).join("\n"));
});
