// The core: a client with a store in memory, over WebSocket.

export { createClient } from "./client.js";
export { memoryStore } from "./memory.js";
