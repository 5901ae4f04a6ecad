// The calendar's rules, tried in Node:  node --test examples/booking

import assert from "node:assert/strict";
import { test } from "node:test";
import { Partition, random } from "../try.mjs";
import { draft } from "./random.mjs";
import * as rules from "./rules.js";

const calendar = () => {
  const calendar = new Partition(rules);
  calendar.submit("room.added", { id: "red", name: "Red room" });
  calendar.submit("room.booked", { id: "b1", room: "red", start: 60, end: 120, title: "Stand-up" });
  return calendar;
};

test("two bookings of a room do not overlap", () => {
  const here = calendar();
  for (const [start, end] of [[60, 120], [0, 61], [119, 200], [70, 80], [0, 500]]) {
    assert.deepEqual(here.submit("room.booked", { id: "b2", room: "red", start, end, title: "x" }), ["TAKEN payload.start"], `${start} to ${end}`);
  }
  assert.deepEqual(here.submit("room.booked", { id: "b2", room: "red", start: 120, end: 180, title: "after" }), []);
  assert.deepEqual(here.submit("room.booked", { id: "b3", room: "red", start: 0, end: 60, title: "before" }), []);
  assert.deepEqual(here.state.rooms.red.bookings.map(({ id }) => id), ["b3", "b1", "b2"]);
});

test("a booking may be moved over its own time, by who made it", () => {
  const here = calendar();
  assert.deepEqual(here.submit("booking.moved", { id: "b1", start: 90, end: 150 }, "bob"), ["NOT_YOURS payload.id"]);
  assert.deepEqual(here.submit("booking.moved", { id: "b1", start: 90, end: 150 }), []);
  assert.deepEqual(here.submit("booking.moved", { id: "b1", start: 150, end: 150 }), ["EMPTY payload.end"]);
  assert.deepEqual(here.submit("booking.cancelled", { id: "b1" }), []);
  assert.deepEqual(here.state.rooms.red.bookings, []);
});

test("whatever is submitted, no two bookings overlap", () => {
  const here = new Partition(rules);
  const below = random(7);
  for (let n = 0; n < 20_000; n++) here.submit(...draft(below, here.state));
  assert.ok(here.log.length > 1_000);
  for (const { bookings } of Object.values(here.state.rooms)) {
    bookings.forEach((booking, at) => assert.ok(at === 0 || bookings[at - 1].end <= booking.start));
  }
});
