// What the built-in events do to plain JavaScript objects, as in a client in a browser. Written from the specification,
// not from the server.

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const own = (object, key) => (Object.hasOwn(object, key) ? object[key] : undefined);
const fail = (why) => {
  throw new Error(why);
};

function find(state, target) {
  let place = state;
  for (const key of target.split(".")) {
    place = isObject(place) ? own(place, key) : undefined;
    if (place === undefined) return undefined;
  }
  return place;
}

function set(state, { target, value, options = {} }) {
  const keys = target.split(".");
  const last = keys.pop();
  let place = state;
  for (const key of keys) {
    if (own(place, key) == null) place[key] = {};
    place = place[key];
    if (!isObject(place)) fail(`${target} leads through something that is no object`);
  }
  const old = own(place, last);
  place[last] = !options.replace && isObject(old) && isObject(value) ? { ...old, ...value } : value;
}

function unset(state, { target }) {
  const keys = target.split(".");
  const last = keys.pop();
  const place = keys.length === 0 ? state : find(state, keys.join("."));
  if (isObject(place)) delete place[last];
}

function treeAt(state, target) {
  const place = find(state, target);
  if (!isObject(place)) fail(`no tree at ${target}`);
  if (!Object.hasOwn(place, "items")) place.items = {};
  if (!Object.hasOwn(place, "tree")) place.tree = [];
  return place;
}

function findNode(nodes, id) {
  for (const node of nodes) {
    const found = node.id === id ? node : findNode(node.children ?? [], id);
    if (found) return found;
  }
  return undefined;
}

function takeNode(nodes, id) {
  const at = nodes.findIndex((node) => node.id === id);
  if (at >= 0) return nodes.splice(at, 1)[0];
  for (const node of nodes) {
    const taken = takeNode(node.children ?? [], id);
    if (taken) return taken;
  }
  return undefined;
}

function insertNode(tree, node, { parent = "_root", position = "first" }) {
  let siblings = tree;
  if (parent !== "_root") {
    const above = findNode(tree, parent) ?? fail(`no parent ${parent}`);
    above.children ??= [];
    siblings = above.children;
  }
  const at = (id) => siblings.findIndex((sibling) => sibling.id === id);
  let place = 0;
  if (position === "last") place = siblings.length;
  else if (position.after !== undefined) place = at(position.after) < 0 ? siblings.length : at(position.after) + 1;
  else if (position.before !== undefined) place = Math.max(0, at(position.before));
  siblings.splice(place, 0, node);
}

const idsOf = (node) => [node.id, ...(node.children ?? []).flatMap(idsOf)];

/** The state after an event. Changes the one that it is given. */
export function fold(state, { type, payload }) {
  switch (type) {
    case "init":
      return payload.value;
    case "set":
      set(state, payload);
      return state;
    case "unset":
      unset(state, payload);
      return state;
    case "treePush": {
      const tree = treeAt(state, payload.target);
      const { id, ...fields } = payload.value;
      tree.items[id] = fields;
      insertNode(tree.tree, { id, children: [] }, payload.options ?? {});
      return state;
    }
    case "treeDelete": {
      const tree = treeAt(state, payload.target);
      const node = takeNode(tree.tree, payload.options.id);
      for (const id of node ? idsOf(node) : [payload.options.id]) delete tree.items[id];
      return state;
    }
    case "treeUpdate": {
      const tree = treeAt(state, payload.target);
      const { id: _, ...fields } = payload.value;
      const old = own(tree.items, payload.options.id);
      const merge = !payload.options.replace && isObject(old);
      tree.items[payload.options.id] = merge ? { ...old, ...fields } : fields;
      return state;
    }
    case "treeMove": {
      const tree = treeAt(state, payload.target);
      const { id, parent = "_root", position = {} } = payload.options;
      const siblings = parent === "_root" ? tree.tree : (findNode(tree.tree, parent)?.children ?? []);
      // Next to itself is where it is.
      if ((position.after === id || position.before === id) && siblings.some((one) => one.id === id)) return state;
      const node = takeNode(tree.tree, payload.options.id) ?? fail(`no node ${payload.options.id}`);
      insertNode(tree.tree, node, payload.options);
      return state;
    }
    default:
      return state;
  }
}

// RFC 8785: JSON.stringify's spelling of strings and numbers, keys by UTF-16 code units.
export function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (!isObject(value)) return JSON.stringify(value);
  const pairs = Object.keys(value).sort().map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`);
  return `{${pairs.join(",")}}`;
}
