// The membrane of src/app/js on random rules, beside plain objects that are written as JSON and read again after every
// rule: the same states, and the same again when rules are taken back. In V8, where a thousand runs take seconds; that
// QuickJS does the same is shown by src/app/tests.rs and examples/differential.test.mjs.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { canonical, random } from "../../examples/try.mjs";

const membrane = (0, eval)(readFileSync(new URL("../../src/app/js/membrane.js", import.meta.url), "utf8"));
const RUNS = Number(process.env.INSIEME_TEST_RUNS ?? 3_000);
const isObject = (value) => typeof value === "object" && value !== null;
const reread = (state) => JSON.parse(canonical(JSON.parse(JSON.stringify(state))));

/** A rule that does the same to whatever state it is handed, and holds on to what it has seen. */
const rule = (seed) => (state) => {
  const below = random(seed);
  const kept = [state];
  const some = () => kept[below(kept.length)];
  const seen = (value) => {
    if (isObject(value)) kept.push(value);
    return value;
  };
  const value = () => {
    switch (below(9)) {
      case 0: return below(100);
      case 1: return ["text", "", "10", "😀"][below(4)];
      case 2: return null;
      case 3: return seen({ n: below(10) });
      case 4: return seen([below(10), { m: below(10) }]);
      case 5: return seen({ a: { b: [below(10)] } });
      case 6: return { ...(kept.find((held) => !Array.isArray(held)) ?? {}), x: 1 };
      default: return some();
    }
  };
  for (let steps = 1 + below(7); steps > 0; steps--) {
    const at = some();
    if (Array.isArray(at)) {
      const index = below(at.length + 1);
      switch (below(14)) {
        case 0: case 1: at.push(value()); break;
        case 2: seen(at.pop()); break;
        case 3: seen(at.shift()); break;
        case 4: at.unshift(value(), value()); break;
        case 5: at.splice(index, below(3), ...(below(2) ? [value()] : [])).forEach(seen); break;
        case 6: at[index] = value(); break;
        case 7: at.reverse(); break;
        case 8: at.sort((a, b) => Object.keys(Object(a)).length - Object.keys(Object(b)).length); break;
        case 9: if (at.length > 0) at.fill(value(), index); break;
        case 10: if (at.length > 1) at.copyWithin(0, 1); break;
        case 11: at.length = index; break;
        case 12: kept.push(at); seen(at.find((found) => isObject(found))); break;
        default: if (at.indexOf(some()) >= 0) at.push(below(10));
      }
    } else {
      // In an order of its own: a plain object has that in which its keys came.
      const keys = Object.keys(at).sort();
      const key = below(3) ? ["a", "b", "10", "9", "zz", "toString"][below(6)] : (keys[below(keys.length || 1)] ?? "c");
      switch (below(6)) {
        case 0: case 1: case 2: at[key] = value(); break;
        case 3: delete at[key]; break;
        case 4: for (const key of keys) seen(at[key]); break;
        default: at.keys = keys.join();
      }
    }
  }
  if (below(12) === 0) return { ...state, replaced: value() };
  if (below(25) === 0) throw new Error("the rule fails");
};

const attempt = (action) => {
  try {
    return { done: action() };
  } catch (failed) {
    return { failed };
  }
};

test("rules do to the state behind the membrane what they do to a plain one", () => {
  const below = random(1);
  let failures = 0;
  for (let run = 0; run < RUNS; run++) {
    const held = { state: { a: { n: 1 }, list: [{ n: 1 }, { n: 2 }, 3], b: {} } };
    let plain = reread(held.state);
    const undos = [];
    const before = [];
    // A rule may double the state.
    for (let step = 0; step < 6 && canonical(held.state).length < 2_000; step++) {
      const seed = below(2 ** 31);
      const was = canonical(held.state);
      const ours = attempt(() => membrane.write(held, rule(seed)));
      const copy = reread(plain);
      const theirs = attempt(() => reread(rule(seed)(copy) ?? copy));
      const what = `run ${run}, step ${step}, seed ${seed}, on ${was}`;
      if (ours.failed) {
        membrane.abandon(held);
        failures++;
        assert.equal(canonical(held.state), was, `taken back: ${what}`);
        // Plain objects take what contains itself, as long as nobody writes it.
        assert.ok(theirs.failed || /contains itself|returned/.test(ours.failed.message), `${ours.failed.stack}: ${what}`);
        continue;
      }
      assert.ok(theirs.done, `${theirs.failed?.stack}: ${what}`);
      plain = theirs.done;
      assert.equal(canonical(held.state), canonical(plain), what);
      undos.push(ours.done);
      before.push(was);
      if (below(4) === 0) {
        membrane.takeBack(held, undos.pop());
        assert.equal(canonical(held.state), before.pop(), `taken back: ${what}`);
        plain = reread(held.state);
      }
    }
    while (undos.length > 0) {
      membrane.takeBack(held, undos.pop());
      assert.equal(canonical(held.state), before.pop(), `taken back at the end of run ${run}`);
    }
  }
  assert.ok(failures > 0 && failures < RUNS * 3);
});

test("what stood in two places is taken back in both", () => {
  const held = { state: { list: [{ n: 1 }, { n: 2 }] } };
  const undo = membrane.write(held, ({ list }) => {
    list[1].n = 9;
    list[0] = list[1];
  });
  assert.equal(canonical(held.state), '{"list":[{"n":9},{"n":9}]}');
  assert.notEqual(held.state.list[0], held.state.list[1]);
  membrane.takeBack(held, undo);
  assert.equal(canonical(held.state), '{"list":[{"n":1},{"n":2}]}');
});
