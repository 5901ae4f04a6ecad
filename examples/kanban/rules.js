// @ts-check
/// <reference path="../../src/cli/rules/template/rules.d.ts" />

/**
 * A kanban board: columns in an order, cards in columns, a limit to each column, and cards that only their owners
 * change.
 */

export const version = 1;

/** @typedef {{ order: string[], columns: Record<string, Column>, cards: Record<string, Card> }} Board */
/** @typedef {{ title: string, limit: number, cards: string[] }} Column */
/** @typedef {{ title: string, owner: string, column: string }} Card */

/** @returns {Board} */
export const initialState = () => ({ order: [], columns: {}, cards: {} });

const id = { type: "string", pattern: "^[A-Za-z0-9_-]{1,64}$" };
const title = { type: "string", minLength: 1, maxLength: 200 };
const index = { type: "integer", minimum: 0 };
/** @param {Record<string, object>} properties */
const all = (properties) => ({ type: "object", properties, required: Object.keys(properties), additionalProperties: false });

/** @param {Record<string, any>} object @param {string} key */
const has = (object, key) => Object.hasOwn(object, key);

/** Card `payload.id` is there, and the client's own. */
const isOwn = ({ state, payload, client, reject }) => {
  if (!has(state.cards, payload.id)) {
    reject("CARD_NOT_FOUND", "payload.id");
    return false;
  }
  if (state.cards[payload.id].owner !== (client.userId ?? client.clientId)) {
    reject("NOT_YOURS", "payload.id", "only its owner changes a card");
    return false;
  }
  return true;
};

/** Column `payload.column` is there, and takes one card more. */
const hasRoom = ({ state, payload, reject }) => {
  if (!has(state.columns, payload.column)) return reject("COLUMN_NOT_FOUND", "payload.column");
  const { limit, cards } = state.columns[payload.column];
  if (cards.length >= limit) reject("COLUMN_FULL", "payload.column", `this column takes at most ${limit} cards`);
};

/** @type {Insieme.Events<Board>} */
export const events = {
  "column.added": {
    schema: all({ id, title, limit: { type: "integer", minimum: 1, maximum: 100 } }),
    allow: ({ client }) => client.roles.includes("owner"),
    check: ({ state, payload, reject }) => {
      if (has(state.columns, payload.id)) reject("COLUMN_EXISTS", "payload.id");
    },
    reduce: ({ state, payload }) => {
      state.columns[payload.id] = { title: payload.title, limit: payload.limit, cards: [] };
      state.order.push(payload.id);
    },
  },
  "column.moved": {
    schema: all({ id, index }),
    allow: ({ client }) => client.roles.includes("owner"),
    check: ({ state, payload, reject }) => {
      if (!has(state.columns, payload.id)) reject("COLUMN_NOT_FOUND", "payload.id");
    },
    reduce: ({ state, payload }) => {
      state.order.splice(state.order.indexOf(payload.id), 1);
      state.order.splice(payload.index, 0, payload.id);
    },
  },
  "card.added": {
    schema: all({ id, title, column: id }),
    check: ({ state, payload, reject }) => {
      if (has(state.cards, payload.id)) reject("CARD_EXISTS", "payload.id");
      hasRoom({ state, payload, reject });
    },
    reduce: ({ state, payload, event }) => {
      const { id, title, column } = payload;
      state.cards[id] = { title, column, owner: event.userId ?? event.clientId };
      state.columns[column].cards.push(id);
    },
  },
  "card.titled": {
    schema: all({ id, title }),
    check: (given) => void isOwn(given),
    reduce: ({ state, payload }) => {
      state.cards[payload.id].title = payload.title;
    },
  },
  "card.moved": {
    schema: all({ id, column: id, index }),
    check: (given) => {
      // Within its own column a card takes no room that it does not have.
      if (isOwn(given) && given.state.cards[given.payload.id].column !== given.payload.column) hasRoom(given);
    },
    reduce: ({ state, payload }) => {
      const card = state.cards[payload.id];
      const from = state.columns[card.column].cards;
      from.splice(from.indexOf(payload.id), 1);
      state.columns[payload.column].cards.splice(payload.index, 0, payload.id);
      card.column = payload.column;
    },
  },
  "card.removed": {
    schema: all({ id }),
    check: (given) => void isOwn(given),
    reduce: ({ state, payload }) => {
      const { cards } = state.columns[state.cards[payload.id].column];
      cards.splice(cards.indexOf(payload.id), 1);
      delete state.cards[payload.id];
    },
  },
};
