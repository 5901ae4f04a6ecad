// insieme:actions: the built-in event types as rules of a module, as they are or inside rules of its own. What they
// refuse and what they do is what the server refuses and does without a module, to the byte (see src/app/tests.rs).

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const FORBIDDEN = ["__proto__", "prototype", "constructor"];
const ROOT = "_root";

/** What stands at a path: its holder and key; `undefined` where a key is missing, `blocked` where there is no way. */
const locate = (state, target) => {
  const keys = target.split(".");
  const last = keys.pop();
  let holder = state;
  for (const key of keys) {
    if (!Object.hasOwn(holder, key)) return undefined;
    if (!isObject(holder[key])) return { blocked: key };
    holder = holder[key];
  }
  return Object.hasOwn(holder, last) ? { holder, key: last } : undefined;
};

const checkNames = (reject, target, ids) => {
  for (const part of target.split(".")) {
    if (FORBIDDEN.includes(part)) reject("FORBIDDEN_KEY", "payload.target", `${part} must not be a path's part`);
  }
  for (const [field, id] of ids) {
    if (FORBIDDEN.includes(id)) reject("FORBIDDEN_KEY", field, `${id} must not be an id`);
  }
};

const placeIds = ({ parent, position } = {}) => [
  ...(parent === undefined ? [] : [["payload.options.parent", parent]]),
  ...(isObject(position) && "after" in position ? [["payload.options.position.after", position.after]] : []),
  ...(isObject(position) && "before" in position ? [["payload.options.position.before", position.before]] : []),
];

/** The nodes of a tree by id: each with the array that it stands in, and its parent's id. Throws where it is no tree. */
const index = (tree) => {
  const nodes = new Map();
  const visit = (siblings, parent) => {
    if (!Array.isArray(siblings)) throw new NotATree();
    for (const node of siblings) {
      if (!isObject(node) || typeof node.id !== "string" || nodes.has(node.id)) throw new NotATree();
      nodes.set(node.id, { node, siblings, parent });
      if (Object.hasOwn(node, "children")) visit(node.children, node.id);
    }
  };
  visit(tree, ROOT);
  return nodes;
};
class NotATree extends Error {}

/** A tree to plan on, or what stands against its being one. */
const view = (state, target, reject) => {
  const at = locate(state, target);
  if (at?.blocked !== undefined) {
    reject("TARGET_NOT_FOUND", "payload.target", "the target does not exist or is not an object");
    reject("PATH_NOT_AN_OBJECT", "payload.target", `the path leads through ${at.blocked}, which is not an object`);
    return undefined;
  }
  const object = at?.holder[at.key];
  if (!isObject(object)) {
    reject("TARGET_NOT_FOUND", "payload.target", "the target does not exist or is not an object");
    return undefined;
  }
  const notATree = (why) => void reject("TARGET_NOT_A_TREE", "payload.target", `the target is not a tree: ${why}`);
  const items = Object.hasOwn(object, "items") ? object.items : {};
  if (!isObject(items)) return notATree("items is not an object");
  const tree = Object.hasOwn(object, "tree") ? object.tree : [];
  if (!Array.isArray(tree)) return notATree("tree is not an array");
  try {
    return { items, nodes: index(tree) };
  } catch (error) {
    if (error instanceof NotATree) return notATree("its nodes are not those of a tree");
    throw error;
  }
};

const objectAt = (state, target) => {
  const at = locate(state, target);
  return at.holder[at.key];
};

/** Puts a node among its parent's children; a sibling that is not there means last, or first. */
const insert = (object, node, { parent = ROOT, position = "first" } = {}) => {
  let siblings = object.tree;
  if (parent !== ROOT) {
    const under = index(object.tree).get(parent).node;
    if (!Object.hasOwn(under, "children")) under.children = [];
    siblings = under.children;
  }
  const at = (id) => siblings.findIndex((sibling) => sibling.id === id);
  let place = 0;
  if (position === "last") place = siblings.length;
  else if (isObject(position) && "after" in position) place = at(position.after) < 0 ? siblings.length : at(position.after) + 1;
  else if (isObject(position) && "before" in position) place = Math.max(at(position.before), 0);
  siblings.splice(place, 0, node);
};

