// The client in Chromium: reloads, tabs, pages that freeze and come back.

import assert from "node:assert/strict";
import { test } from "node:test";
import { canonical } from "./lib/model.js";
import { backend, chromium, pages, proxy } from "./lib/rig.mjs";
import { until } from "./lib/setup.js";

const address = (partition, { tabs = true, host = "127.0.0.1" } = {}) =>
  `http://${host}:${pages.port}/page?${new URLSearchParams({ url: `ws://${host}:${proxy.port}`, partition, ...(tabs ? { tabs: "1" } : {}) })}`;

const submit = (page, id) =>
  page.run(`void client.submit("treePush", { target: "list", value: { id: ${JSON.stringify(id)} }, options: { position: "last" } })`);
const ids = `client.getSnapshot().list.tree.map(({ id }) => id).join()`;
const idle = `client.status.synced && client.status.pending === 0`;

/** A partition with an empty list, and a page that shows it. */
async function openList(partition, options, context) {
  const page = await chromium.open(address(partition, options), context);
  await page.until("client.status.synced");
  if (await page.run("client.getSnapshot().list === undefined")) {
    await page.run(`client.submit("set", { target: "list", value: { items: {}, tree: [] } }).settled`);
  }
  return page;
}

async function agree(partition, open, wanted) {
  for (const page of open) await page.until(`${idle} && ${ids} === ${JSON.stringify(wanted)}`);
  const states = await Promise.all(open.map((page) => page.run("client.getSnapshot()")));
  for (const state of states) assert.equal(canonical(state), canonical(states[0]));
  const pushed = backend.log(partition).filter(({ type }) => type === "treePush").map(({ payload }) => payload.value.id);
  assert.equal(pushed.join(), wanted, "committed once each, in order");
  for (const page of open) {
    assert.equal(await page.run("doubled"), 0);
    assert.deepEqual(await page.run("violations"), []);
  }
}

test("a reload with drafts pending loses nothing and doubles nothing", async (t) => {
  const page = await openList("reload");
  await backend.killFrontend();
  t.after(() => backend.frontend.child.exitCode ?? backend.frontend.child.signalCode ? backend.startFrontend() : undefined);
  await page.until("client.status.connection !== 'connected'");
  // In one turn: the page goes away before the database has answered.
  await page.run(`window.old = true; for (const id of ["a", "b", "c"]) client.submit("treePush", { target: "list", value: { id }, options: { position: "last" } }); location.reload()`);
  await page.until(`!window.old && client.status.pending >= 3 && ${ids} === "a,b,c"`);
  await backend.startFrontend();
  await agree("reload", [page], "a,b,c");
  await page.close();
});

test("five tabs share one connection and one queue, and go on when the one that leads is closed", async () => {
  const first = await openList("five");
  const others = [];
  for (let count = 0; count < 4; count += 1) others.push(await openList("five"));
  const all = [first, ...others];
  assert.equal(proxy.open, 1, "connections");
  const leads = await Promise.all(all.map((page) => page.run("client.status.leader")));
  assert.equal(leads.filter(Boolean).length, 1);
  const wanted = [];
  for (const [index, page] of all.entries()) {
    wanted.push(`t${index}`);
    await submit(page, `t${index}`);
    for (const other of all) await other.until(`${ids} === ${JSON.stringify(wanted.join())} && ${idle}`);
  }
  await agree("five", all, wanted.join());
  const leader = all[leads.indexOf(true)];
  const rest = all.filter((page) => page !== leader);
  await leader.close();
  await submit(rest[0], "after");
  wanted.push("after");
  await agree("five", rest, wanted.join());
  assert.equal(proxy.open, 1);
  assert.equal((await Promise.all(rest.map((page) => page.run("client.status.leader")))).filter(Boolean).length, 1);
  for (const page of rest) await page.close();
});

