// Random histories of several tabs, by seed: see histories.test.js. They are opened, closed, killed, frozen and
// thawed, and every message between them and to the server moves on its own.
//
//     node tests/lib/tab-histories.mjs FIRST LAST

import assert from "node:assert/strict";
import { createClient, memoryStore } from "../../src/index.js";
import { tabs } from "../../src/tabs.js";
import { FakeEnv, FakeServer } from "./fake.js";
import { canonical, noteRules, random } from "./model.js";
import { FakeOrigin } from "./origin.js";
import { runHistories } from "./run-histories.mjs";

const STEPS = 60;
const TABS_MAX = 4;

class History {
  tabs = [];
  opened = 0;
  notes = 0;
  /** Texts by the tab that submitted them, in order. */
  orders = [];
  rejected = new Set();

  constructor(seed) {
    this.dice = random(seed);
    const { chance } = this.dice;
    this.server = new FakeServer();
    this.server.broadcastFirst = () => chance(0.4);
    const names = chance(0.5);
    this.server.namesDrafts = () => names;
    this.server.refuse = (draftId, type, payload) => {
      // A rejection is final.
      if (this.rejected.has(payload.text)) return { reason: "conflict" };
      if (chance(0.1)) return { reason: chance(0.5) ? "unavailable" : "rate_limited", retryAfterMs: 100 };
      if (!chance(0.05)) return undefined;
      this.rejected.add(payload.text);
      return { reason: "conflict" };
    };
    this.origin = new FakeOrigin();
    this.store = memoryStore();
    this.open();
  }

  begin() {
    return this.settle();
  }

  open() {
    const env = new FakeEnv({ server: this.server, random: this.dice.next, name: `${(this.opened += 1)}-` });
    this.origin.join(env);
    const client = createClient({ url: "ws://test", clientId: "me", env, store: this.store, rules: noteRules, tabs: tabs() });
    const tab = { env, client, own: [], gone: new Set() };
    client.on("rejected", ({ payload }) => tab.gone.add(payload.text));
    client.subscribe(() => this.check(tab, "a notification"));
    this.tabs.push(tab);
    this.orders.push(tab.own);
    return tab;
  }

  async submit(tab) {
    const text = String((this.notes += 1));
    tab.client.submit("note", { text });
    tab.own.push(text);
    this.check(tab, "after submit");
    // What was submitted is stored by then.
    await this.settle();
  }

  /** Of what this tab submitted, each stands in its snapshot once; nothing else stands there twice. */
  check({ client, env, own, gone }, when) {
    const notes = client.getSnapshot().notes ?? [];
    assert.equal(new Set(notes).size, notes.length, `${when}: doubled in ${env.randomId()}: ${notes}`);
    if (client.status.connection === "closed") return;
    for (const text of own) assert.ok(notes.includes(text) !== gone.has(text), `${when}: ${text} in ${env.randomId()}: ${notes}`);
  }

  async settle() {
    for (const { env } of this.tabs) if (!env.frozen) await env.settle();
  }

  remove(tab) {
    this.tabs.splice(this.tabs.indexOf(tab), 1);
    this.origin.die(tab.env);
    tab.env.die();
  }

  async step() {
    const { below, chance, pick } = this.dice;
    const tab = pick(this.tabs);
    const { env, client } = tab;
    const peer = env.sockets.at(-1)?.peer;
    switch (below(14)) {
      case 0:
      case 1:
        if (!env.frozen) await this.submit(tab);
        break;
      case 2:
      case 3:
        if (env.frozen || !peer) break;
        if (!peer.opened) {
          peer.opened = true;
          peer.open();
        } else if (!peer.gone) this.server.step(peer);
        break;
      case 4:
        this.server.commit("other", "note", { text: `other ${(this.notes += 1)}` });
        break;
      case 5:
      case 6:
        if (!env.frozen) peer?.deliver(chance(0.1) ? 2 : 1);
        break;
      case 7:
      case 8:
      case 9:
        // A frozen tab hears what others say.
        this.origin.deliver(env);
        break;
      case 10:
        this.origin.grant();
        for (const told of env.frozen ? [] : env.late.splice(0)) told();
        break;
      case 11: {
        const ms = chance(0.3) ? 15_000 : 300;
        for (const { env } of this.tabs) if (!env.frozen) await env.advance(ms);
        break;
      }
      case 12:
        if (chance(0.4)) peer?.drop(1006, chance(0.8) && !env.frozen);
        else if (chance(0.3) && this.tabs.length < TABS_MAX) this.open();
        break;
      default:
        if (chance(0.3)) env.frozen = !env.frozen;
        else if (this.tabs.length > 1 && chance(0.2)) {
          if (chance(0.5) && !env.frozen) await this.end(tab);
          this.remove(tab);
        } else env.frameNow();
    }
    await this.settle();
    for (const each of this.tabs) this.check(each, "after a step");
  }

  /** Everything arrives, until all tabs have it. */
  async agree() {
    const { server } = this;
    const done = ({ client: { status } }) => status.synced && status.pending === 0 && status.cursor === server.head;
    let calm = 0;
    for (let round = 0; round < 300 && calm < 3; round += 1) {
      for (let moved = true; moved; ) {
        moved = this.origin.grant();
        for (const { env } of this.tabs) {
          for (const told of env.late.splice(0)) told();
          await server.run(env);
          while (this.origin.deliver(env)) moved = true;
        }
      }
      calm = this.tabs.every(done) ? calm + 1 : 0;
      // A tab that is asked whether it lives has three seconds.
      for (const { env } of this.tabs) {
        env.frameNow();
        await env.advance(1000);
      }
    }
    for (const { client } of this.tabs) {
      assert.equal(client.status.pending, 0, "a draft is never settled");
      assert.equal(client.status.synced, true);
      assert.equal(canonical(client.getSnapshot()), canonical(server.state));
    }
    assert.equal(this.tabs.filter(({ client }) => client.status.leader).length, 1, "one leads");
  }

  /** Closes a client, which waits until its tab has no lock any more. */
  async end({ client, env }) {
    let ended = false;
    const closing = client.close().then(() => (ended = true));
    for (let tries = 0; tries < 20 && !ended; tries += 1) {
      for (const told of env.late.splice(0)) told();
      await env.advance(1_000);
    }
    await closing;
  }

  async close() {
    for (const tab of this.tabs.splice(0)) {
      const { env } = tab;
      await this.end(tab);
      await env.settle();
      assert.deepEqual(env.errors, []);
      assert.equal(env.timers, 0, "timers that run on");
    }
    assert.equal(this.origin.open, 0, "locks and channels that stay");
  }

  async finish() {
    for (const { env } of this.tabs) env.frozen = false;
    await this.agree();
    await this.close();
    // A tab that was killed may have stored a draft of which nobody heard.
    const { client } = this.open();
    await this.settle();
    await this.agree();
    const texts = this.server.log.map(({ payload }) => payload.text);
    assert.equal(new Set(texts).size, texts.length, "a draft was committed twice");
    for (const own of this.orders) {
      assert.deepEqual(texts.filter((text) => own.includes(text)), own.filter((text) => texts.includes(text)), "the order of a tab");
      for (const text of own) assert.ok(texts.includes(text) !== this.rejected.has(text), `${text} has one outcome`);
    }
    assert.deepEqual(client.rejected.map(({ payload }) => payload.text).sort(), [...this.rejected].sort());
    await this.close();
  }
}

await runHistories(History, STEPS);
