// The page of the browser tests: one client, made from the address.

import { createClient } from "/src/index.js";
import { indexedDbStore } from "/src/indexeddb.js";
import { tabs } from "/src/tabs.js";

const given = new URLSearchParams(location.search);
window.violations = [];
document.addEventListener("securitypolicyviolation", ({ violatedDirective }) => window.violations.push(violatedDirective));

window.shows = [];
window.addEventListener("pageshow", ({ persisted }) => window.shows.push(persisted));

const partition = given.get("partition");
window.client = createClient({
  url: given.get("url"),
  partition,
  store: indexedDbStore({ name: partition }),
  ...(given.get("tabs") ? { tabs: tabs() } : {}),
});

/** Every snapshot that was told: how often does each card stand in it? */
window.doubled = 0;
window.client.subscribe(() => {
  const ids = (window.client.getSnapshot().list ?? { tree: [] }).tree.map(({ id }) => id);
  if (new Set(ids).size !== ids.length) window.doubled += 1;
});

window.longest = 0;
new PerformanceObserver((list) => {
  for (const { duration } of list.getEntries()) window.longest = Math.max(window.longest, duration);
}).observe({ type: "longtask" });

window.ticks = 0;
setInterval(() => (window.ticks += 1), 50);
