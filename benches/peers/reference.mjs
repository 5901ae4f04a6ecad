#!/usr/bin/env node
// The npm package's own reference server, as its users run it.
//
//     node reference.mjs memory
//     node reference.mjs FULL|NORMAL FILE      SQLite at that synchronous setting
//
// Takes any token for the client id that it names, and sets no limit on frames, as our server is run here.
// Prints `peer ready: ws://…`.

import { createInMemorySyncStore, createSqliteSyncStore, createSyncServer, createWsServerRuntime } from "insieme/server";
import Database from "libsql";
import { WebSocketServer } from "ws";

const [kind, file] = process.argv.slice(2);

const makeStore = async () => {
  if (kind === "memory") return createInMemorySyncStore();
  if (!["FULL", "NORMAL"].includes(kind) || !file) {
    throw new Error("usage: node reference.mjs memory | FULL FILE | NORMAL FILE");
  }
  const store = createSqliteSyncStore(new Database(file), { synchronous: kind });
  await store.init();
  return store;
};

const syncServer = createSyncServer({
  auth: { verifyToken: async (token) => ({ clientId: token, claims: {} }) },
  authz: { authorizeProject: async () => true },
  validation: { validate: async () => {} },
  store: await makeStore(),
  clock: { now: () => Date.now() },
  limits: { maxInboundMessagesPerWindow: Number.MAX_SAFE_INTEGER },
});
const wsServer = new WebSocketServer({ host: "127.0.0.1", port: 0, backlog: 1024, perMessageDeflate: false });
await new Promise((resolve, reject) => wsServer.once("listening", resolve).once("error", reject));
createWsServerRuntime({ wsServer, syncServer });
console.log(`peer ready: ws://127.0.0.1:${wsServer.address().port}/`);
