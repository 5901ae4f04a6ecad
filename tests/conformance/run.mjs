#!/usr/bin/env node
// Checks a server of Insieme's v1 protocol from outside: one named case for each thing it must do.

import { randomUUID } from "node:crypto";
import { writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import broadcast from "./cases/broadcast.mjs";
import handshake from "./cases/handshake.mjs";
import idempotency from "./cases/idempotency.mjs";
import limits from "./cases/limits.mjs";
import submit from "./cases/submit.mjs";
import sync from "./cases/sync.mjs";
import { Case } from "./lib/case.mjs";
import { Peer } from "./lib/peer.mjs";
import { parseRecipe } from "./lib/tokens.mjs";

const HELP = `usage: node run.mjs --url ws://HOST:PORT/PATH --token RECIPE [options]

  --url URL             the server's WebSocket
  --token RECIPE        none | literal:TEXT | template:TEXT | jwt-hs256:SECRET
                        TEXT of a template may hold {clientId}, {userId}, {projectId}
  --claims JSON         more claims for every JWT
  --only TEXT[,TEXT]    only the cases whose id holds one of these; may be given many times
  --list                print the cases and do no more
  --json FILE           write the results there as well
  --profile reference   expect what the npm package's own server does: its known faults must show, and
                        where our contract goes beyond it, it may fail
  --no-skips            a case that could not run counts as one that failed
  --timeout-ms N        how long one wait may take  [default: 10000]
  --case-timeout-ms N   how long one case may take  [default: 60000]

Exit code: 0 all as expected, 1 not (or no server there), 2 wrong use.`;

const CASES = Object.entries({ handshake, submit, idempotency, broadcast, sync, limits }).flatMap(([area, cases]) =>
  cases.map((one) => ({ area, ...one })),
);

const fail = (message) => {
  console.error(message);
  process.exit(2);
};

const options = (() => {
  try {
    return parseArgs({
      options: {
        url: { type: "string" },
        token: { type: "string" },
        claims: { type: "string", default: "{}" },
        only: { type: "string", multiple: true, default: [] },
        list: { type: "boolean" },
        json: { type: "string" },
        "no-skips": { type: "boolean", default: false },
        profile: { type: "string", default: "contract" },
        "timeout-ms": { type: "string", default: "10000" },
        "case-timeout-ms": { type: "string", default: "60000" },
        help: { type: "boolean", short: "h" },
      },
    }).values;
  } catch (error) {
    return fail(`${error.message}\n\n${HELP}`);
  }
})();

if (options.help) {
  console.log(HELP);
  process.exit(0);
}

const duplicates = CASES.map(({ id }) => id).filter((id, index, all) => all.indexOf(id) !== index);
if (duplicates.length > 0) fail(`two cases have one id: ${duplicates.join(", ")}`);

const wanted = options.only.flatMap((text) => text.split(","));
const chosen = CASES.filter(({ id }) => wanted.length === 0 || wanted.some((text) => id.includes(text)));
if (chosen.length === 0) fail(`no case's id holds ${wanted.join(" or ")}; --list shows them`);

if (options.list) {
  for (const { area, id, title, spec, fault, beyondReference, needs } of chosen) {
    console.log(`${area}/${id}\n    ${title}\n    must: ${spec}`);
    if (needs) console.log(`    needs: a token recipe with ${needs}`);
    if (fault) console.log(`    the package's own server fails: ${fault}`);
    if (beyondReference) console.log(`    beyond the package's own server: ${beyondReference}`);
  }
  process.exit(0);
}

if (!options.url || !options.token) fail(HELP);
if (!["contract", "reference"].includes(options.profile)) fail(`no profile "${options.profile}"\n\n${HELP}`);

const recipe = (() => {
  try {
    return parseRecipe(options.token, JSON.parse(options.claims));
  } catch (error) {
    return fail(error.message);
  }
})();

/** Runs one case to its end or its time-out; gives the error, or null. */
const attempt = async (one) => {
  const t = new Case({ url: options.url, recipe, timeoutMs: Number(options["timeout-ms"]) });
  let timer;
  try {
    await Promise.race([
      one.run(t),
      new Promise((_, reject) => {
        timer = setTimeout(
          () => reject(new Error(`the case took more than ${options["case-timeout-ms"]} ms`)),
          Number(options["case-timeout-ms"]),
        );
      }),
    ]);
    return null;
  } catch (error) {
    return error;
  } finally {
    clearTimeout(timer);
    t.end();
  }
};

// A server that is not there would fail every case in the same way.
try {
  const peer = await Peer.open({ url: options.url, label: "runner", timeoutMs: Number(options["timeout-ms"]) });
  peer.drop();
} catch (error) {
  console.error(error.message);
  process.exit(1);
}

const reference = options.profile === "reference";
const results = [];
const run = randomUUID();
console.log(`TAP version 14\n1..${chosen.length}`);
for (const [index, one] of chosen.entries()) {
  const started = performance.now();
  const result = { id: one.id, area: one.area, title: one.title, spec: one.spec, status: "pass", asExpected: true };
  if (one.needs === "claims" && !recipe.claims) {
    result.status = "skip";
    result.asExpected = !options["no-skips"];
    result.reason = `the token recipe ${options.token.split(":")[0]} cannot bind a token to a client, a user, a project or a time`;
  } else {
    const error = await attempt(one);
    if (error) {
      result.status = "fail";
      result.error = error.message;
    }
    if (reference && one.fault) {
      result.fault = one.fault;
      result.asExpected = error !== null;
    } else if (reference && one.beyondReference) {
      result.beyondReference = one.beyondReference;
    } else {
      result.asExpected = error === null;
    }
  }
  result.durationMs = Math.round(performance.now() - started);
  results.push(result);

  const directive =
    result.status === "skip" ? ` # SKIP ${result.reason}`
    : result.fault ? ` # TODO known fault: ${result.fault}`
    : result.beyondReference ? ` # TODO beyond the reference: ${result.beyondReference}`
    : "";
  console.log(`${result.status === "fail" ? "not ok" : "ok"} ${index + 1} - ${one.area}/${one.id}: ${one.title}${directive}`);
  if (result.status === "fail" && !result.asExpected) {
    console.log(`  ---\n  must: ${JSON.stringify(one.spec)}\n  found: |\n${result.error.split("\n").map((line) => `    ${line}`).join("\n")}\n  ...`);
  } else if (result.status === "pass" && !result.asExpected) {
    console.log("  # passed, though this server is known to fail here");
  }
}

const count = (status) => results.filter((result) => result.status === status).length;
const unexpected = results.filter(({ asExpected }) => !asExpected);
const faults = [...new Set(results.filter(({ status, fault }) => status === "fail" && fault).map(({ fault }) => fault))].sort();
const summary = { run, url: options.url, profile: options.profile, passed: count("pass"), failed: count("fail"), skipped: count("skip"), faults, unexpected: unexpected.map(({ id }) => id) };
console.log(`# ${summary.passed} passed, ${summary.failed} failed, ${summary.skipped} skipped`);
if (reference) console.log(`# known faults found: ${faults.join(", ") || "none"}`);
console.log(unexpected.length === 0 ? "# all as expected" : `# not as expected: ${summary.unexpected.join(", ")}`);
if (options.json) writeFileSync(options.json, `${JSON.stringify({ ...summary, results }, null, 2)}\n`);
process.exit(unexpected.length === 0 ? 0 : 1);
