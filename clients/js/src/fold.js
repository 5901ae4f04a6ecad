// Folding: what an event makes of a state. Pure; the states that were given out are never changed.

import { isObject } from "./json.js";

/** An event does not fold. `code` is the server's for the same finding; its message is the server's to give.
 * @param {string} code @returns {never} */
const fail = (code) => {
  throw Object.assign(new Error(code), { code });
};

const ROOT = "_root";

/** @param {any} object @param {string} key */
const get = (object, key) => (Object.hasOwn(object, key) ? object[key] : undefined);

/** @param {any} target @returns {string[]} */
function keysOf(target) {
  if (typeof target !== "string" || target === "") fail("SCHEMA_ERROR");
  const keys = target.split(".");
  if (keys.includes("__proto__")) fail("FORBIDDEN_KEY");
  return keys;
}

/** The arrays and indexes that lead to a node, from the top; undefined if it is not there.
 * @param {any[]} nodes @param {string} id @returns {[any[], number][] | undefined} */
function pathTo(nodes, id) {
  for (let index = 0; index < nodes.length; index += 1) {
    if (nodes[index].id === id) return [[nodes, index]];
  }
  for (let index = 0; index < nodes.length; index += 1) {
    const children = nodes[index].children;
    const path = children?.length > 0 ? pathTo(children, id) : undefined;
    if (path) return [[nodes, index], ...path];
  }
  return undefined;
}

/** @param {any} node @returns {string[]} */
const idsOf = (node) => [node.id, ...(node.children ?? []).flatMap(idsOf)];

/**
 * Folds events one after the other. It changes only objects that it made itself since the last `release`, so that
 * a run of events copies each object once, and a state that was given out before stays as it is.
 */
export class Folder {
  #rules;
  /** @type {WeakSet<object>} */
  #mine = new WeakSet();
  /** States of which every part is this folder's own. @type {WeakSet<object>} */
  #deep = new WeakSet();

  /** @param {import("./types.js").Rules} [rules] */
  constructor(rules) {
    this.#rules = rules;
  }

  /** Call it before a state is given out. */
  release() {
    this.#mine = new WeakSet();
    this.#deep = new WeakSet();
  }

  /** Gives the state after an event. Throws if the event does not fold; the state given counts on then. `draft`
   * asks for the checks that the server makes on a draft.
   * @param {any} state @param {any} event @returns {any} */
  fold(state, event, draft = false) {
    const { type, payload } = event;
    const own = this.#rules?.events && get(this.#rules.events, type);
    if (own) return this.#module(own, state, event, draft);
    switch (type) {
      case "init":
        if (!isObject(payload?.value)) fail("SCHEMA_ERROR");
        return payload.value;
      case "set":
        return this.#set(state, payload, draft);
      case "unset":
        return this.#unset(state, payload);
      case "treePush":
        return this.#tree(state, payload, (tree) => this.#push(tree, payload, draft));
      case "treeDelete":
        return this.#tree(state, payload, (tree) => this.#delete(tree, payload.options.id, draft));
      case "treeUpdate":
        return this.#tree(state, payload, (tree) => this.#update(tree, payload));
      case "treeMove":
        return this.#tree(state, payload, (tree) => this.#move(tree, payload.options));
      default:
        return state;
    }
  }

