// The built-in actions once more, as plainly as can be: the whole state is copied and changed. Written from the
// specification, apart from the client's fold, which it judges.

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const own = (object, key) => (Object.hasOwn(object, key) ? object[key] : undefined);
const no = (code) => {
  throw Object.assign(new Error(code), { code });
};

/** Faster than structuredClone on what is this small. */
const clone = (value) => {
  if (Array.isArray(value)) return value.map(clone);
  if (!isObject(value)) return value;
  const copy = {};
  for (const key of Object.keys(value)) copy[key] = clone(value[key]);
  return copy;
};

const all = (nodes) => nodes.flatMap((node) => [node, ...all(node.children ?? [])]);
const siblingsOf = (nodes, id) =>
  nodes.some((node) => node.id === id)
    ? nodes
    : nodes.map((node) => siblingsOf(node.children ?? [], id)).find((found) => found !== undefined);

function treeAt(state, target) {
  let at = state;
  for (const key of target.split(".")) at = isObject(at) ? own(at, key) : undefined;
  if (!isObject(at)) no("TARGET_NOT_FOUND");
  at.items ??= {};
  at.tree ??= [];
  return at;
}

function insert(tree, node, { parent = "_root", position = "first" } = {}) {
  const above = parent === "_root" ? { children: tree.tree } : all(tree.tree).find(({ id }) => id === parent);
  if (!above) no("PARENT_NOT_FOUND");
  const siblings = (above.children ??= []);
  const at = (id) => siblings.findIndex((sibling) => sibling.id === id);
  let index = 0;
  if (position === "last") index = siblings.length;
  if (position.after !== undefined) index = at(position.after) < 0 ? siblings.length : at(position.after) + 1;
  if (position.before !== undefined) index = Math.max(0, at(position.before));
  siblings.splice(index, 0, node);
}

function take(tree, id) {
  const siblings = siblingsOf(tree.tree, id);
  return siblings.splice(siblings.findIndex((node) => node.id === id), 1)[0];
}

/** The state after an event, with the server's checks. Throws where they fail. */
export function model(before, { type, payload }) {
  const state = clone(before);
  const { target, options } = payload;
  const value = clone(payload.value);
  switch (type) {
    case "set": {
      const keys = target.split(".");
      const last = keys.pop();
      let at = state;
      if (Array.isArray(value) && !options?.replace) no("ARRAY_REQUIRES_REPLACE");
      for (const key of keys) {
        if (own(at, key) == null) at[key] = {};
        at = at[key];
        if (!isObject(at)) no("PATH_NOT_AN_OBJECT");
      }
      const merged = !options?.replace && isObject(own(at, last)) && isObject(value);
      at[last] = merged ? { ...at[last], ...value } : value;
      return state;
    }
    case "unset": {
      const keys = target.split(".");
      const last = keys.pop();
      let at = state;
      for (const key of keys) {
        at = own(at, key);
        if (at === undefined) return state;
        if (!isObject(at)) no("PATH_NOT_AN_OBJECT");
      }
      delete at[last];
      return state;
    }
    case "treePush": {
      const tree = treeAt(state, target);
      const { id, ...fields } = value;
      if (own(tree.items, id) || siblingsOf(tree.tree, id)) no("DUPLICATE_ID");
      insert(tree, { id, children: [] }, options);
      tree.items[id] = fields;
      return state;
    }
    case "treeDelete": {
      const tree = treeAt(state, target);
      if (!own(tree.items, options.id)) no("NODE_NOT_FOUND");
      for (const { id } of all([take(tree, options.id)])) delete tree.items[id];
      return state;
    }
    case "treeUpdate": {
      const tree = treeAt(state, target);
      const { id: _, ...fields } = value;
      if (!own(tree.items, options.id)) no("NODE_NOT_FOUND");
      tree.items[options.id] = options.replace ? fields : { ...tree.items[options.id], ...fields };
      return state;
    }
    case "treeMove": {
      const tree = treeAt(state, target);
      const node = all(tree.tree).find(({ id }) => id === options.id);
      if (!node) no("NODE_NOT_FOUND");
      if (all([node]).some(({ id }) => id === options.parent)) no("CYCLE");
      const parent = options.parent ?? "_root";
      if (parent !== "_root" && !siblingsOf(tree.tree, parent)) no("PARENT_NOT_FOUND");
      const siblings = parent === "_root" ? tree.tree : (all(tree.tree).find(({ id }) => id === parent).children ?? []);
      const next = options.position?.after ?? options.position?.before;
      // Next to itself, it stays where it is.
      if (next === options.id && siblings.includes(node)) return state;
      insert(tree, take(tree, options.id), options);
      return state;
    }
    case "note":
      state.notes = [...(state.notes ?? []), payload.text];
      return state;
    default:
      return state;
  }
}

/** An event type of an application's own. Unlike the built-in actions, it shows when it is folded twice, and in
 * which order. */
export const noteRules = {
  events: {
    note: {
      reduce: ({ state, payload }) => {
        state.notes ??= [];
        state.notes.push(payload.text);
      },
    },
  },
};

/** RFC 8785. */
export function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (!isObject(value)) return JSON.stringify(value);
  return `{${Object.keys(value).sort().map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`).join(",")}}`;
}

/** Random numbers by seed (mulberry32). */
export function random(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (limit) => Math.floor(next() * limit);
  return { next, below, pick: (list) => list[below(list.length)], chance: (part) => next() < part };
}

/** A random action on a small state, so that actions meet. */
export function action({ below, pick, chance }) {
  const id = `n${below(6)}`;
  const parent = chance(0.5) ? "_root" : `n${below(6)}`;
  const position = pick(["first", "last", { after: `n${below(6)}` }, { before: `n${below(6)}` }]);
  const target = pick(["a", "a.b", "a.b.c", "d"]);
  const value = pick([1, "two", null, { k: below(3) }, { l: { m: below(2) } }]);
  switch (below(7)) {
    case 0:
    case 1:
      return ["set", { target, value, options: { replace: chance(0.3) } }];
    case 2:
      return ["unset", { target }];
    case 3:
      return ["treePush", { target: "t", value: { id, title: `title ${below(3)}` }, options: { parent, position } }];
    case 4:
      return ["treeDelete", { target: "t", options: { id } }];
    case 5:
      return ["treeUpdate", { target: "t", value: { title: below(3) }, options: { id, replace: chance(0.3) } }];
    default:
      return ["treeMove", { target: "t", options: { id, parent, position } }];
  }
}
