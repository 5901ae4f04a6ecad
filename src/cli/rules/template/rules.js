// @ts-check
/// <reference path="./rules.d.ts" />

/** The rules of a board: columns that take five cards each. Server and clients run this same file. */

export const version = 1;

/** @typedef {{ columns: Record<string, { title: string, cards: string[] }>, cards: Record<string, { title: string, owner: string }> }} Board */

/** @returns {Board} */
export const initialState = () => ({ columns: {}, cards: {} });

const text = { type: "string", minLength: 1, maxLength: 200 };

/** @type {Insieme.Events<Board>} */
export const events = {
  "column.added": {
    schema: {
      type: "object",
      required: ["id", "title"],
      properties: { id: text, title: text },
      additionalProperties: false,
    },
    check: ({ state, payload, reject }) => {
      if (Object.hasOwn(state.columns, payload.id)) reject("COLUMN_EXISTS", "payload.id");
    },
    reduce: ({ state, payload }) => {
      state.columns[payload.id] = { title: payload.title, cards: [] };
    },
  },

  "card.added": {
    schema: {
      type: "object",
      required: ["id", "title", "column"],
      properties: { id: text, title: text, column: text },
      additionalProperties: false,
    },
    check: ({ state, payload, reject }) => {
      if (Object.hasOwn(state.cards, payload.id)) reject("CARD_EXISTS", "payload.id");
      if (!Object.hasOwn(state.columns, payload.column)) return reject("COLUMN_NOT_FOUND", "payload.column");
      if (state.columns[payload.column].cards.length >= 5) {
        reject("COLUMN_FULL", "payload.column", "this column takes at most five cards");
      }
    },
    reduce: ({ state, payload, event }) => {
      state.cards[payload.id] = { title: payload.title, owner: event.clientId };
      state.columns[payload.column].cards.push(payload.id);
    },
  },
};
