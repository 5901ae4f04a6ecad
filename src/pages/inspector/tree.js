// JSON as a tree that opens part by part, and what differs between two values. Text only.

import { h, short } from "./dom.js";

const CHILDREN_MAX = 100;
const TEXT_MAX = 200_000;
const VALUE_MAX = 400;
/** So many differences are told, and so many values compared for it. */
const DIFFERENCES_MAX = 500;
const COMPARED_MAX = 500_000;

const isNode = (value) => typeof value === "object" && value !== null;
const kindOf = (value) => (value === null ? "null" : Array.isArray(value) ? "array" : typeof value);

/** A value as text of bounded length. */
export function jsonText(value) {
  const text = JSON.stringify(value, null, 2) ?? "undefined";
  return text.length > TEXT_MAX ? `${text.slice(0, TEXT_MAX)}\n… ${text.length - TEXT_MAX} more characters` : text;
}

export const oneLine = (value) => short(JSON.stringify(value) ?? "nothing", VALUE_MAX);

function summaryOf(value) {
  const count = Object.keys(value).length;
  const what = Array.isArray(value) ? "item" : "key";
  return `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;
}

/** A tree. What is below a node is made when it is opened. @param {Set<string>} opened paths that are open */
export function tree(value, opened, path = "", key = undefined) {
  const name = key === undefined ? [] : [h("span", { class: "key" }, key), ": "];
  if (!isNode(value)) return h("div", { class: "leaf" }, ...name, h("span", { class: kindOf(value) }, oneLine(value)));
  const details = h("details", {}, h("summary", {}, ...name, h("span", { class: "sum" }, summaryOf(value))));
  const fill = () => {
    if (details.dataset.filled) return;
    details.dataset.filled = "yes";
    const keys = Object.keys(value);
    const more = (from) => {
      details.append(...keys.slice(from, from + CHILDREN_MAX).map((child) => tree(value[child], opened, `${path}\u0000${child}`, child)));
      if (keys.length <= from + CHILDREN_MAX) return;
      const button = h("button", { type: "button", onclick: () => (button.remove(), more(from + CHILDREN_MAX)) }, `${(keys.length - from - CHILDREN_MAX).toLocaleString("en")} more`);
      details.append(button);
    };
    more(0);
  };
  details.addEventListener("toggle", () => {
    if (details.open) {
      opened.add(path);
      fill();
    } else opened.delete(path);
  });
  if (opened.has(path)) {
    details.open = true;
    fill();
  }
  return details;
}

/** What differs, by path: `{ path, before, after }`, where `undefined` is not there; and whether that is all. */
export function differences(before, after) {
  const found = [];
  let compared = 0;
  let whole = true;
  const walk = (a, b, path) => {
    compared += 1;
    if (found.length >= DIFFERENCES_MAX || compared > COMPARED_MAX) {
      whole = false;
      return;
    }
    if (isNode(a) && isNode(b) && Array.isArray(a) === Array.isArray(b)) {
      for (const key of new Set([...Object.keys(a), ...Object.keys(b)])) {
        walk(Object.hasOwn(a, key) ? a[key] : undefined, Object.hasOwn(b, key) ? b[key] : undefined, [...path, key]);
      }
    } else if (a !== b) found.push({ path: path.join("."), before: a, after: b });
  };
  walk(before, after, []);
  return { found, whole };
}