const name = { type: "string", minLength: 1 };
const relative = (key) => ({ type: "object", properties: { [key]: name }, required: [key], additionalProperties: false });
const position = { anyOf: [{ enum: ["first", "last"] }, relative("after"), relative("before")] };
const payloadSchema = (required, properties) => ({ type: "object", properties, required, additionalProperties: false });

/** Puts a value at a path, merged with the object there unless `options.replace` is given. */
export const set = {
  schema: payloadSchema(["target", "value"], {
    target: name,
    value: true,
    options: { type: "object", properties: { replace: { type: "boolean" } }, additionalProperties: false },
  }),
  check({ state, payload: { target, value, options }, reject }) {
    checkNames(reject, target, []);
    if (Array.isArray(value) && options?.replace !== true) {
      reject("ARRAY_REQUIRES_REPLACE", "payload.value", "an array is set only with options.replace: true");
    }
    const keys = target.split(".");
    let at = state;
    for (const key of keys.slice(0, -1)) {
      if (!Object.hasOwn(at, key) || at[key] === null) return;
      if (!isObject(at[key])) {
        return void reject("PATH_NOT_AN_OBJECT", "payload.target", `the path leads through ${key}, which is not an object`);
      }
      at = at[key];
    }
  },
  reduce({ state, payload: { target, value, options } }) {
    const keys = target.split(".");
    const last = keys.pop();
    let at = state;
    for (const key of keys) {
      if (!Object.hasOwn(at, key) || at[key] === null) at[key] = {};
      at = at[key];
    }
    const there = Object.hasOwn(at, last) ? at[last] : undefined;
    if (options?.replace === true || !isObject(there) || !isObject(value)) at[last] = value;
    else for (const key of Object.keys(value)) there[key] = value[key];
  },
};

/** Deletes the key at a path; a path that leads nowhere changes nothing. */
export const unset = {
  schema: payloadSchema(["target"], { target: name }),
  check({ state, payload: { target }, reject }) {
    checkNames(reject, target, []);
    const at = locate(state, target);
    if (at?.blocked !== undefined) {
      reject("PATH_NOT_AN_OBJECT", "payload.target", `the path leads through ${at.blocked}, which is not an object`);
    }
  },
  reduce({ state, payload: { target } }) {
    const at = locate(state, target);
    if (at !== undefined) delete at.holder[at.key];
  },
};

/** Adds a node, with its item, to the tree at a path. */
export const treePush = {
  schema: payloadSchema(["target", "value"], {
    target: name,
    value: { type: "object", properties: { id: name }, required: ["id"] },
    options: { type: "object", properties: { parent: { type: "string" }, position } },
  }),
  check({ state, payload: { target, value, options }, reject }) {
    checkNames(reject, target, [...placeIds(options), ["payload.value.id", value.id]]);
    if (value.id === ROOT) reject("RESERVED_ID", "payload.value.id", "_root stands for the top of a tree");
    const there = view(state, target, reject);
    if (there === undefined) return;
    if (Object.hasOwn(there.items, value.id) || there.nodes.has(value.id)) {
      reject("DUPLICATE_ID", "payload.value.id", `the id ${value.id} is already in the tree`);
    }
    const parent = options?.parent ?? ROOT;
    if (parent !== ROOT && !there.nodes.has(parent)) {
      reject("PARENT_NOT_FOUND", "payload.options.parent", `the parent ${parent} is not a node of the tree`);
    }
  },
  reduce({ state, payload: { target, value, options } }) {
    const object = objectAt(state, target);
    if (!Object.hasOwn(object, "items")) object.items = {};
    if (!Object.hasOwn(object, "tree")) object.tree = [];
    const { id, ...fields } = value;
    object.items[id] = fields;
    insert(object, { id, children: [] }, options);
  },
};

