// The board as the partition's state has it, and the drafts that change it. No DOM.
//
// Each column is a tree. "Doing" has three places, by name; whoever pushes a card into one that is taken is refused
// by the server (DUPLICATE_ID), however late he comes. A move is the card in its new place first; the old one is given
// back once nothing waits, so that a card that is refused is still where it was.

export const COLUMNS = [
  { id: "todo", title: "To do" },
  { id: "doing", title: "Doing", limit: 3 },
  { id: "done", title: "Done" },
];

const PLACE = "place-";

/** @param {string} id */
export const columnOf = (id) => COLUMNS.find((column) => column.id === id);

/** Every copy of every card. */
function copies(state) {
  return COLUMNS.flatMap(({ id }) => {
    const { items = {}, tree = [] } = state[id] ?? {};
    return tree
      .filter((node) => typeof items[node.id]?.card === "string")
      .map((node) => ({ ...items[node.id], column: id, place: node.id }));
  });
}

/** The cards, each where it was put last. */
export function cardsOf(state) {
  const last = new Map();
  for (const copy of copies(state)) {
    if (last.has(copy.card) && last.get(copy.card).step >= copy.step) continue;
    // In the order of the places where they are now.
    last.delete(copy.card);
    last.set(copy.card, copy);
  }
  return [...last.values()];
}

/** A place for a card in a column: in one with a limit a free place, or the last one, whoever has it. */
function placeIn(state, column, card, step) {
  const { limit } = columnOf(column);
  if (!limit) return `${card}-${step}`;
  const taken = state[column]?.items ?? {};
  const places = Array.from({ length: limit }, (_, index) => `${PLACE}${index + 1}`);
  return places.find((place) => !Object.hasOwn(taken, place)) ?? places.at(-1);
}

const push = (column, place, card) => ["treePush", { target: column, value: { id: place, ...card }, options: { position: "last" } }];

/** @returns the draft's type and payload */
export function add(state, column, title, by, card) {
  return push(column, placeIn(state, column, card, 0), { card, title, by, step: 0 });
}

export function move(state, { card, title, step }, column, by) {
  return push(column, placeIn(state, column, card, step + 1), { card, title, by, step: step + 1 });
}

export const rename = ({ column, place }, title) => ["treeUpdate", { target: column, value: { title }, options: { id: place } }];

export const remove = ({ column, place }) => ["treeDelete", { target: column, options: { id: place } }];

/** The places that cards have left: each given back by who moved the card. */
export function left(state, by) {
  const all = copies(state);
  const now = new Map(cardsOf(state).map((card) => [card.card, card]));
  return all.filter(({ card, step }) => now.get(card).step > step && now.get(card).by === by).map(remove);
}

/** What makes the columns, where they are not there yet. It may be done twice, by anybody. */
export const missingColumns = (state) =>
  COLUMNS.filter(({ id }) => !Object.hasOwn(state, id)).map(({ id, title }) => ["set", { target: `${id}.title`, value: title }]);

export const FIRST_CARDS = [
  ["todo", "Choose the paint"],
  ["todo", "Ask the neighbours"],
  ["doing", "Clear the room"],
  ["doing", "Buy brushes"],
];

/** What a refused draft was about, in words. */
export function wordsFor({ type, payload, reason, errors }) {
  const code = errors[0]?.code;
  const column = columnOf(payload.target)?.title ?? payload.target;
  const title = payload.value?.title;
  if (code === "DUPLICATE_ID" && columnOf(payload.target)?.limit) {
    return `“${title}” is not in ${column}: it takes ${columnOf(payload.target).limit} cards, and the last place was taken.`;
  }
  if (code === "NODE_NOT_FOUND") return type === "treeUpdate" ? `“${title}”: that card is gone, or elsewhere by now.` : "That card is gone already.";
  return `The server refused this: ${reason}.`;
}
