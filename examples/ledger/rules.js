// @ts-check
/// <reference path="../../src/cli/rules/template/rules.d.ts" />

/**
 * A double-entry ledger. Each transfer takes from one account what it adds to another; no account but the bank's goes
 * below zero; nothing is ever changed or deleted: a correction is a transfer back, made once.
 */

export const version = 1;

/** @typedef {{ accounts: Record<string, { name: string, balance: number }>, transfers: Record<string, Transfer> }} Ledger */
/** @typedef {{ from: string, to: string, cents: number, at: number, correctedBy: string | null }} Transfer */

/** The one account that may owe: money comes from it and goes back to it. */
const BANK = "bank";
/** With these bounds every sum is a whole number that a double holds exactly. */
const CENTS_MAX = 1_000_000_000;
const BALANCE_MAX = 1_000_000_000_000;

/** @returns {Ledger} */
export const initialState = () => ({ accounts: { [BANK]: { name: "Bank", balance: 0 } }, transfers: {} });

const id = { type: "string", pattern: "^[A-Za-z0-9_-]{1,64}$" };
/** @param {Record<string, object>} properties */
const all = (properties) => ({ type: "object", properties, required: Object.keys(properties), additionalProperties: false });
/** @param {Record<string, any>} object @param {string} key */
const has = (object, key) => Object.hasOwn(object, key);

/** What stands against a transfer between these accounts. */
const checkTransfer = (accounts, { from, to, cents }, reject) => {
  if (!has(accounts, from)) reject("ACCOUNT_NOT_FOUND", "payload.from");
  if (!has(accounts, to)) reject("ACCOUNT_NOT_FOUND", "payload.to");
  if (from === to) reject("SAME_ACCOUNT", "payload.to");
  if (!has(accounts, from) || !has(accounts, to)) return;
  if (from !== BANK && accounts[from].balance < cents) {
    reject("NOT_COVERED", "payload.cents", `the account has ${accounts[from].balance} cents`);
  }
  if (Math.abs(accounts[to].balance) + cents > BALANCE_MAX || Math.abs(accounts[from].balance) + cents > BALANCE_MAX) {
    reject("TOO_LARGE", "payload.cents");
  }
};

const transfer = (state, transferId, from, to, cents, at) => {
  state.accounts[from].balance -= cents;
  state.accounts[to].balance += cents;
  state.transfers[transferId] = { from, to, cents, at, correctedBy: null };
};

/** @type {Insieme.Events<Ledger>} */
export const events = {
  "account.opened": {
    schema: all({ id, name: { type: "string", minLength: 1, maxLength: 100 } }),
    check: ({ state, payload, reject }) => {
      if (has(state.accounts, payload.id)) reject("ACCOUNT_EXISTS", "payload.id");
    },
    reduce: ({ state, payload }) => {
      state.accounts[payload.id] = { name: payload.name, balance: 0 };
    },
  },
  "money.transferred": {
    schema: all({ id, from: id, to: id, cents: { type: "integer", minimum: 1, maximum: CENTS_MAX } }),
    allow: ({ client, payload }) => payload.from !== BANK || client.roles.includes("teller"),
    check: ({ state, payload, reject }) => {
      if (has(state.transfers, payload.id)) reject("TRANSFER_EXISTS", "payload.id");
      checkTransfer(state.accounts, payload, reject);
    },
    reduce: ({ state, payload, event }) => {
      transfer(state, payload.id, payload.from, payload.to, payload.cents, event.serverTs);
    },
  },
  "transfer.corrected": {
    schema: all({ id, transfer: id }),
    allow: ({ client }) => client.roles.includes("teller"),
    check: ({ state, payload, reject }) => {
      if (has(state.transfers, payload.id)) reject("TRANSFER_EXISTS", "payload.id");
      if (!has(state.transfers, payload.transfer)) return reject("TRANSFER_NOT_FOUND", "payload.transfer");
      const { from, to, cents, correctedBy } = state.transfers[payload.transfer];
      if (correctedBy !== null) return reject("CORRECTED_ALREADY", "payload.transfer", `by ${correctedBy}`);
      checkTransfer(state.accounts, { from: to, to: from, cents }, reject);
    },
    reduce: ({ state, payload, event }) => {
      const corrected = state.transfers[payload.transfer];
      transfer(state, payload.id, corrected.to, corrected.from, corrected.cents, event.serverTs);
      corrected.correctedBy = payload.id;
    },
  },
};
