// Drafts as a busy board sees them, most of them possible.

const CLIENTS = ["alice", "bob", "carol"];

/** The next draft for a state: `[type, payload, client]`. */
export const draft = (below, state) => {
  const columns = [...state.order, "nowhere"];
  const cards = Object.keys(state.cards);
  const client = CLIENTS[below(CLIENTS.length)];
  const column = columns[below(columns.length)];
  const index = below(6);
  const own = cards.filter((id) => state.cards[id].owner === client);
  const id = below(8) === 0 || own.length === 0 ? `c${below(500)}` : own[below(own.length)];
  const title = ["a card", "déjà vu", "😀", "\u2028", "10"][below(5)];
  switch (below(12)) {
    case 0: return ["column.added", { id: `col${below(12)}`, title, limit: 1 + below(20) }, client];
    case 1: return ["column.moved", { id: column, index }, client];
    case 2: case 3: case 4: case 5: return ["card.added", { id: `c${below(500)}`, title, column }, client];
    case 6: return ["card.titled", { id, title }, client];
    case 7: case 8: case 9: case 10: return ["card.moved", { id, column, index }, client];
    default: return ["card.removed", { id }, client];
  }
};
