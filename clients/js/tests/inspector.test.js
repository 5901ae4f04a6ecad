// The inspector, in Chromium: of `dev`, and of an administration that asks for tokens.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import WebSocket from "ws";
import { Process } from "../../../tests/interop/lib/processes.mjs";
import { signHs256 } from "../../../tests/conformance/lib/tokens.mjs";
import { chromium, dev } from "./lib/dev-rig.mjs";
import { BINARY, fillLog, flaws, look, LOOKS, openWatched, press, record } from "./lib/dev.mjs";

const EVIL = `<img src=x onerror="window.wrong.push('script')">`;

const nothingWrong = async (page) => assert.deepEqual(await page.run("window.wrong"), []);

/** Submits drafts over a socket of its own; gives the answers. */
async function submit(partition, drafts, clientId = "writer-1") {
  const socket = new WebSocket(`ws://127.0.0.1:${dev.port}/ws`);
  const waiting = [];
  let last = 0;
  const next = (type, payload) =>
    new Promise((done, fail) => {
      last += 1;
      waiting.push(done);
      socket.onerror = fail;
      socket.send(JSON.stringify({ id: String(last), type, timestamp: 0, payload }));
    });
  await new Promise((done, fail) => Object.assign(socket, { onopen: done, onerror: fail }));
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (["connected", "event_accepted", "event_rejected", "error"].includes(message.type)) waiting.shift()?.(message);
  };
  const answers = [await next("connect", { clientId, version: "1", partition })];
  for (const event of drafts) answers.push(await next("submit_event", { draftId: `d${Math.random()}`, event }));
  return { answers, close: () => socket.close() };
}

const hash = (page, to) => page.run(`location.hash = ${JSON.stringify(to)}`);
const main = `document.getElementById("main")`;
const rows = `[...document.querySelectorAll('.layer .logrow')]`;

async function openInspector(to = "") {
  const page = await openWatched(chromium, `${dev.url}inspector`);
  await page.until(`location.pathname === "/inspector" && document.querySelectorAll("nav a").length === 4`);
  if (to) await hash(page, to);
  return page;
}

test("the inspector shows partitions, a log, states, people and the backend, and runs nothing that users wrote", async () => {
  const evil = `evil ${EVIL}`;
  const { answers, close } = await submit(evil, [
    { type: "set", payload: { target: "title", value: EVIL } },
    { type: "set", payload: { target: "a", value: { b: 1, c: EVIL } } },
    { type: "set", payload: { target: "a.b", value: 2 } },
    { type: "unset", payload: { target: "a.c" } },
  ]);
  assert.deepEqual(answers.slice(1).map(({ type }) => type), Array(4).fill("event_accepted"));
  const page = await openInspector();
  assert.equal(await page.run("location.port"), String(new URL(dev.admin).port));
  await page.until(`${main}.textContent.includes(${JSON.stringify(EVIL)})`);
  await page.run(`document.querySelector('input[type="search"]').value = "EVIL"; document.querySelector('input[type="search"]').dispatchEvent(new Event("input"))`);
  await page.until(`document.querySelectorAll("tbody tr").length === 1`);
  await page.run(`document.querySelector("tbody a").click()`);
  await page.until(`${rows}.length === 4 && ${rows}[0].textContent.includes("onerror")`);
  await page.run(`${rows}[1].click()`);
  await page.until(`document.querySelector('[data-role="detail"] pre')?.textContent.includes('"draftId"')`);

  await hash(page, `partition/${encodeURIComponent(evil)}/state@4-2`);
  await page.until(`document.querySelectorAll('[data-role="changes"] li').length === 2`);
  assert.match(await page.run(`document.querySelector('[data-role="changes"]').textContent`), /a\.b.*1.*2/);
  assert.deepEqual(await page.run(`[...document.querySelectorAll('[data-role="changes"] li')].map(({ className }) => className)`), ["changed", "removed"]);
  await page.run(`document.getElementById("at").value = 1; document.getElementById("at").dispatchEvent(new Event("input"))`);
  await page.until(`document.querySelector(".told").textContent.startsWith("Event 1 of 4")`);
  assert.match(await page.run(`document.querySelector('[data-role="tree"]').textContent`), /title.*onerror/);

  await hash(page, "people");
  await page.until(`document.querySelector("tbody")?.textContent.includes("writer-")`);
  close();
  await hash(page, "backend");
  await page.until(`/All \\d+ slots are owned/.test(${main}.textContent) && ${main}.textContent.includes("validator")`);
  assert.equal(await page.run("document.querySelectorAll('main img').length"), 0);
  await nothingWrong(page);
});

