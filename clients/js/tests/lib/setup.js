// A client on a fake environment and a server double, connected unless said otherwise.

import { createClient } from "../../src/index.js";
import { FakeEnv, FakeServer } from "./fake.js";

export async function setup({ server = new FakeServer(), connect = true, env = new FakeEnv({ server }), ...options } = {}) {
  const client = createClient({ url: "ws://test", clientId: "me", env, ...options });
  if (connect) await server.run(env);
  else await env.settle();
  return { env, server, client, run: () => server.run(env) };
}

/** Waits for a condition of the real world; `what` stands in the error. */
export async function until(what, condition, timeoutMs = 30_000) {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const found = await condition();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`waited ${timeoutMs} ms for ${what}`);
    await new Promise((done) => setTimeout(done, 20));
  }
}

/** A JWT whose signature nobody looks at. */
export const token = (claims) => `h.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.s`;
