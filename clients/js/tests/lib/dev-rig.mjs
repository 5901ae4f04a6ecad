// What every test of the pages needs: `dev`, and Chromium. Importing this starts them before the file's first test and
// stops them after its last.

import { after, afterEach, before } from "node:test";
import { Chromium } from "./chromium.mjs";
import { Dev } from "./dev.mjs";

export let dev;
export let chromium;

before(async () => {
  dev = await Dev.start();
  chromium = await Chromium.start();
});
afterEach(() => chromium.closeLeft());
after(async () => {
  await dev?.stop();
  await chromium?.stop();
});