test("a tab that leads and freezes is replaced, and does no harm when it thaws", async () => {
  const frozen = await openList("freeze");
  await frozen.until("client.status.leader");
  const page = await openList("freeze");
  assert.equal(await page.run("client.status.leader"), false);
  await page.front();
  await frozen.freeze(true);
  const still = await frozen.run("ticks");
  await submit(page, "a");
  await page.until(`client.status.leader && ${idle}`);
  assert.equal(await frozen.run("ticks"), still, "it stood still");
  await submit(page, "b");
  await agree("freeze", [page], "a,b");
  await frozen.freeze(false);
  await frozen.until("ticks > " + still);
  await submit(frozen, "c");
  await agree("freeze", [page, frozen], "a,b,c");
  assert.equal([await page.run("client.status.leader"), await frozen.run("client.status.leader")].filter(Boolean).length, 1);
  await page.close();
  await frozen.close();
});

test("a page that comes back from the cache of the browser is live again", async () => {
  const page = await openList("back");
  const other = await openList("back", {}, await chromium.context());
  await submit(page, "a");
  await agree("back", [page, other], "a");
  await page.goto(`http://127.0.0.1:${pages.port}/elsewhere`);
  await page.until("document.title === 'elsewhere'");
  await submit(other, "b");
  await other.until(idle);
  await page.run("void history.back()");
  await page.until("window.shows?.at(-1) === true");
  await submit(page, "c");
  await agree("back", [page, other], "a,b,c");
  await page.close();
  await other.close();
});

test("two users edit apart from each other, and agree when the network is back", async () => {
  const one = await openList("apart", {}, await chromium.context());
  const two = await openList("apart", {}, await chromium.context());
  await backend.killFrontend();
  for (const id of ["a", "b"]) await submit(one, id);
  for (const id of ["x", "b"]) await submit(two, id);
  await one.until(`${ids} === "a,b"`);
  await two.until(`${ids} === "x,b"`);
  await backend.startFrontend();
  for (const page of [one, two]) await page.until(idle);
  const rejected = [await one.run("client.rejected"), await two.run("client.rejected")].flat();
  assert.equal(rejected.length, 1);
  assert.equal(rejected[0].errors[0].code, "DUPLICATE_ID");
  const committed = backend.log("apart").filter(({ type }) => type === "treePush").map(({ payload }) => payload.value.id);
  await agree("apart", [one, two], committed.join());
  await one.close();
  await two.close();
});

test("the site's data are cleared under the client: it goes on, and stores again", async () => {
  const page = await openList("cleared");
  await submit(page, "a");
  await page.until(idle);
  await page.send("Storage.clearDataForOrigin", { origin: `http://127.0.0.1:${pages.port}`, storageTypes: "indexeddb" });
  await submit(page, "b");
  await submit(page, "c");
  await agree("cleared", [page], "a,b,c");
  assert.match(await page.run("client.status.storage.reason ?? 'durable'"), /^(durable|evicted|broken)$/);
  await page.close();
});

test("on plain http, where there are no locks, each tab is a client of its own", async () => {
  const one = await openList("insecure", { host: "insecure.test" });
  assert.equal(await one.run("isSecureContext || 'locks' in navigator"), false);
  const two = await openList("insecure", { host: "insecure.test" });
  await submit(one, "a");
  await one.until(idle);
  await submit(two, "b");
  await agree("insecure", [one, two], "a,b");
  assert.notEqual(await one.run("client.clientId"), await two.run("client.clientId"));
  assert.equal(await one.run("client.status.storage.kind"), "durable");
  await one.close();
  await two.close();
});

test("what is rejected in one tab is shown in all, until one dismisses it; clear clears all", async () => {
  const one = await openList("shared");
  const two = await openList("shared");
  await submit(one, "a");
  await two.until(`${ids} === "a"`);
  await two.run(`void client.submit("treeDelete", { target: "list", options: { id: "nobody" } })`);
  for (const page of [one, two]) await page.until("client.rejected.length === 1");
  await two.run("client.dismiss(client.rejected[0].id)");
  for (const page of [one, two]) await page.until("client.rejected.length === 0");
  const { clientId } = await one.run("({ clientId: client.clientId })");
  await two.run("client.clear()");
  for (const page of [one, two]) await page.until(`client.clientId !== ${JSON.stringify(clientId)} && ${idle} && ${ids} === "a"`);
  await one.run("client.close()");
  await submit(two, "b");
  await agree("shared", [two], "a,b");
  await one.close();
  await two.close();
});

test("all connections end with their pages", () => until("all connections to end", () => proxy.open === 0));
