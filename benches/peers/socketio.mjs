#!/usr/bin/env node
// Socket.IO with acknowledgements: an event gets its room's next number, goes to everyone else in the room,
// and is acknowledged. It is what many people build first. Nothing is checked, stored or remembered.
//
//     node socketio.mjs
//
// Prints `peer ready: ws://…`.

import { createServer } from "node:http";
import { Server } from "socket.io";

const http = createServer();
const io = new Server(http, { transports: ["websocket"], perMessageDeflate: false, serveClient: false });
const last = new Map();

io.on("connection", (socket) => {
  const { room } = socket.handshake.auth;
  socket.join(room);
  socket.on("submit", (event, acknowledge) => {
    const committedId = (last.get(room) ?? 0) + 1;
    last.set(room, committedId);
    socket.to(room).emit("event", { ...event, committedId });
    acknowledge({ id: event.id, committedId });
  });
});

http.listen({ host: "127.0.0.1", port: 0, backlog: 1024 }, () => {
  console.log(`peer ready: ws://127.0.0.1:${http.address().port}/socket.io/?EIO=4&transport=websocket`);
});
