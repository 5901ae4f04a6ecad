// Random histories, by seed: see histories.test.js.
//
//     node tests/lib/histories.mjs FIRST LAST

import assert from "node:assert/strict";
import { createClient, memoryStore } from "../../src/index.js";
import { FakeEnv, FakeServer } from "./fake.js";
import { action, canonical, model, noteRules, random } from "./model.js";
import { runHistories } from "./run-histories.mjs";

const STEPS = 30;

class History {
  submitted = [];
  rejected = new Set();
  reloads = 0;

  constructor(seed) {
    this.dice = random(seed);
    this.server = new FakeServer();
    const { chance } = this.dice;
    this.server.broadcastFirst = () => chance(0.4);
    const names = chance(0.5);
    this.server.namesDrafts = () => names;
    this.server.refuse = () => {
      if (chance(0.1)) return { reason: chance(0.5) ? "unavailable" : "rate_limited", retryAfterMs: 100 };
      return chance(0.05) ? { reason: "conflict" } : undefined;
    };
    this.store = memoryStore();
    this.load();
  }

  load() {
    this.env?.die();
    this.env = new FakeEnv({ server: this.server, random: this.dice.next, name: `${this.reloads}-` });
    this.client = createClient({ url: "ws://test", clientId: "me", env: this.env, store: this.store, rules: noteRules });
    this.client.on("rejected", ({ id, reason }) => {
      assert.ok(["conflict", "validation_failed"].includes(reason), `${reason} is no final answer`);
      this.rejected.add(id);
    });
    this.notified = undefined;
    this.client.subscribe(() => {
      this.notified = this.client.getSnapshot();
      this.check("a notification");
    });
    this.reloads += 1;
    if (this.dice.chance(0.3)) for (let count = 0; count < 2; count += 1) this.submit();
  }

  submit() {
    const text = String(this.submitted.length);
    const [type, payload] = this.dice.chance(0.5) ? ["note", { text }] : action(this.dice);
    const { id } = this.client.submit(type, payload);
    this.submitted.push({ id, type, payload });
  }

  /** What must be shown, from what the server knows. */
  expected() {
    const { cursor } = this.client.status;
    const known = cursor === 0 && !this.adopted() ? {} : this.server.stateAt(cursor);
    const inLog = new Map(this.server.log.map(({ draftId, eventId }) => [draftId, eventId]));
    let state = known;
    for (const { id, type, payload } of this.submitted) {
      if (inLog.get(id) <= cursor || this.rejected.has(id)) continue;
      try {
        state = model(state, { type, payload });
      } catch {
        // It is shown as nothing.
      }
    }
    return state;
  }

  /** Before the server's first state the client shows drafts on an empty one. */
  adopted() {
    return Object.hasOwn(this.client.getSnapshot(), "t");
  }

  check(when) {
    assert.equal(canonical(this.client.getSnapshot()), canonical(this.expected()), when);
  }

  async step() {
    const { chance, below } = this.dice;
    const { env, server, client } = this;
    const peer = server.peer;
    switch (below(13)) {
      case 0:
      case 1:
      case 2: {
        this.submit();
        this.check("after submit");
        await env.settle();
        break;
      }
      case 3:
      case 4:
        if (peer && !peer.opened) {
          peer.opened = true;
          peer.open();
        } else if (peer && !peer.gone) server.step(peer);
        break;
      case 5:
        try {
          server.commit("other", ...action(this.dice));
        } catch {
          // The server refuses it.
        }
        break;
      case 6:
      case 7:
      case 8:
      case 9:
        peer?.deliver(chance(0.1) ? 2 : 1);
        break;
      case 10:
        if (chance(0.3)) peer?.drop(1006, chance(0.8));
        break;
      case 11:
        await env.advance(below(3) === 0 ? 40_000 : 300);
        break;
      default:
        if (chance(0.15)) {
          // What was submitted is stored by then; a page that ends in the same turn is the browser's tests' matter.
          await env.settle();
          this.load();
        } else env.frameNow();
    }
    await env.settle();
    this.check("after a step");
  }

  /** Everything arrives; then all agree. */
  async finish() {
    const { env, server, client } = this;
    server.refuse = () => undefined;
    for (let round = 0; round < 100; round += 1) {
      await server.run(env);
      // A socket that died unseen takes two heartbeats to be missed.
      if (client.status.synced && client.status.pending === 0 && !server.peer.gone) break;
      this.check("towards the end");
      await env.advance(5000);
    }
    assert.equal(client.status.pending, 0, "a draft is never settled");
    assert.equal(client.status.synced, true);
    assert.equal(canonical(client.getSnapshot()), canonical(server.state));
    const mine = server.log.filter(({ draftId }) => draftId !== undefined).map(({ draftId }) => draftId);
    assert.equal(new Set(mine).size, mine.length, "a draft was committed twice");
    const order = this.submitted.map(({ id }) => id).filter((id) => mine.includes(id));
    assert.deepEqual(mine, order, "the order of the drafts");
    for (const { id } of this.submitted) assert.ok(mine.includes(id) !== this.rejected.has(id), "each has one outcome");
    assert.deepEqual(env.errors, []);
    await client.close();
    env.die();
  }
}

await runHistories(History, STEPS);