test("the inspector shows rejections as they happen, and says which were only counted", async () => {
  const page = await openInspector("rejections");
  await page.until(`document.querySelector(".told")?.textContent.startsWith("None since")`);
  // The stream is open when the page has said so to the administration; until then a rejection may come too early.
  let socket;
  await page.until(`true`);
  for (let tries = 0; tries < 50; tries += 1) {
    socket?.close();
    socket = await submit("refused", [{ type: "treeDelete", payload: { target: EVIL, options: { id: "x" } } }]);
    assert.equal(socket.answers[1].type, "event_rejected");
    if (await page.run(`document.querySelectorAll('[data-role="rejections"] > li').length > 0`)) break;
    await new Promise((done) => setTimeout(done, 100));
  }
  await page.until(`document.querySelector('[data-role="rejections"] > li a')?.textContent === "refused"`);
  assert.match(await page.run(`document.querySelector('[data-role="rejections"] > li').textContent`), /validation_failed/);
  // Each client as many as it may in a minute. However slowly they come, they are more than the page shows.
  const drafts = Array.from({ length: 100 }, () => ({ type: "treeDelete", payload: { target: "none", options: { id: "x" } } }));
  const many = await Promise.all(["writer-2", "writer-3", "writer-4"].map((client) => submit("refused", drafts, client)));
  await page.until(`/only counted|The last 200/.test(document.querySelector(".told").textContent)`);
  assert.ok((await page.run(`document.querySelectorAll('[data-role="rejections"] > li').length`)) <= 200);
  socket.close();
  for (const one of many) one.close();
  await nothingWrong(page);
});

test("a long log opens at its end and scrolls from first to last, with only what is on the screen on the page", async () => {
  const count = 50_000;
  // Others' events in between: ids are no numbers in a row.
  const events = (partition, from, upto) => Array.from({ length: upto - from }, (_, index) => record(partition, from + index + 1));
  await fillLog(dev.natsUrl, [...events("long", 0, 700), ...events("beside", 0, 5000), ...events("long", 700, count)]);
  const page = await openInspector("partition/long/log");
  const ordinals = `${rows}.map((row) => row.row?.ordinal)`;
  await page.until(`${ordinals}.at(-1) === ${count}`);
  assert.ok((await page.run(`${rows}.length`)) < 60);
  const log = `document.querySelector('[data-role="log"]')`;
  await page.run(`${log}.focus()`);
  await press(page, "Home");
  await page.until(`${ordinals}[0] === 1 && ${ordinals}.every(Boolean)`);
  await page.run(`${log}.scrollTop = ${log}.scrollHeight / 2`);
  await page.until(`Math.abs(${ordinals}[0] - ${count / 2}) < 100 && ${ordinals}.every(Boolean)`);
  const shown = await page.run(ordinals);
  assert.deepEqual(shown, shown.map((_, index) => shown[0] + index), "in a row");
  await press(page, "End");
  await page.until(`${ordinals}.at(-1) === ${count} && document.getElementById("follow").checked`);

  // What comes is followed, and what comes too fast is counted.
  await fillLog(dev.natsUrl, events("long", count, count + 3000));
  await page.until(`${ordinals}.at(-1) === ${count + 3000}`);
  await page.until(`${ordinals}.every(Boolean)`);
  assert.ok((await page.run(`${rows}.length`)) < 60);
  await nothingWrong(page);
});

