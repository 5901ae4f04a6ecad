// Takes away what differs between machines or moments, and freezes the rest, so that no rule leaves anything behind for
// the next one. Runs after the engine's own scripts and before the module.
(() => {
  "use strict";

  const { ownKeys, getOwnPropertyDescriptor, getPrototypeOf, defineProperty } = Reflect;
  const stubs = new Set();

  const failing = (name, why) => () => {
    throw new TypeError(`${name} is not available in rules: ${why}`);
  };
  const gone = (name, why) => {
    const fail = failing(name, why);
    const traps = ["apply", "construct", "get", "set", "has", "ownKeys", "getOwnPropertyDescriptor", "defineProperty"];
    const stub = new Proxy(function () {}, Object.fromEntries(traps.map((trap) => [trap, fail])));
    stubs.add(stub);
    return stub;
  };
  const hide = (holder, name, value) => defineProperty(holder, name, { value, writable: false, enumerable: false, configurable: false });

  const time = "event.serverTs is the time of the commit, the same wherever the event is folded";
  const async = "rules are synchronous, and are given all that they may know";
  const machine = "its result differs between machines";
  const code = "code is what is in the module's folder";
  const memory = "when memory is freed differs between machines";
  const generator = Object.getPrototypeOf(function* () {}).constructor;
  const asyncFunction = Object.getPrototypeOf(async function () {}).constructor;
  const asyncGenerator = Object.getPrototypeOf(async function* () {}).constructor;

  for (const [name, why] of [
    ["Date", time], ["performance", time],
    ["Promise", async], ["queueMicrotask", async], ["setTimeout", async], ["setInterval", async], ["fetch", async],
    ["console", "throw an Error to see something; a finding is told by reject"],
    ["Intl", machine], ["eval", code], ["Function", code],
    ["WeakRef", memory], ["FinalizationRegistry", memory], ["gc", memory],
    ["Atomics", async], ["SharedArrayBuffer", async],
  ]) {
    hide(globalThis, name, gone(name, why));
  }
  for (const constructor of [Object.getPrototypeOf(() => {}).constructor, generator, asyncFunction, asyncGenerator]) {
    hide(constructor.prototype, "constructor", gone("the constructor of functions", code));
  }

  hide(Math, "random", failing("Math.random", "let the client choose, and put it into the payload"));
  for (const name of [
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "cos", "cosh", "exp", "expm1", "hypot", "log",
    "log10", "log1p", "log2", "pow", "sin", "sinh", "tan", "tanh",
  ]) {
    hide(Math, name, failing(`Math.${name}`, "its last digit differs between machines"));
  }
  for (const [name, holder] of [["String", String], ["Number", Number], ["Array", Array], ["Object", Object], ["BigInt", BigInt]]) {
    for (const key of ["localeCompare", "toLocaleString", "toLocaleUpperCase", "toLocaleLowerCase"]) {
      if (Object.hasOwn(holder.prototype, key)) {
        hide(holder.prototype, key, failing(`${name}.prototype.${key}`, "it depends on the machine's language"));
      }
    }
  }

  // An object must be able to have a `toString` of its own though the one of the prototype is frozen: assigning it would
  // fail otherwise, in strict code.
  const assignable = (holder, key) => {
    const { value } = getOwnPropertyDescriptor(holder, key);
    defineProperty(holder, key, {
      get: () => value,
      set(own) {
        if (this === holder) throw new TypeError(`${key} is not extensible`);
        defineProperty(this, key, { value: own, writable: true, enumerable: true, configurable: true });
      },
      enumerable: false,
      configurable: false,
    });
  };
  for (const key of ["toString", "valueOf", "constructor"]) assignable(Object.prototype, key);
  for (const key of ["name", "message", "toString"]) assignable(Error.prototype, key);

  const seen = new Set();
  const freeze = (value) => {
    if ((typeof value !== "object" && typeof value !== "function") || value === null) return;
    if (seen.has(value) || stubs.has(value)) return;
    seen.add(value);
    for (const key of ownKeys(value)) {
      const property = getOwnPropertyDescriptor(value, key);
      freeze(property.value);
      freeze(property.get);
      freeze(property.set);
    }
    freeze(getPrototypeOf(value));
    Object.freeze(value);
  };
  // What only syntax leads to.
  for (const value of [function* () {}, async function () {}, async function* () {}, [][Symbol.iterator](), new Map()[Symbol.iterator](),
    new Set()[Symbol.iterator](), ""[Symbol.iterator](), "".matchAll(/x/g), (function () { return arguments; })()]) {
    freeze(getPrototypeOf(value));
  }
  freeze(globalThis);
})();