  /** @template T @param {T} object @returns {T} */
  #make(object) {
    this.#mine.add(/** @type {any} */ (object));
    return object;
  }

  /** The object itself if this folder made it, else a copy. @param {any} object */
  #own(object) {
    if (this.#mine.has(object)) return object;
    return this.#make(Array.isArray(object) ? object.slice() : { ...object });
  }

  /** @param {any} root @param {any} payload */
  #set(root, { target, value, options }, draft = false) {
    const replace = options?.replace === true;
    if (draft && !replace && Array.isArray(value)) fail("ARRAY_REQUIRES_REPLACE");
    const keys = keysOf(target);
    const last = /** @type {string} */ (keys.pop());
    const state = this.#own(root);
    let at = state;
    for (const key of keys) {
      const next = get(at, key) ?? this.#make({});
      if (!isObject(next)) fail("PATH_NOT_AN_OBJECT");
      at[key] = this.#own(next);
      at = at[key];
    }
    const old = get(at, last);
    at[last] = !replace && isObject(old) && isObject(value) ? this.#make({ ...old, ...value }) : value;
    return state;
  }

  /** @param {any} root @param {any} payload */
  #unset(root, { target }) {
    const keys = keysOf(target);
    const last = /** @type {string} */ (keys.pop());
    let there = root;
    for (const key of keys) {
      there = get(there, key);
      if (there === undefined) return root;
      if (!isObject(there)) fail("PATH_NOT_AN_OBJECT");
    }
    if (!Object.hasOwn(there, last)) return root;
    const state = this.#own(root);
    let at = state;
    for (const key of keys) at = at[key] = this.#own(at[key]);
    delete at[last];
    return state;
  }

  /** Has `act` change the tree at `payload.target`, and gives the state after it.
   * @param {any} root @param {any} payload @param {(tree: any) => void} act */
  #tree(root, { target }, act) {
    const keys = keysOf(target);
    let there = root;
    for (const key of keys) {
      there = isObject(there) ? get(there, key) : undefined;
      if (there === undefined) fail("TARGET_NOT_FOUND");
    }
    if (!isObject(there)) fail("TARGET_NOT_FOUND");
    const items = get(there, "items") ?? {};
    const nodes = get(there, "tree") ?? [];
    if (!isObject(items) || !Array.isArray(nodes)) fail("TARGET_NOT_A_TREE");
    // A copy in any case: one that does not come to its end has changed nothing.
    const tree = this.#make({ ...there, items, tree: nodes });
    act(tree);
    const state = this.#own(root);
    let at = state;
    for (const key of keys.slice(0, -1)) at = at[key] = this.#own(at[key]);
    at[keys[keys.length - 1]] = tree;
    return state;
  }

  /** Makes the arrays and nodes on a path this folder's own; gives the array that holds the last node.
   * @param {any} tree @param {[any[], number][]} path @returns {any[]} */
  #open(tree, path) {
    let nodes = (tree.tree = this.#own(tree.tree));
    for (const [, index] of path.slice(0, -1)) {
      const node = (nodes[index] = this.#own(nodes[index]));
      nodes = node.children = this.#own(node.children);
    }
    return nodes;
  }

  /** @param {any} tree @param {any} node @param {any} options */
  #insert(tree, node, { parent = ROOT, position = "first" }) {
    let siblings;
    if (parent === ROOT) {
      siblings = tree.tree = this.#own(tree.tree);
    } else {
      const path = pathTo(tree.tree, parent) ?? fail("PARENT_NOT_FOUND");
      const index = path[path.length - 1][1];
      const nodes = this.#open(tree, path);
      const above = (nodes[index] = this.#own(nodes[index]));
      siblings = above.children = this.#own(above.children ?? []);
    }
    const at = (/** @type {string} */ id) => siblings.findIndex((/** @type {any} */ sibling) => sibling.id === id);
    let index = 0;
    if (position === "last") index = siblings.length;
    else if (position.after !== undefined) index = at(position.after) < 0 ? siblings.length : at(position.after) + 1;
    else if (position.before !== undefined) index = Math.max(0, at(position.before));
    siblings.splice(index, 0, node);
  }

  /** @param {any} tree @param {any} payload @param {boolean} draft */
  #push(tree, { value, options = {} }, draft) {
    const { id, ...fields } = value;
    if (draft && (Object.hasOwn(tree.items, id) || pathTo(tree.tree, id))) {
      fail("DUPLICATE_ID");
    }
    this.#insert(tree, this.#make({ id, children: this.#make([]) }), options);
    tree.items = this.#own(tree.items);
    tree.items[id] = fields;
  }

  /** @param {any} tree @param {string} id @param {boolean} draft */
  #delete(tree, id, draft) {
    const path = pathTo(tree.tree, id);
    if (draft && !path && !Object.hasOwn(tree.items, id)) fail("NODE_NOT_FOUND");
    let gone = [id];
    if (path) {
      const [node] = this.#open(tree, path).splice(path[path.length - 1][1], 1);
      gone = idsOf(node);
    }
    tree.items = this.#own(tree.items);
    for (const item of gone) delete tree.items[item];
  }

  /** @param {any} tree @param {any} payload */
  #update(tree, { value, options: { id, replace = false } }) {
    const { id: _, ...fields } = value;
    const old = get(tree.items, id) ?? fail("NODE_NOT_FOUND");
    if (!replace && !isObject(old)) fail("TARGET_NOT_A_TREE");
    tree.items = this.#own(tree.items);
    tree.items[id] = replace ? fields : this.#make({ ...old, ...fields });
  }

  /** @param {any} tree @param {any} options */
  #move(tree, options) {
    const { id, parent = ROOT } = options;
    const path = pathTo(tree.tree, id) ?? fail("NODE_NOT_FOUND");
    const [nodes, index] = path[path.length - 1];
    if (parent !== ROOT) {
      if (parent === id || pathTo(nodes[index].children ?? [], parent)) fail("CYCLE");
      if (!pathTo(tree.tree, parent)) fail("PARENT_NOT_FOUND");
    }
    // Next to itself, it stays where it is.
    const { after, before } = options.position ?? {};
    const above = path.length > 1 ? path[path.length - 2] : undefined;
    if ((after === id || before === id) && parent === (above ? above[0][above[1]].id : ROOT)) return;
    const [node] = this.#open(tree, path).splice(index, 1);
    this.#insert(tree, node, options);
  }

  /** An event type of the application's own module. Its reducer may change the state that it is given, so that is
   * a whole copy: one for each run of events, and one more for each draft, which may fail half way.
   * @param {import("./types.js").EventRule} rule @param {any} root @param {any} event @param {boolean} draft */
  #module(rule, root, event, draft) {
    const state = !draft && this.#deep.has(root) ? root : structuredClone(root);
    const { payload, partition } = event;
    if (draft) rule.check?.({ state, payload, event, client: { clientId: event.clientId }, reject: fail });
    const next = rule.reduce?.({ state, payload: structuredClone(payload), event, partition }) ?? state;
    if (!isObject(next)) fail("RULE_FAILED");
    if (next === state) this.#deep.add(state);
    return next;
  }
}
