// All partitions: searched, sorted, with how fast they grow.

import { pagesOf } from "./ask.js";
import { ago, count, every, h, table } from "./dom.js";

const READ_MAX = 2000;
const SHOWN_MAX = 300;
const LOOK_MS = 10_000;

/** How a search and an order are kept from one visit to the next. */
const choice = { search: "", by: "events", down: true };
const COLUMNS = [
  ["partition", "Partition"],
  ["events", "Events"],
  ["rate", "Events a minute"],
  ["lastTimestamp", "Last event"],
  ["slot", "Slot"],
];

export function partitions(main, signal) {
  const search = h("input", { type: "search", "aria-label": "Search partitions", placeholder: "Search", value: choice.search, oninput: () => ((choice.search = search.value), draw()) });
  const name = h("input", { type: "text", "aria-label": "A partition’s name", placeholder: "Name", required: true });
  const open = h("form", { class: "row", onsubmit: (event) => (event.preventDefault(), (location.hash = `partition/${encodeURIComponent(name.value)}`)) }, name, h("button", { type: "submit" }, "Open"));
  const told = h("p", { class: "told", role: "status" }, "Looking…");
  const list = h("div");
  main.replaceChildren(h("div", { class: "bar" }, h("h2", {}, "Partitions"), search, open), told, list);

  let read = { entries: [], more: false, last: { total: 0 } };
  let before = new Map();
  let at = 0;

  async function look() {
    const now = Date.now();
    read = await pagesOf("/partitions", "partitions", READ_MAX, { signal });
    for (const entry of read.entries) {
      const earlier = before.get(entry.partition);
      entry.rate = earlier === undefined ? undefined : ((entry.events - earlier) * 60_000) / (now - at);
    }
    before = new Map(read.entries.map(({ partition, events }) => [partition, events]));
    at = now;
    draw();
  }

  function draw() {
    const wanted = choice.search.toLowerCase();
    const found = read.entries.filter(({ partition }) => partition.toLowerCase().includes(wanted));
    const value = (entry) => entry[choice.by] ?? -1;
    found.sort((a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0) * (choice.down ? -1 : 1));
    const parts = [`${found.length.toLocaleString("en")} of ${read.last.total.toLocaleString("en")} partitions.`];
    if (read.more) parts.push(`Only the first ${READ_MAX.toLocaleString("en")} are read; open others by name.`);
    if (found.length > SHOWN_MAX) parts.push(`The first ${SHOWN_MAX} are shown; search for the rest.`);
    told.textContent = parts.join(" ");
    told.classList.remove("problem");
    const heads = COLUMNS.map(([key, title]) =>
      h("th", { scope: "col", "aria-sort": choice.by === key ? (choice.down ? "descending" : "ascending") : undefined },
        h("button", { type: "button", onclick: () => sortBy(key) }, title, h("span", { "aria-hidden": "true" }, choice.by === key ? (choice.down ? " ↓" : " ↑") : ""))),
    );
    const rows = found.slice(0, SHOWN_MAX).map((entry) => [
      h("a", { href: `#partition/${encodeURIComponent(entry.partition)}` }, entry.partition === "" ? "(no name)" : entry.partition),
      count(entry.events),
      h("td", { class: "number" }, entry.rate === undefined ? "–" : entry.rate.toFixed(entry.rate < 10 ? 1 : 0)),
      h("td", { class: "number" }, entry.lastTimestamp ? `${ago(entry.lastTimestamp)} ago` : "–"),
      count(entry.slot),
    ]);
    const focused = document.activeElement?.closest("th")?.cellIndex;
    list.replaceChildren(table("Partitions", heads, rows));
    if (focused !== undefined) list.querySelectorAll("th button")[focused]?.focus();
  }

  function sortBy(key) {
    Object.assign(choice, choice.by === key ? { down: !choice.down } : { by: key, down: key !== "partition" && key !== "slot" });
    draw();
  }

  every(LOOK_MS, signal, look, (error) => {
    told.textContent = error.status === 403 ? `${error.message}. Open a partition by its name.` : error.message;
    told.classList.add("problem");
  });
}
