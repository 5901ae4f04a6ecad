// The demo that `dev` serves, in Chromium: two people at one board.

import assert from "node:assert/strict";
import { test } from "node:test";
import { chromium, dev } from "./lib/dev-rig.mjs";
import { flaws, look, LOOKS, openWatched, press, type } from "./lib/dev.mjs";

const EVIL = `<img src=x onerror="window.wrong.push('script')">`;

const of = (person) => `document.querySelector('[data-person="${person}"]')`;
const stateOf = (person) => `${of(person)}.dataset.state`;
/** The titles in a person's column. */
const titles = (person, column) => `[...${of(person)}.querySelectorAll('[data-column="${column}"] .title')].map(({ textContent }) => textContent).join("|")`;
const card = (person, title) => `[...${of(person)}.querySelectorAll(".card")].find((card) => card.querySelector(".title")?.textContent === ${JSON.stringify(title)})`;
const does = (page, person, title, what) => page.run(`${card(person, title)}.querySelector('[data-does="${what}"]').click()`);
const switches = (page, person) => page.run(`${of(person)}.querySelector(".switch").click()`);
const same = ["todo", "doing", "done"].map((column) => `${titles("Ann", column)} === ${titles("Ben", column)}`).join(" && ");
const quiet = ["Ann", "Ben"].map((person) => `${stateOf(person)} === "connected" && ${of(person)}.querySelector(".waiting").textContent === ""`).join(" && ");

async function openDemo(context) {
  const page = await openWatched(chromium, dev.url, context);
  await page.until(`${quiet} && ${same} && document.querySelectorAll(".card").length >= 8`);
  return page;
}

const nothingWrong = async (page) => assert.deepEqual(await page.run("window.wrong"), []);

test("two people share a board, work offline, and one is refused by the limit with the reason beside it", async () => {
  const page = await openDemo(await chromium.context());
  assert.equal(await page.run(titles("Ben", "doing")), "Clear the room|Buy brushes");

  for (const person of ["Ann", "Ben"]) await switches(page, person);
  await page.until(`${stateOf("Ann")} === "offline" && ${stateOf("Ben")} === "offline"`);
  await does(page, "Ann", "Choose the paint", "on");
  await does(page, "Ben", "Ask the neighbours", "on");
  await page.until(`${titles("Ann", "doing")}.endsWith("|Choose the paint") && ${titles("Ben", "doing")}.endsWith("|Ask the neighbours")`);
  assert.match(await page.run(`${of("Ben")}.querySelector(".waiting").textContent`), /^1 edit waits$/);

  // Ann comes first: the last place is hers.
  await switches(page, "Ann");
  await page.until(`${stateOf("Ann")} === "connected" && ${of("Ann")}.querySelector(".waiting").textContent === ""`);
  await switches(page, "Ben");
  await page.until(`${quiet} && ${same}`);
  const said = await page.until(`${of("Ben")}.querySelector(".refusal")?.textContent`);
  assert.match(said, /“Ask the neighbours” is not in Doing: it takes 3 cards/);
  assert.match(said, /The server: DUPLICATE_ID \S/);
  assert.equal(await page.run(titles("Ann", "doing")), "Clear the room|Buy brushes|Choose the paint");
  assert.equal(await page.run(titles("Ben", "todo")), "Ask the neighbours", "it is back where it was");
  await page.run(`${of("Ben")}.querySelector(".refusal button").click()`);
  await page.until(`${of("Ben")}.querySelector(".refusal") === null`);

  // A reload while offline loses nothing, and what somebody writes is text.
  await switches(page, "Ben");
  await page.run(`${of("Ben")}.querySelector(".add input").focus()`);
  await type(page, EVIL.slice(0, 79));
  await press(page, "Enter");
  await page.until(`${titles("Ben", "todo")}.includes("<img")`);
  await nothingWrong(page);
  await page.run("location.reload()");
  await page.until(`window.wrong && ${stateOf("Ben")} === "offline" && ${titles("Ben", "todo")}.includes("<img")`);
  await switches(page, "Ben");
  await page.until(`${quiet} && ${same} && ${titles("Ann", "todo")}.includes("<img")`);
  assert.equal(await page.run("document.querySelectorAll('main img').length"), 0);
  await nothingWrong(page);
});

test("the demo works by keyboard, and the focus stays with a card that is moved", async () => {
  const page = await openDemo(await chromium.context());
  await look(page, { width: 1440, motion: "reduce" });
  await page.run(`${of("Ann")}.querySelector(".add input").focus()`);
  await type(page, "By keyboard");
  await press(page, "Enter");
  await page.until(`${quiet} && ${titles("Ben", "todo")}.includes("By keyboard")`);
  await page.run(`${card("Ann", "By keyboard")}.querySelector('[data-does="rename"]').focus()`);
  await press(page, "Enter");
  await page.until("document.activeElement.classList.contains('edit')");
  await type(page, "Renamed");
  await press(page, "Enter");
  await page.until(`${quiet} && ${titles("Ben", "todo")}.includes("Renamed")`);
  assert.equal(await page.run("document.activeElement.getAttribute('aria-label')"), "Rename “Renamed”");
  await page.run(`${of("Ann")}.querySelector(".switch").focus()`);
  await press(page, " ");
  await page.until(`${stateOf("Ann")} === "offline" && document.activeElement.getAttribute("aria-checked") === "false"`);
  await press(page, " ");
  await page.until(quiet);
  await page.run(`${card("Ann", "Renamed")}.querySelector('[data-does="remove"]').focus()`);
  await press(page, "Enter");
  await page.until(`${quiet} && !${titles("Ben", "todo")}.includes("Renamed")`);
  assert.equal(await page.run("getComputedStyle(document.querySelector('.knob')).transitionDuration"), "0s");
  await nothingWrong(page);
});

test("the demo goes on when the server is killed and comes back", async () => {
  const page = await openDemo(await chromium.context());
  await dev.process.kill();
  await page.until(`${stateOf("Ann")} !== "connected" && ${stateOf("Ben")} !== "connected"`);
  await page.run(`${of("Ann")}.querySelector(".add input").focus()`);
  await type(page, "While it is away");
  await press(page, "Enter");
  await page.until(`${titles("Ann", "todo")}.includes("While it is away")`);
  await dev.run();
  await page.run(`dispatchEvent(new Event("online"))`);
  await page.until(`${quiet} && ${same} && ${titles("Ben", "todo")}.includes("While it is away")`, 60_000);
  await nothingWrong(page);
});

test("nobody is kept out of the demo: axe finds nothing, and nothing sticks out, at both widths and in both schemes", async () => {
  const page = await openDemo(await chromium.context());
  await switches(page, "Ben");
  for (const [title, person] of [["Choose the paint", "Ann"]]) await page.run(`${card(person, title)}?.querySelector('[data-does="on"]').click()`);
  for (const given of LOOKS) {
    await look(page, given);
    assert.deepEqual(await flaws(page), [], JSON.stringify(given));
  }
  await nothingWrong(page);
});
