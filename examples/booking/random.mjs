// Drafts as a busy calendar sees them, most of them possible.

const CLIENTS = ["alice", "bob"];

/** The next draft for a state: `[type, payload, client]`. */
export const draft = (below, state) => {
  const rooms = [...Object.keys(state.rooms), "nowhere"];
  const room = rooms[below(rooms.length)];
  const start = below(3_000);
  const end = start + below(60);
  const booked = Object.keys(state.roomOf);
  const id = booked.length === 0 || below(6) === 0 ? `b${below(5_000)}` : booked[below(booked.length)];
  const client = CLIENTS[below(CLIENTS.length)];
  switch (below(10)) {
    case 0: return ["room.added", { id: `room${below(6)}`, name: "A room" }, client];
    case 1: case 2: return ["booking.moved", { id, start, end }, client];
    case 3: return ["booking.cancelled", { id }, client];
    default: return ["room.booked", { id: `b${below(5_000)}`, room, start, end, title: "A meeting" }, client];
  }
};
