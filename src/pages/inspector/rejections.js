// Drafts that are rejected, as it happens. What a validator answers names the connection; whose that is, is asked for.

import { followForever, pagesOf } from "./ask.js";
import { h, moment, number, short } from "./dom.js";

const KEPT_MAX = 200;
const KNOWN_MAX = 2000;
const ASK_MS = 3000;

export function rejections(main, signal) {
  const told = h("p", { class: "told", role: "status" });
  const problem = h("p", { class: "problem", role: "alert" });
  const list = h("ol", { class: "rejections", "data-role": "rejections" });
  main.replaceChildren(h("div", { class: "bar" }, h("h2", {}, "Rejections")), told, problem, list);

  const kept = [];
  let whose = new Map();
  let askedAt = 0;
  let count = 0;
  let skipped = 0;
  let drawing = false;

  /** Looks up whose connections these are: at most so often, and only if one is not known. */
  async function learn() {
    if (signal.aborted || Date.now() - askedAt < ASK_MS) return;
    if (kept.every((one) => whose.has(key(one)))) return;
    askedAt = Date.now();
    try {
      const { entries } = await pagesOf("/connections", "connections", KNOWN_MAX, { signal });
      const known = new Map(entries.map((one) => [`${one.frontend} ${one.connection}`, one]));
      // Those that are gone by now are still named where they are shown.
      for (const one of kept) {
        const name = key(one);
        if (!known.has(name)) known.set(name, whose.get(name));
      }
      whose = known;
      later();
    } catch (error) {
      if (!signal.aborted) problem.textContent = error.message;
    }
  }
  const timer = setInterval(() => void learn(), ASK_MS);
  signal.addEventListener("abort", () => clearInterval(timer));

  const key = ({ frontend, connection }) => `${frontend} ${connection}`;

  function row(one) {
    const who = whose.get(key(one));
    return h(
      "li", {},
      h("span", { class: "when" }, moment(one.at, false)),
      h("b", {}, one.reason),
      h("span", {}, who ? [who.user ?? who.client, " in ", h("a", { href: `#partition/${encodeURIComponent(who.partition)}` }, who.partition)] : `connection ${one.connection} of ${one.frontend}`),
      h("ul", {}, one.errors.map((error) => h("li", {}, h("code", {}, short(error.code, 80)), ` ${short(error.field, 120)} `, short(error.message, 400)))),
      one.findings > one.errors.length ? h("span", { class: "told" }, `and ${number(one.findings - one.errors.length)} more findings`) : undefined,
    );
  }

  function draw() {
    drawing = false;
    const parts = [count === 0 ? "None since this page was opened." : `${number(count)} since this page was opened.`];
    if (count - skipped > KEPT_MAX) parts.push(`The last ${KEPT_MAX} are shown.`);
    if (skipped > 0) parts.push(`Sampled: ${number(skipped)} were only counted.`);
    told.textContent = parts.join(" ");
    list.replaceChildren(...kept.map(row));
  }
  function later() {
    if (drawing) return;
    drawing = true;
    requestAnimationFrame(draw);
  }
  draw();

  void followForever(
    () => "/rejections", signal,
    (texts) => {
      for (const text of texts) {
        const one = JSON.parse(text);
        count += one.skipped;
        skipped += one.skipped;
        // What was left out in a second comes by itself when nothing else does.
        if (one.reason === undefined) continue;
        count += 1;
        kept.unshift(one);
      }
      kept.length = Math.min(kept.length, KEPT_MAX);
      later();
      void learn();
    },
    (why) => (problem.textContent = why),
  );
}
