// @ts-check
/// <reference path="../../src/cli/rules/template/rules.d.ts" />

/**
 * A calendar of rooms: no two bookings of a room overlap, and a booking is changed by who made it. Times are minutes
 * since some midnight; a booking ends before the next may begin.
 */

export const version = 1;

/** @typedef {{ rooms: Record<string, { name: string, bookings: Booking[] }>, roomOf: Record<string, string> }} Calendar */
/** @typedef {{ id: string, start: number, end: number, title: string, by: string }} Booking */

/** @returns {Calendar} */
export const initialState = () => ({ rooms: {}, roomOf: {} });

const id = { type: "string", pattern: "^[A-Za-z0-9_-]{1,64}$" };
const text = { type: "string", minLength: 1, maxLength: 200 };
const minute = { type: "integer", minimum: 0, maximum: 10_000_000 };
/** @param {Record<string, object>} properties */
const all = (properties) => ({ type: "object", properties, required: Object.keys(properties), additionalProperties: false });
/** @param {Record<string, any>} object @param {string} key */
const has = (object, key) => Object.hasOwn(object, key);

/** How many of a room's bookings, which stand in their order, begin before `start`. Halves them, so a full room is quick. */
const before = (bookings, start) => {
  let [low, high] = [0, bookings.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (bookings[middle].start < start) low = middle + 1;
    else high = middle;
  }
  return low;
};

const checkFree = (room, { start, end }, without, reject) => {
  if (start >= end) return reject("EMPTY", "payload.end", "a booking ends after it begins");
  const at = before(room.bookings, start);
  // The booking itself may stand between, when it is moved.
  const near = [at - 2, at - 1, at, at + 1].map((place) => room.bookings[place]);
  const taken = near.find((other) => other && other.id !== without && other.start < end && start < other.end);
  if (taken) reject("TAKEN", "payload.start", `${taken.title} is there from ${taken.start} to ${taken.end}`);
};

const isOwn = ({ state, payload, client, reject }) => {
  if (!has(state.roomOf, payload.id)) return void reject("BOOKING_NOT_FOUND", "payload.id");
  const room = state.rooms[state.roomOf[payload.id]];
  const booking = room.bookings.find((booking) => booking.id === payload.id);
  if (booking.by !== (client.userId ?? client.clientId)) return void reject("NOT_YOURS", "payload.id");
  return room;
};

const take = (state, bookingId) => {
  const { bookings } = state.rooms[state.roomOf[bookingId]];
  return bookings.splice(bookings.findIndex((booking) => booking.id === bookingId), 1)[0];
};

/** @type {Insieme.Events<Calendar>} */
export const events = {
  "room.added": {
    schema: all({ id, name: text }),
    allow: ({ client }) => client.roles.includes("host"),
    check: ({ state, payload, reject }) => {
      if (has(state.rooms, payload.id)) reject("ROOM_EXISTS", "payload.id");
    },
    reduce: ({ state, payload }) => {
      state.rooms[payload.id] = { name: payload.name, bookings: [] };
    },
  },
  "room.booked": {
    schema: all({ id, room: id, start: minute, end: minute, title: text }),
    check: ({ state, payload, reject }) => {
      if (has(state.roomOf, payload.id)) reject("BOOKING_EXISTS", "payload.id");
      if (!has(state.rooms, payload.room)) return reject("ROOM_NOT_FOUND", "payload.room");
      checkFree(state.rooms[payload.room], payload, undefined, reject);
    },
    reduce: ({ state, payload, event }) => {
      const { id, room, start, end, title } = payload;
      const { bookings } = state.rooms[room];
      bookings.splice(before(bookings, start), 0, { id, start, end, title, by: event.userId ?? event.clientId });
      state.roomOf[id] = room;
    },
  },
  "booking.moved": {
    schema: all({ id, start: minute, end: minute }),
    check: (given) => {
      const room = isOwn(given);
      if (room) checkFree(room, given.payload, given.payload.id, given.reject);
    },
    reduce: ({ state, payload }) => {
      const booking = take(state, payload.id);
      booking.start = payload.start;
      booking.end = payload.end;
      const { bookings } = state.rooms[state.roomOf[payload.id]];
      bookings.splice(before(bookings, payload.start), 0, booking);
    },
  },
  "booking.cancelled": {
    schema: all({ id }),
    check: (given) => void isOwn(given),
    reduce: ({ state, payload }) => {
      take(state, payload.id);
      delete state.roomOf[payload.id];
    },
  },
};
