// The page of the browser tests: one client, made from the address, and what it told.

import { createClient } from "/src/index.js";
import { indexedDbStore } from "/src/indexeddb.js";
import { tabs } from "/src/tabs.js";

const given = new URLSearchParams(location.search);
window.violations = [];
document.addEventListener("securitypolicyviolation", ({ violatedDirective }) => window.violations.push(violatedDirective));

window.shows = [];
window.addEventListener("pageshow", ({ persisted }) => window.shows.push(persisted));

const partition = given.get("partition");
window.openClient = (store = indexedDbStore({ name: partition })) =>
  createClient({ url: given.get("url"), partition, store, ...(given.get("tabs") ? { tabs: tabs() } : {}) });

/** What was told of snapshots: how often in all, without a change, twice in a frame, with a card that stands twice. */
Object.assign(window, { told: 0, unchanged: 0, tooOften: 0, doubled: 0, progress: [] });

function watch(client) {
  let last = client.getSnapshot();
  let frame = 0;
  let at = 0;
  client.subscribe(() => {
    const snapshot = client.getSnapshot();
    window.told += 1;
    if (snapshot === last || snapshot !== client.getSnapshot()) window.unchanged += 1;
    if (document.timeline.currentTime === frame && performance.now() - at < 15) window.tooOften += 1;
    [last, frame, at] = [snapshot, document.timeline.currentTime, performance.now()];
    const ids = (snapshot.list ?? { tree: [] }).tree.map(({ id }) => id);
    if (new Set(ids).size !== ids.length) window.doubled += 1;
  });
  client.on("status", ({ synced, cursor, head }) => window.progress.push({ synced, cursor, head }));
}

if (!given.get("bare")) {
  window.client = window.openClient();
  watch(window.client);
}

window.ticks = 0;
setInterval(() => (window.ticks += 1), 50);