/** Removes a node and all below it, each with its item. */
export const treeDelete = {
  schema: payloadSchema(["target", "options"], {
    target: name,
    options: { type: "object", properties: { id: name }, required: ["id"] },
  }),
  check({ state, payload: { target, options: { id } }, reject }) {
    checkNames(reject, target, [["payload.options.id", id]]);
    const there = view(state, target, reject);
    if (there !== undefined && !Object.hasOwn(there.items, id) && !there.nodes.has(id)) {
      reject("NODE_NOT_FOUND", "payload.options.id", `the id ${id} is not in the tree`);
    }
  },
  reduce({ state, payload: { target, options: { id } } }) {
    const object = objectAt(state, target);
    if (!Object.hasOwn(object, "items")) object.items = {};
    if (!Object.hasOwn(object, "tree")) object.tree = [];
    const found = index(object.tree).get(id);
    delete object.items[id];
    if (found === undefined) return;
    const drop = (node) => {
      delete object.items[node.id];
      for (const child of node.children ?? []) drop(child);
    };
    drop(found.node);
    found.siblings.splice(found.siblings.indexOf(found.node), 1);
  },
};

/** Changes the item of a node. */
export const treeUpdate = {
  schema: payloadSchema(["target", "value", "options"], {
    target: name,
    value: { type: "object" },
    options: { type: "object", properties: { id: name, replace: { type: "boolean" } }, required: ["id"] },
  }),
  check({ state, payload: { target, options: { id, replace } }, reject }) {
    checkNames(reject, target, [["payload.options.id", id]]);
    const there = view(state, target, reject);
    if (there === undefined) return;
    if (!Object.hasOwn(there.items, id)) {
      reject("NODE_NOT_FOUND", "payload.options.id", `the id ${id} is not in the tree`);
    } else if (replace !== true && !isObject(there.items[id])) {
      reject("TARGET_NOT_A_TREE", "payload.target", `the item ${id} is not an object; replace makes it one`);
    }
  },
  reduce({ state, payload: { target, value, options: { id, replace } } }) {
    const { items } = objectAt(state, target);
    const { id: _, ...fields } = value;
    if (replace === true) items[id] = fields;
    else for (const key of Object.keys(fields)) items[id][key] = fields[key];
  },
};

/** Takes a node out with all below it, and puts it elsewhere in its tree. */
export const treeMove = {
  schema: payloadSchema(["target", "options"], {
    target: name,
    options: { type: "object", properties: { id: name, parent: { type: "string" }, position }, required: ["id"] },
  }),
  check({ state, payload: { target, options }, reject }) {
    const { id, parent = ROOT } = options;
    checkNames(reject, target, [...placeIds(options), ["payload.options.id", id]]);
    const there = view(state, target, reject);
    if (there === undefined) return;
    const isThere = there.nodes.has(id);
    if (!isThere) reject("NODE_NOT_FOUND", "payload.options.id", `the id ${id} is not in the tree`);
    if (parent !== ROOT && !there.nodes.has(parent)) {
      return void reject("PARENT_NOT_FOUND", "payload.options.parent", `the parent ${parent} is not a node of the tree`);
    }
    for (let at = parent; isThere && at !== ROOT; at = there.nodes.get(at).parent) {
      if (at === id) {
        return void reject("CYCLE", "payload.options.parent", `the parent ${parent} is the node itself or below it`);
      }
    }
  },
  reduce({ state, payload: { target, options } }) {
    const object = objectAt(state, target);
    const { id, parent = ROOT, position } = options;
    const found = index(object.tree).get(id);
    // A node that is put next to itself stays where it is.
    if (found.parent === parent && isObject(position) && (position.after ?? position.before) === id) return;
    found.siblings.splice(found.siblings.indexOf(found.node), 1);
    insert(object, found.node, options);
  },
};
