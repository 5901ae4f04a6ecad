// One partition: its log, its state, and who is connected to it.

import { path } from "./ask.js";
import { h } from "./dom.js";
import { log } from "./log.js";
import { connections } from "./people.js";
import { state } from "./state.js";

const PARTS = [
  ["log", "Log", log],
  ["state", "State", state],
  ["people", "Connections", (element, name, signal) => connections(element, `${path("partitions", name)}/connections`, signal)],
];

export function partition(main, name, part, signal) {
  const [chosen, given] = part.split("@");
  const links = PARTS.map(([id, title]) =>
    h("a", { href: `#partition/${encodeURIComponent(name)}/${id}`, "aria-current": id === chosen ? "page" : undefined }, title),
  );
  const element = h("div");
  main.replaceChildren(
    h("div", { class: "bar" }, h("h2", { class: "name" }, name), h("nav", { class: "parts", "aria-label": "Parts of the partition" }, links)),
    element,
  );
  const show = PARTS.find(([id]) => id === chosen)?.[2] ?? log;
  show(element, name, signal, given);
}
