#!/usr/bin/env node
// The npm package's own reference server on a free port, to try the runner on.
//
//     node reference.mjs [--port N] [--secret TEXT]
//
// Prints `reference ready: ws://…`. Tokens are HS256 JWTs with the claims clientId, userId?, projectIds, exp.

import { createHmac, timingSafeEqual } from "node:crypto";
import { parseArgs } from "node:util";
import { createInMemorySyncStore, createSyncServer, createWsServerRuntime } from "insieme/server";
import { WebSocketServer } from "ws";

export const startReference = async ({ port = 0, secret = "conformance-secret", validate = () => {}, store = createInMemorySyncStore(), logger } = {}) => {
  const verifyToken = async (token) => {
    const [header, body, signature] = token.split(".");
    const expected = createHmac("sha256", secret).update(`${header}.${body}`).digest();
    const given = Buffer.from(signature ?? "", "base64url");
    if (given.length !== expected.length || !timingSafeEqual(given, expected)) throw new Error("wrong signature");
    const claims = JSON.parse(Buffer.from(body, "base64url").toString());
    if (!(claims.exp * 1000 > Date.now())) throw new Error("expired");
    return { clientId: claims.clientId, claims };
  };
  const syncServer = createSyncServer({
    auth: { verifyToken, validateSession: async ({ claims }) => claims.exp * 1000 > Date.now() },
    authz: { authorizeProject: async ({ claims }, projectId) => claims.projectIds.includes(projectId) },
    validation: { validate: async (event) => validate(event) },
    store,
    clock: { now: () => Date.now() },
    logger,
  });
  const wsServer = new WebSocketServer({ host: "127.0.0.1", port });
  await new Promise((resolve, reject) => wsServer.once("listening", resolve).once("error", reject));
  createWsServerRuntime({ wsServer, syncServer });
  return {
    url: `ws://127.0.0.1:${wsServer.address().port}`,
    stop: async () => {
      for (const socket of wsServer.clients) socket.terminate();
      await new Promise((resolve) => wsServer.close(resolve));
    },
  };
};

if (import.meta.url === `file://${process.argv[1]}`) {
  const { values } = parseArgs({
    options: { port: { type: "string" }, secret: { type: "string" } },
  });
  const { url } = await startReference({ ...values, port: Number(values.port ?? 0) });
  console.log(`reference ready: ${url}`);
}
