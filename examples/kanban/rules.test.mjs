// The board's rules, tried in Node:  node --test examples/kanban

import assert from "node:assert/strict";
import { test } from "node:test";
import { Partition } from "../try.mjs";
import * as rules from "./rules.js";

const board = () => {
  const board = new Partition(rules);
  board.submit("column.added", { id: "todo", title: "To do", limit: 2 });
  board.submit("column.added", { id: "done", title: "Done", limit: 1 });
  board.submit("card.added", { id: "c1", title: "one", column: "todo" });
  return board;
};

test("a column takes no more cards than its limit", () => {
  const here = board();
  assert.deepEqual(here.submit("card.added", { id: "c2", title: "two", column: "todo" }), []);
  assert.deepEqual(here.submit("card.added", { id: "c3", title: "three", column: "todo" }), ["COLUMN_FULL payload.column"]);
  assert.deepEqual(here.submit("card.moved", { id: "c1", column: "done", index: 0 }), []);
  assert.deepEqual(here.submit("card.moved", { id: "c2", column: "done", index: 0 }), ["COLUMN_FULL payload.column"]);
  assert.deepEqual(here.submit("card.added", { id: "c3", title: "three", column: "todo" }), []);
});

test("within a full column cards still change places", () => {
  const here = board();
  here.submit("card.added", { id: "c2", title: "two", column: "todo" });
  assert.deepEqual(here.submit("card.moved", { id: "c2", column: "todo", index: 0 }), []);
  assert.deepEqual(here.state.columns.todo.cards, ["c2", "c1"]);
});

test("only its owner changes a card", () => {
  const here = board();
  for (const [type, payload] of [
    ["card.titled", { id: "c1", title: "mine" }],
    ["card.moved", { id: "c1", column: "done", index: 0 }],
    ["card.removed", { id: "c1" }],
  ]) {
    assert.deepEqual(here.submit(type, payload, "bob"), ["NOT_YOURS payload.id"]);
  }
  assert.deepEqual(here.submit("card.removed", { id: "c1" }), []);
  assert.deepEqual(here.state.columns.todo.cards, []);
  assert.deepEqual(here.state.cards, {});
});

test("columns keep an order", () => {
  const here = board();
  here.submit("column.moved", { id: "done", index: 0 });
  assert.deepEqual(here.state.order, ["done", "todo"]);
});
