// JSON values: what the server can take, and sharing of equal parts. Pure.

/** A value that has keys: no array, not null. @param {any} value */
export const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** Keys that would change an object's prototype somewhere; the server refuses them too. */
const FORBIDDEN = new Set(["__proto__", "prototype", "constructor"]);

/** How deep a payload may nest. The server counts a whole message, which adds three levels. */
const DEPTH_MAX = 60;

/** Why the server can never take this value, or undefined.
 * @param {any} value
 * @param {string} field
 * @returns {{ field: string, message: string, code: string } | undefined} */
export function refusal(value, field, depth = 1) {
  const no = (/** @type {string} */ code, /** @type {string} */ message) => ({ field, message, code });
  if (depth > DEPTH_MAX) return no("TOO_DEEP", `nests deeper than ${DEPTH_MAX} levels`);
  if (typeof value === "string") {
    return /\p{Surrogate}/u.test(value) ? no("SCHEMA_ERROR", "holds half of a surrogate pair") : undefined;
  }
  if (typeof value === "number") {
    return Number.isFinite(value) ? undefined : no("SCHEMA_ERROR", "is not a finite number");
  }
  if (value === null || typeof value !== "object") return undefined;
  for (const [key, inner] of Object.entries(value)) {
    const where = `${field}.${key}`;
    if (FORBIDDEN.has(key)) return { field: where, message: `the key ${key} is not allowed`, code: "FORBIDDEN_KEY" };
    const found = refusal(key, field, depth) ?? refusal(inner, where, depth + 1);
    if (found) return found;
  }
  return undefined;
}

/** Whether two JSON values are equal, whatever the order of their keys. @param {any} a @param {any} b @returns {boolean} */
export function equal(a, b) {
  if (Object.is(a, b) || a === b) return true;
  if (a === null || b === null || typeof a !== "object" || typeof b !== "object") return false;
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every((key) => Object.hasOwn(b, key) && equal(a[key], b[key]));
}

/** Gives `next`, with every part of it that equals the part of `previous` at the same place replaced by that part.
 * So equal values keep their identity. Neither argument is changed.
 * @param {any} previous @param {any} next @returns {any} */
export function share(previous, next) {
  if (Object.is(previous, next)) return previous;
  if (previous === null || next === null || typeof previous !== "object" || typeof next !== "object") return next;
  const array = Array.isArray(next);
  if (array !== Array.isArray(previous)) return next;
  return array ? shareArray(previous, next) : shareObject(previous, next);
}

/** @param {any} previous @param {any} next */
function shareObject(previous, next) {
  const keys = Object.keys(next);
  let same = keys.length === Object.keys(previous).length;
  let out = next;
  for (const key of keys) {
    const known = Object.hasOwn(previous, key);
    const part = known ? share(previous[key], next[key]) : next[key];
    if (!known || part !== previous[key]) same = false;
    if (part !== next[key]) {
      if (out === next) out = { ...next };
      out[key] = part;
    }
  }
  return same ? previous : out;
}

/** Elements are paired by identity, then by `id`, then by index. @param {any[]} previous @param {any[]} next */
function shareArray(previous, next) {
  let same = previous.length === next.length;
  let out = next;
  /** @type {Set<any> | undefined} */
  let parts;
  /** @type {Map<any, any> | undefined} */
  let byId;
  for (let index = 0; index < next.length; index += 1) {
    const element = next[index];
    if (index < previous.length && Object.is(previous[index], element)) continue;
    let part = element;
    if (element !== null && typeof element === "object") {
      parts ??= new Set(previous);
      byId ??= new Map(previous.filter(isObject).map((old) => [old.id, old]));
      if (!parts.has(element)) {
        part = share(typeof element.id === "string" ? byId.get(element.id) : previous[index], element);
      }
    }
    if (part !== previous[index]) same = false;
    if (part !== element) {
      if (out === next) out = next.slice();
      out[index] = part;
    }
  }
  return same ? previous : out;
}
