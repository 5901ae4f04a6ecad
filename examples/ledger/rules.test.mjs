// The ledger's rules, tried in Node:  node --test examples/ledger

import assert from "node:assert/strict";
import { test } from "node:test";
import { Partition } from "../try.mjs";
import * as rules from "./rules.js";

const ledger = () => {
  const ledger = new Partition(rules);
  ledger.submit("account.opened", { id: "ann", name: "Ann" });
  ledger.submit("account.opened", { id: "ben", name: "Ben" });
  ledger.submit("money.transferred", { id: "t1", from: "bank", to: "ann", cents: 500 });
  return ledger;
};
const balances = ({ state }) => Object.fromEntries(Object.entries(state.accounts).map(([id, { balance }]) => [id, balance]));

test("no account but the bank's goes below zero", () => {
  const here = ledger();
  assert.deepEqual(here.submit("money.transferred", { id: "t2", from: "ann", to: "ben", cents: 501 }), ["NOT_COVERED payload.cents"]);
  assert.deepEqual(here.submit("money.transferred", { id: "t2", from: "ann", to: "ben", cents: 500 }), []);
  assert.deepEqual(balances(here), { bank: -500, ann: 0, ben: 500 });
});

test("a transfer is made once, and a correction too", () => {
  const here = ledger();
  assert.deepEqual(here.submit("money.transferred", { id: "t1", from: "bank", to: "ann", cents: 1 }), ["TRANSFER_EXISTS payload.id"]);
  assert.deepEqual(here.submit("transfer.corrected", { id: "t2", transfer: "t1" }), []);
  assert.deepEqual(here.submit("transfer.corrected", { id: "t3", transfer: "t1" }), ["CORRECTED_ALREADY payload.transfer"]);
  assert.deepEqual(balances(here), { bank: 0, ann: 0, ben: 0 });
  assert.equal(here.state.transfers.t1.correctedBy, "t2");
});

test("what is spent cannot be corrected away", () => {
  const here = ledger();
  here.submit("money.transferred", { id: "t2", from: "ann", to: "ben", cents: 400 });
  assert.deepEqual(here.submit("transfer.corrected", { id: "t3", transfer: "t1" }), ["NOT_COVERED payload.cents"]);
});
