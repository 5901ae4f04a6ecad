// Folds committed events and prints the SHA-256 of the canonical state.
//
//     insieme-backend log PARTITION | node fold.mjs
import { createHash } from "node:crypto";
import { createInterface } from "node:readline";
import { canonical, fold } from "./events.mjs";

let state = {};
for await (const line of createInterface({ input: process.stdin })) {
  if (line !== "") state = fold(state, JSON.parse(line));
}
console.log(createHash("sha256").update(canonical(state)).digest("hex"));
