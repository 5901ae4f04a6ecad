// A partition's state, at any of its events, and what differs between two.

import { askLines, askText, path } from "./ask.js";
import { h, moment, number } from "./dom.js";
import { lastOf } from "./log.js";
import { differences, oneLine, tree } from "./tree.js";

const STATE_BYTES_MAX = 8 << 20;
const SETTLE_MS = 150;

/** @param {string | undefined} given an event's number, or two: `7` or `7-5` */
export async function state(element, name, signal, given = "") {
  const base = path("partitions", name);
  const opened = new Set([""]);
  const problem = h("p", { class: "problem", role: "alert" });
  const told = h("p", { class: "told", role: "status" }, "Looking…");
  const shown = h("div", { class: "states" });
  element.replaceChildren(told, problem);

  let total;
  try {
    total = (await lastOf(`${base}/events`, signal)).events;
  } catch (error) {
    if (!signal.aborted) problem.textContent = error.message;
    return;
  }
  if (total === 0) {
    told.textContent = "This partition has no events yet.";
    return;
  }
  const [at = total, other] = given === "" ? [] : given.split("-").map((text) => Math.min(total, Math.max(1, Number(text) || 1)));
  const chosen = { at, other };

  function choose(key, label, id) {
    const range = h("input", { type: "range", min: 1, max: total, step: 1, id, "data-role": id });
    const exact = h("input", { type: "number", min: 1, max: total, step: 1, "aria-label": `${label}, by number` });
    const set = (value, soon) => {
      const valid = Math.min(total, Math.max(1, Math.floor(Number(value)) || 1));
      chosen[key] = valid;
      range.value = exact.value = String(valid);
      later(soon);
    };
    range.addEventListener("input", () => set(range.value, SETTLE_MS));
    exact.addEventListener("change", () => set(exact.value, 0));
    range.value = exact.value = String(chosen[key] ?? total);
    return h("div", { class: "slide" }, h("label", { for: id }, label), range, exact);
  }

  const compare = h("input", { type: "checkbox", id: "compare" });
  const slides = h("div", { class: "slides" });
  compare.checked = chosen.other !== undefined;
  compare.addEventListener("change", () => {
    chosen.other = compare.checked ? Math.max(1, chosen.at - 1) : undefined;
    controls();
    later(0);
  });
  function controls() {
    slides.replaceChildren(choose("at", "State after event", "at"), ...(chosen.other === undefined ? [] : [choose("other", "Compared with event", "other")]));
  }
  controls();
  element.replaceChildren(slides, h("div", { class: "bar" }, h("label", { class: "row", for: "compare" }, compare, "Compare with another event"), told), problem, shown);

  let timer;
  let request = new AbortController();
  signal.addEventListener("abort", () => (clearTimeout(timer), request.abort()));
  function later(ms) {
    clearTimeout(timer);
    timer = setTimeout(() => void load(), ms);
  }

  /** The state after an event of that number. */
  async function stateAt(ordinal, asked) {
    const [event] = await askLines(`${base}/events?ordinal=${ordinal}&limit=1`, asked);
    if (event === undefined) throw new Error(`there is no event ${ordinal} in the log`);
    const text = await askText(`${base}/state?at=${event.eventId}`, STATE_BYTES_MAX, asked);
    if (text === undefined) throw new Error(`the state is larger than ${STATE_BYTES_MAX >> 20} MiB; insieme-backend state writes it to a file`);
    return { event, ...JSON.parse(text) };
  }

  async function load() {
    request.abort();
    const mine = (request = new AbortController());
    const { at, other } = chosen;
    shown.classList.add("old");
    try {
      const [now, then] = await Promise.all([at, other].map((ordinal) => (ordinal === undefined ? undefined : stateAt(ordinal, { signal: mine.signal }))));
      if (mine.signal.aborted) return;
      problem.textContent = "";
      told.textContent = `Event ${number(now.event.ordinal)} of ${number(total)}, id ${now.eventId}: ${now.event.type}, ${moment(now.event.timestamp)}. Hash ${now.hash.slice(0, 16)}.`;
      const parts = [h("section", { class: "sheet" }, h("h3", {}, "State"), h("div", { class: "tree", "data-role": "tree" }, tree(now.state, opened)))];
      if (then) parts.unshift(changes(now, then));
      shown.replaceChildren(...parts);
      shown.classList.remove("old");
    } catch (error) {
      if (mine.signal.aborted) return;
      problem.textContent = error.message;
      shown.replaceChildren();
    }
  }

  function changes(now, then) {
    const [from, to] = then.event.ordinal <= now.event.ordinal ? [then, now] : [now, then];
    const { found, whole } = differences(from.state, to.state);
    const title = `From event ${number(from.event.ordinal)} to event ${number(to.event.ordinal)}`;
    const sign = ({ before, after }) => (before === undefined ? ["added", "+"] : after === undefined ? ["removed", "−"] : ["changed", "±"]);
    const rows = found.map((one) => {
      const [kind, mark] = sign(one);
      return h("li", { class: kind },
        h("span", { class: "sign", title: kind }, mark, h("span", { class: "unseen" }, ` ${kind} `)), h("span", { class: "key" }, one.path),
        one.before === undefined ? undefined : h("del", {}, oneLine(one.before)), one.after === undefined ? undefined : h("ins", {}, oneLine(one.after)));
    });
    const none = found.length === 0 ? h("p", {}, "Nothing differs.") : undefined;
    const more = whole ? undefined : h("p", { class: "told" }, "There is more; this is the beginning.");
    return h("section", { class: "sheet" }, h("h3", {}, title), none, h("ul", { class: "changes", "data-role": "changes" }, rows), more);
  }

  await load();
}
