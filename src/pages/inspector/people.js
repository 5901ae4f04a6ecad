// Who is connected: to everything, or to a partition.

import { pagesOf } from "./ask.js";
import { ago, every, h, moment, number, table } from "./dom.js";

const SHOWN_MAX = 500;
const LOOK_MS = 5000;

export function people(main, signal) {
  const element = h("div");
  main.replaceChildren(h("div", { class: "bar" }, h("h2", {}, "People")), element);
  connections(element, "/connections", signal);
}

/** @param {string} where the list */
export function connections(element, where, signal) {
  const told = h("p", { class: "told", role: "status" }, "Asking every frontend…");
  const list = h("div");
  element.replaceChildren(told, list);
  every(
    LOOK_MS, signal,
    async () => {
      const { entries, more, last } = await pagesOf(where, "connections", SHOWN_MAX, { signal });
      const parts = [`${number(last.total)} ${last.total === 1 ? "connection" : "connections"} on ${number(last.frontends.length)} ${last.frontends.length === 1 ? "frontend" : "frontends"}.`];
      if (more) parts.push(`The first ${SHOWN_MAX} are shown.`);
      for (const { id } of last.missing ?? []) parts.push(`${id} does not answer.`);
      for (const { id, why } of last.failed ?? []) parts.push(`${id}: ${why}.`);
      told.textContent = parts.join(" ");
      told.classList.toggle("problem", last.complete === false);
      const rows = entries.map((one) => [
        one.client, one.user ?? "–",
        h("a", { href: `#partition/${encodeURIComponent(one.partition)}` }, one.partition),
        one.dialect, one.version ?? "–", one.address, moment(one.since), one.lastHeartbeat ? `${ago(one.lastHeartbeat)} ago` : "–", one.frontend,
      ]);
      list.replaceChildren(table("Connections", ["Client", "User", "Partition", "Dialect", "Version", "Address", "Since", "Heard", "Frontend"], rows));
    },
    (error) => {
      told.textContent = error.message;
      told.classList.add("problem");
    },
  );
}