test("nobody is kept out of the inspector: axe finds nothing, and nothing sticks out, at both widths and in both schemes", async () => {
  const { close } = await submit("look", [{ type: "set", payload: { target: "a", value: { b: [1, "two", null, true] } } }, { type: "set", payload: { target: "a.c", value: "long ".repeat(60) } }]);
  const page = await openInspector();
  const views = {
    partitions: `document.querySelectorAll("tbody tr").length > 0`,
    people: `document.querySelectorAll("tbody tr").length > 0`,
    rejections: `document.querySelector(".told") !== null`,
    backend: `document.querySelectorAll("tbody tr").length > 0`,
    "partition/look/log": `${rows}.some((row) => row.row)`,
    "partition/look/state@2-1": `document.querySelectorAll('[data-role="changes"] li').length > 0`,
  };
  for (const [view, there] of Object.entries(views)) {
    await hash(page, view);
    await page.until(there);
    for (const given of LOOKS) {
      await look(page, given);
      assert.deepEqual(await flaws(page), [], `${view} ${JSON.stringify(given)}`);
    }
  }
  close();
  await nothingWrong(page);
});

test("with tokens the inspector asks for one, keeps it in memory alone, and shows nothing without the permission", async (t) => {
  const dir = mkdtempSync(join(tmpdir(), "insieme-inspector-"));
  const secret = "a secret of the inspector's test, long enough";
  writeFileSync(join(dir, "secret"), `${secret}\n`);
  const admin = new Process("admin", BINARY, ["admin", "serve", "--nats", dev.natsUrl, "--listen", "127.0.0.1:0", "--set", `auth.secret_file=${join(dir, "secret")}`]);
  t.after(async () => {
    await admin.kill();
    rmSync(dir, { recursive: true, force: true });
  });
  const url = await admin.says("admin ready:");
  const sign = (permissions) => signHs256({ clientId: "ops", permissions, exp: Math.floor(Date.now() / 1000) + 600 }, secret);
  const page = await openWatched(chromium, `${url}/inspector`);
  const give = async (token) => {
    await page.until(`document.getElementById("token")`);
    await page.run(`document.getElementById("token").value = ${JSON.stringify(token)}; document.querySelector("form.token").requestSubmit()`);
  };
  await page.until(`document.getElementById("token")`);
  assert.deepEqual(await flaws(page), []);
  await give("nonsense");
  await page.until(`document.querySelector(".problem")?.textContent.length > 5`);
  await give(sign(["*"]));
  await page.until(`/does not permit/.test(${main}.textContent)`);
  assert.equal(await page.run(`document.querySelectorAll("tbody tr").length`), 0);
  await page.run("location.reload()");
  const token = sign(["admin"]);
  await give(token);
  await page.until(`document.querySelectorAll("tbody tr").length > 0`);
  await hash(page, "rejections");
  await page.until(`document.querySelector(".told")?.textContent.startsWith("None")`);
  assert.equal(await page.run("location.href.includes('.') && document.cookie + JSON.stringify({ ...localStorage, ...sessionStorage })"), "{}");
  assert.ok(!(await page.run("performance.getEntriesByType('resource').map(({ name }) => name).join() + location.href")).includes(token.slice(0, 20)));
  assert.ok(!admin.said.includes(token.slice(-20)) && !dev.process.said.includes(token.slice(-20)));
  await page.run("location.reload()");
  await page.until(`document.getElementById("token")`);
  await nothingWrong(page);
});

test("a frontend serves no page, and no page elsewhere reads what asks for no token", async () => {
  const frontend = new Process("frontend", BINARY, ["frontend", "--nats", dev.natsUrl, "--listen", "127.0.0.1:0", "--allow-anyone"]);
  try {
    const url = (await frontend.says("frontend ready:")).replace("ws:", "http:").replace(/\/ws$/, "");
    for (const [path, status] of [["/", 400], ["/inspector", 404], ["/demo/main.js", 404], ["/client/index.js", 404]]) {
      assert.equal((await fetch(url + path)).status, status, path);
    }
  } finally {
    await frontend.kill();
  }
  for (const site of ["cross-site", "same-site"]) {
    assert.equal((await fetch(`${dev.admin}/partitions`, { headers: { "Sec-Fetch-Site": site } })).status, 403);
  }
  assert.equal((await fetch(`${dev.admin}/partitions`)).status, 200);
  const page = await fetch(`${dev.admin}/inspector`);
  assert.match(page.headers.get("content-security-policy"), /^default-src 'none'; .*require-trusted-types-for 'script'/);
});
