// The backend itself: its processes, and who decides which slots.

import { ask } from "./ask.js";
import { ago, count, every, h, number, table } from "./dom.js";

const LOOK_MS = 5000;

export function backend(main, signal) {
  const told = h("p", { class: "told", role: "status" }, "Looking…");
  const problem = h("p", { class: "problem", role: "alert" });
  const element = h("div");
  main.replaceChildren(h("div", { class: "bar" }, h("h2", {}, "Backend")), told, problem, element);
  let isOpen = false;

  every(
    LOOK_MS, signal,
    async () => {
      const [{ processes }, { slots, unowned, validators }] = await Promise.all([ask("/processes", { signal }), ask("/slots", { signal })]);
      problem.textContent = "";
      const lag = slots.reduce((sum, { pendingDrafts }) => sum + pendingDrafts, 0);
      const silent = processes.filter(({ answers }) => !answers).length;
      const parts = [
        `${number(lag)} ${lag === 1 ? "draft waits" : "drafts wait"} for a decision.`,
        unowned === 0 ? `All ${number(slots.length)} slots are owned.` : `${number(unowned)} of ${number(slots.length)} slots have no owner.`,
        silent === 0 ? "All processes answer." : `${number(silent)} of ${number(processes.length)} processes do not answer.`,
      ];
      told.textContent = parts.join(" ");
      told.classList.toggle("problem", unowned > 0 || silent > 0);
      const owners = new Map(validators.map((validator) => [String(validator.id ?? validator), { slots: 0, drafts: 0 }]));
      for (const { owner, pendingDrafts } of slots) {
        const name = owner === null ? "(nobody)" : String(owner);
        const sum = owners.get(name) ?? { slots: 0, drafts: 0 };
        owners.set(name, { slots: sum.slots + 1, drafts: sum.drafts + pendingDrafts });
      }
      const all = h(
        "details", { ontoggle: () => (isOpen = all.open) }, h("summary", {}, "Every slot"),
        table("Slots", ["Slot", "Owner", "Revision", "Drafts that wait"], slots.map(({ slot, owner, revision, pendingDrafts }) => [count(slot), owner ?? "(nobody)", count(revision), count(pendingDrafts)])),
      );
      all.open = isOpen;
      element.replaceChildren(
        h("h3", {}, "Processes"),
        table("Processes", ["Role", "Name", "Version", "Runs for", "Answers", "Heard"], processes.map(({ role, id, version, startedAt, answers, heardMsAgo }) => [
          role, id, version, ago(startedAt), h("td", { class: answers ? "good" : "bad" }, answers ? "yes" : "no"), `${number(Math.round(heardMsAgo / 100) / 10)} s ago`,
        ])),
        h("h3", {}, "Who decides"),
        table("Owners of slots", ["Validator", "Slots", "Drafts that wait"], [...owners].map(([name, sum]) => [name, count(sum.slots), count(sum.drafts)])),
        all,
      );
    },
    (error) => (problem.textContent = error.message),
  );
}
