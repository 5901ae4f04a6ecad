// What every test in a browser needs: the backend, a proxy before it, a server of pages, and Chromium. Importing this
// starts them before the file's first test and stops them after its last.

import { after, afterEach, before } from "node:test";
import { startBackend } from "../../../../tests/interop/lib/backend.mjs";
import { Chromium, servePages } from "./chromium.mjs";
import { Proxy } from "./proxy.mjs";

export let backend;
export let proxy;
export let pages;
export let chromium;

before(async () => {
  backend = await startBackend();
  proxy = await Proxy.start(backend.port);
  pages = await servePages();
  chromium = await Chromium.start();
});
afterEach(() => chromium.closeLeft());
after(async () => {
  pages?.stop();
  proxy?.stop();
  await backend?.stop();
  await chromium?.stop();
});
