// The membrane around a partition's state. What a rule is handed is a Proxy of the state; what it does to that is done
// to the state, and written down so that it can be taken back.
//
// Between two rules a state is a tree of plain objects and dense arrays that nobody outside holds a reference to. New
// values are copied in when the rule has returned, and an object that stands in two places by then is copied too: the
// state is what it would be if it were written as JSON and read again after every event.
(() => {
  "use strict";

  const { isArray } = Array;
  const { ownKeys, defineProperty, deleteProperty, getOwnPropertyDescriptor, getPrototypeOf } = Reflect;
  const hasOwn = Object.hasOwn;
  const arrayPrototype = Array.prototype;
  const objectPrototype = Object.prototype;

  const DEPTH_MAX = 256;
  // The most that one event may bring into the state, about, in bytes.
  const BYTES_MAX = 1 << 20;
  const FORBIDDEN = new Set(["__proto__", "prototype", "constructor"]);

  const fail = (message) => {
    throw new TypeError(message);
  };

  const isObject = (value) => typeof value === "object" && value !== null;

  const named = (value) => {
    if (typeof value === "function") return "a function";
    if (typeof value === "object") return `a ${value.constructor?.name || "object of another kind"}`;
    if (typeof value === "undefined" || typeof value === "number") return String(value);
    return `a ${typeof value}`;
  };

  const tooDeep = () => fail(`the state is nested deeper than ${DEPTH_MAX}, or something in it contains itself`);

  /** What a walk is within at present. */
  const within = new Set();
  const enter = (value, depth) => {
    if (depth > DEPTH_MAX || within.has(value)) tooDeep();
    within.add(value);
  };

  const tooLarge = () => fail(`one event may bring at most ${BYTES_MAX} bytes into the state`);

  const spend = (transaction, bytes) => {
    transaction.bytes += bytes;
    if (transaction.bytes > transaction.bytesMax) tooLarge();
  };

  /** Refuses what JSON cannot hold. About how many bytes it takes; what is part of the state already takes none. */
  const audit = (value, depth, transaction) => {
    switch (typeof value) {
      case "string":
        if (!value.isWellFormed()) fail("a string with half a surrogate pair cannot be kept in the state");
        return value.length + 2;
      case "number":
        if (!Number.isFinite(value)) fail(`${value} cannot be kept in the state: JSON has no such number`);
        return 8;
      case "boolean":
        return 5;
      case "object":
        break;
      case "undefined":
        return fail("undefined cannot be kept in the state: delete the key, or use null");
      default:
        return fail(`${named(value)} cannot be kept in the state: it is no JSON`);
    }
    if (value === null) return 4;
    if (transaction.infos.has(value)) return 0;
    enter(value, depth);
    let bytes = 2;
    if (isArray(value)) {
      if (getPrototypeOf(value) !== arrayPrototype) fail(`${named(value)} cannot be kept in the state`);
      if (value.length > transaction.bytesMax / 2) tooLarge();
      if (ownKeys(value).length !== value.length + 1) {
        fail("an array with holes or with fields of its own cannot be kept in the state");
      }
      for (let index = 0; index < value.length; index++) bytes += audit(value[index], depth + 1, transaction) + 1;
    } else {
      if (getPrototypeOf(value) !== objectPrototype) {
        fail(`${named(value)} cannot be kept in the state: only plain objects and arrays can`);
      }
      for (const key of ownKeys(value)) {
        if (typeof key === "symbol") fail("a symbol cannot be a key in the state");
        checkKey(key);
        const property = getOwnPropertyDescriptor(value, key);
        if (!("value" in property) || !property.enumerable) fail(`a getter (${key}) cannot be kept in the state`);
        bytes += key.length + 4 + audit(property.value, depth + 1, transaction);
      }
    }
    if (bytes > transaction.bytesMax) tooLarge();
    within.delete(value);
    return bytes;
  };

  // A walk that failed before has left something, and a rule may have caught that.
  const audited = (value, depth, transaction) => {
    within.clear();
    return audit(value, depth, transaction);
  };

  const checkKey = (key) => {
    if (FORBIDDEN.has(key)) fail(`${key} cannot be a key in the state`);
    if (!key.isWellFormed()) fail("a key with half a surrogate pair cannot be kept in the state");
  };

  /** Sets a key of an object or an array, also one whose name the prototype has. */
  const put = (target, key, value) => {
    if (hasOwn(target, key)) target[key] = value;
    else defineProperty(target, key, { value, writable: true, enumerable: true, configurable: true });
  };

  /** The keys in the order in which an object read from canonical JSON has them, whatever happened to this one. */
  const inOrder = (keys) => {
    let first = 0;
    while (first < keys.length && String(keys[first] >>> 0) === keys[first]) first++;
    for (let index = first + 1; index < keys.length; index++) {
      if (keys[index - 1] > keys[index]) return [...keys.slice(0, first), ...keys.slice(first).sort()];
    }
    return keys;
  };

  // What is written down, to be taken back from the last to the first.
  const [SET, POP, TAIL, ADDED, ROOT, WHOLE] = [0, 1, 2, 3, 4, 5];
  let current = null;

  const check = (transaction) => {
    if (transaction !== current) fail("a part of the state is used after the rule has returned");
  };

  const wrap = (transaction, target, parent, key) => {
    // Within what is new, a part of the state stands as its Proxy.
    if (transaction.infos.has(target)) return target;
    const known = transaction.proxies.get(target);
    if (known !== undefined) return known.proxy;
    const depth = parent === null ? 1 : parent.depth + 1;
    if (depth > DEPTH_MAX) tooDeep();
    const isNew = parent !== null && (parent.isNew || transaction.fresh.has(target));
    const info = { target, parent, key, depth, isNew, proxy: new Proxy(target, transaction) };
    transaction.proxies.set(target, info);
    transaction.infos.set(info.proxy, info);
    return info.proxy;
  };

  /** What is to stand in the state for a value that a rule puts there. */
  const admit = (transaction, value, info) => {
    if (!isObject(value)) {
      spend(transaction, audited(value, 0, transaction));
      return value === 0 ? 0 : value;
    }
    const there = transaction.infos.get(value);
    if (there !== undefined) {
      if (info.isNew) return value;
      if (there.isNew) transaction.fresh.add(there.target);
      return there.target;
    }
    spend(transaction, audited(value, info.depth + 1, transaction));
    transaction.fresh.add(value);
    return value;
  };

  const placed = (transaction, info, key, value) => {
    if (isObject(value) && !info.isNew) transaction.places.push([info.target, key, value]);
  };

  const methods = (implementations) =>
    new Map(
      Object.entries(implementations).map(([name, implementation]) => [
        name,
        Object.freeze(function (...parameters) {
          const info = current?.infos.get(this);
          if (info === undefined || !isArray(info.target)) fail(`${name} is called on something else than an array of the state`);
          return implementation(current, info, parameters);
        }),
      ]),
    );

  /** Keeps the array as it is, for changes that cost as much as that anyway. */
  const keepWhole = (transaction, target) => transaction.undo.push([WHOLE, target, target.slice()]);
  const out = (transaction, info, value) => (isObject(value) ? wrap(transaction, value, info, undefined) : value);

  // They work on the array itself: a trap for every element that moves would cost far more.
  const changing = methods({
    push: (transaction, info, values) => {
      for (const given of values) {
        const value = admit(transaction, given, info);
        transaction.undo.push([POP, info.target]);
        info.target.push(value);
        placed(transaction, info, undefined, value);
      }
      return info.target.length;
    },
    pop: (transaction, info) => {
      const { target } = info;
      if (target.length === 0) return undefined;
      transaction.undo.push([TAIL, target, [target[target.length - 1]]]);
      return out(transaction, info, target.pop());
    },
    shift: (transaction, info) => {
      keepWhole(transaction, info.target);
      return out(transaction, info, info.target.shift());
    },
    unshift: (transaction, info, given) => {
      const values = given.map((value) => admit(transaction, value, info));
      keepWhole(transaction, info.target);
      info.target.unshift(...values);
      for (const value of values) placed(transaction, info, undefined, value);
      return info.target.length;
    },
    splice: (transaction, info, given) => {
      const values = given.slice(2).map((value) => admit(transaction, value, info));
      keepWhole(transaction, info.target);
      const taken = info.target.splice(...given.slice(0, 2), ...values);
      for (const value of values) placed(transaction, info, undefined, value);
      return taken.map((value) => out(transaction, info, value));
    },
    reverse: (transaction, info) => {
      keepWhole(transaction, info.target);
      info.target.reverse();
      return info.proxy;
    },
    sort: (transaction, info, [compare]) => {
      keepWhole(transaction, info.target);
      const outside = (value) => out(transaction, info, value);
      const sorted = info.target.slice().sort(compare && ((a, b) => compare(outside(a), outside(b))));
      for (let index = 0; index < sorted.length; index++) info.target[index] = sorted[index];
      return info.proxy;
    },
    fill: (transaction, info, [given, ...range]) => {
      const value = admit(transaction, given, info);
      keepWhole(transaction, info.target);
      info.target.fill(value, ...range);
      placed(transaction, info, undefined, value);
      return info.proxy;
    },
    copyWithin: (transaction, info, range) => {
      keepWhole(transaction, info.target);
      info.target.copyWithin(...range);
      for (const value of info.target) placed(transaction, info, undefined, value);
      return info.proxy;
    },
  });
  const search = (name) => (transaction, info, [value, ...from]) =>
    arrayPrototype[name].call(info.target, info.isNew ? value : (transaction.infos.get(value)?.target ?? value), ...from);
  const searching = methods({
    indexOf: search("indexOf"),
    lastIndexOf: search("lastIndexOf"),
    includes: search("includes"),
  });
  const refusing = methods(
    Object.fromEntries(
      [...changing.keys()].map((name) => [name, () => fail(`${name}: only reduce may change the state`)]),
    ),
  );

  const reading = {
    get(target, key) {
      check(this);
      const value = target[key];
      if (typeof value === "function") {
        if (!isArray(target)) return value;
        return this.methods.get(key) ?? searching.get(key) ?? value;
      }
      if (!isObject(value) || !hasOwn(target, key)) return value;
      return wrap(this, value, this.proxies.get(target), key);
    },
    getOwnPropertyDescriptor(target, key) {
      check(this);
      const property = getOwnPropertyDescriptor(target, key);
      if (property !== undefined && isObject(property.value)) {
        property.value = wrap(this, property.value, this.proxies.get(target), key);
      }
      return property;
    },
    ownKeys(target) {
      check(this);
      const keys = ownKeys(target);
      return isArray(target) ? keys : inOrder(keys);
    },
    has(target, key) {
      check(this);
      return key in target;
    },
    defineProperty: () => fail("defineProperty: assign to the state's keys instead"),
    setPrototypeOf: () => fail("the state has no prototypes"),
    preventExtensions: () => fail("the state cannot be frozen"),
  };

  const readOnly = {
    __proto__: reading,
    methods: refusing,
    set: () => fail("only reduce may change the state, and nothing may change what a rule is handed"),
    deleteProperty: () => fail("only reduce may change the state, and nothing may change what a rule is handed"),
  };

  const writing = {
    __proto__: reading,
    methods: changing,
    set(target, key, given, receiver) {
      check(this);
      const info = this.proxies.get(target);
      if (receiver !== info.proxy) fail("an object that inherits from the state cannot be written to");
      if (typeof key === "symbol") fail("a symbol cannot be a key in the state");
      if (isArray(target)) {
        if (key === "length") {
          if (!Number.isInteger(given) || given < 0 || given > target.length) fail("an array in the state has no holes");
          this.undo.push([TAIL, target, target.slice(given)]);
          target.length = given;
          return true;
        }
        const index = Number(key);
        if (String(index >>> 0) !== key) fail(`an array in the state has no field ${key}`);
        if (index > target.length) fail("an array in the state has no holes");
        const value = admit(this, given, info);
        this.undo.push(index === target.length ? [POP, target] : [SET, target, index, target[index]]);
        target[index] = value;
        placed(this, info, undefined, value);
        return true;
      }
      checkKey(key);
      const value = admit(this, given, info);
      this.undo.push(hasOwn(target, key) ? [SET, target, key, target[key]] : [ADDED, target, key]);
      put(target, key, value);
      placed(this, info, key, value);
      return true;
    },
    deleteProperty(target, key) {
      check(this);
      if (isArray(target)) fail("an array in the state has no holes: use splice");
      if (typeof key === "symbol" || !hasOwn(target, key)) return true;
      this.undo.push([SET, target, key, target[key]]);
      return deleteProperty(target, key);
    },
  };

  /** The copy of what is new; parts of the state in it stay what they are, and are noted as moved. */
  const copy = (transaction, value, depth) => {
    if (!isObject(value)) return value === 0 ? 0 : value;
    if (depth > DEPTH_MAX) tooDeep();
    const into = isArray(value) ? [] : {};
    const child = (key, given) => {
      const info = transaction.infos.get(given);
      if (info === undefined) return copy(transaction, given, depth + 1);
      if (info.isNew || transaction.fresh.has(info.target)) return copy(transaction, info.target, depth + 1);
      transaction.places.push([into, key, info.target]);
      return info.target;
    };
    if (isArray(value)) for (const given of value) into.push(child(undefined, given));
    else for (const key of ownKeys(value)) put(into, key, child(key, value[key]));
    return into;
  };

  const measure = (value, depth) => {
    if (!isObject(value)) return;
    enter(value, depth);
    if (isArray(value)) for (const part of value) measure(part, depth + 1);
    else for (const key of ownKeys(value)) measure(value[key], depth + 1);
    within.delete(value);
  };

  /** The places of `value` in one object or array. */
  const placesIn = (container, key, value) => {
    if (!isArray(container)) return key !== undefined && container[key] === value ? [key] : [];
    const found = [];
    for (let at = container.indexOf(value); at >= 0; at = container.indexOf(value, at + 1)) found.push(at);
    return found;
  };

  /** Copies in what is new, and what stands in two places. */
  const settle = (transaction) => {
    const { places, fresh, proxies } = transaction;
    const moved = new Set();
    // It grows: a copy notes what it has moved.
    for (let index = 0; index < places.length; index++) {
      const [container, key, value] = places[index];
      if (!fresh.has(value)) {
        moved.add(value);
        continue;
      }
      audited(value, 1, transaction);
      for (const at of placesIn(container, key, value)) {
        put(container, at, copy(transaction, value, 1));
      }
    }
    for (const value of moved) {
      within.clear();
      measure(value, 1);
      const { parent, key } = proxies.get(value) ?? { parent: null };
      const candidates = places.filter((place) => place[2] === value);
      if (parent !== null) candidates.unshift([parent.target, key, value]);
      const seen = new Map();
      let isFirst = true;
      for (const [container, name] of candidates) {
        const names = seen.get(container) ?? new Set();
        seen.set(container, names);
        const group = isArray(container) ? undefined : name;
        if (names.has(group)) continue;
        names.add(group);
        for (const at of placesIn(container, name, value)) {
          if (isFirst) {
            isFirst = false;
            continue;
          }
          // It may be the place where it always was.
          transaction.undo.push([SET, container, at, value]);
          put(container, at, copy(transaction, value, 1));
        }
      }
    }
  };

  const takeBack = (held, undo) => {
    for (let index = undo.length - 1; index >= 0; index--) {
      const [kind, target, key, old] = undo[index];
      if (kind === SET) put(target, key, old);
      else if (kind === POP) target.pop();
      else if (kind === TAIL) for (const value of key) target.push(value);
      else if (kind === ADDED) deleteProperty(target, key);
      else if (kind === ROOT) held.state = target;
      else {
        target.length = 0;
        for (const value of key) target.push(value);
      }
    }
  };

  const begin = (handler, bytesMax = BYTES_MAX) => {
    current = {
      __proto__: handler,
      proxies: new Map(),
      infos: new Map(),
      fresh: new Set(),
      places: [],
      undo: [],
      bytes: 0,
      bytesMax,
    };
    return current;
  };

  return {
    /**
     * Hands `held.state` to `rule`, which may change it or return another. Returns what takes that back. A migration
     * may make the whole state anew: its bound is the memory.
     */
    write(held, rule, bytesMax = BYTES_MAX) {
      const transaction = begin(writing, bytesMax);
      const root = wrap(transaction, held.state, null, undefined);
      const returned = rule(root);
      if (returned !== undefined && returned !== root) {
        if (!isObject(returned) || isArray(returned)) fail(`reduce returned ${named(returned)}: a state is an object`);
        spend(transaction, audited(returned, 1, transaction));
        const there = transaction.infos.get(returned);
        transaction.undo.push([ROOT, held.state]);
        held.state = there === undefined || there.isNew ? copy(transaction, there?.target ?? returned, 1) : there.target;
      }
      settle(transaction);
      current = null;
      return transaction.undo;
    },
    /** Hands what may only be read to `rule`, which returns a function that makes a Proxy of a value. */
    read(rule) {
      const transaction = begin(readOnly);
      const result = rule((value) => (isObject(value) ? wrap(transaction, value, null, undefined) : value));
      current = null;
      return result;
    },
    /** Takes back what a rule did that did not come to its end. */
    abandon(held) {
      if (current !== null) takeBack(held, current.undo);
      current = null;
    },
    takeBack,
    /** Refuses what is no state, and gives a copy that nobody else has. */
    admitState(state, what) {
      if (!isObject(state) || isArray(state)) fail(`${what} must give an object, not ${named(state)}`);
      const transaction = begin(readOnly);
      audited(state, 1, transaction);
      const copied = copy(transaction, state, 1);
      current = null;
      return copied;
    },
  };
})();
