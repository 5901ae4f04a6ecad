// Drafts as a busy ledger sees them, most of them possible.

/** The next draft for a state: `[type, payload, client]`. */
export const draft = (below, state) => {
  const accounts = [...Object.keys(state.accounts), "nobody"];
  const account = () => accounts[below(accounts.length)];
  const id = `t${below(100_000)}`;
  switch (below(10)) {
    case 0: return ["account.opened", { id: `a${below(40)}`, name: "An account" }, "teller"];
    case 1: case 2: case 3: return ["money.transferred", { id, from: "bank", to: account(), cents: 1 + below(100_000_000) }, "teller"];
    case 4: return ["transfer.corrected", { id, transfer: `t${below(100_000)}` }, "teller"];
    default: return ["money.transferred", { id, from: account(), to: account(), cents: 1 + below(50_000_000) }, "alice"];
  }
};
