// The checks of snippets and links find what is wrong.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { anchors, brokenLinks, missingFiles, pages, staleLogLines, unplainWords } from "./pages.mjs";
import { blocksOf, Page, ROOT } from "./snippets.mjs";

const folder = mkdtempSync(join(tmpdir(), "insieme-docs-checks-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const binary = process.env.INSIEME_TEST_BACKEND ?? join(ROOT, "target/debug/insieme-backend");

/** Checks a page of one block or several; gives the first error, or null. */
async function errorOf(markdown, options = {}) {
  try {
    const page = new Page({ folder, binary, exchange: async () => ["connected", "error"], ...options });
    for (const block of blocksOf(markdown, "page")) await page.check(block);
    return null;
  } catch (error) {
    return error.message;
  }
}

const block = (language, text, mark) => `Text.\n\n${mark === undefined ? "" : `<!-- ${mark} -->\n`}\`\`\`${language}\n${text}\n\`\`\`\n`;

test("what is right passes", async () => {
  for (const markdown of [
    block("sh", "echo hello") + block("text", "hel…", "output"),
    block("js", "console.log(1 + 1);") + block("text", "2", "output"),
    block("json", '{"a": 1}'),
    block("json", '{"a": 1}\n{"b": 2}'),
    block("toml", "[nats]\nslots = 128"),
    block("toml", '[auth]\nsecret_file = "/nowhere/secret"'),
    block("text", "anything"),
    block("sh", "insieme-backend log PARTITION [--after EVENT_ID] | head", "not run: the check"),
    block("sh", "tests/run --quick   # a comment", "not run: the check"),
    block("json", '{"a": 1}', "sent: connected, error"),
  ]) assert.equal(await errorOf(markdown), null, markdown);
});

test("what is wrong is found", async () => {
  for (const [markdown, said] of [
    [block("", "no language"), /no language/],
    [block("ruby", "puts 1"), /no check knows/],
    [block("sh", "exit 3"), /ended with 3/],
    [block("sh", "if true; then", "not run: the check"), /ended with/],
    [block("sh", "true", "not run:"), /say why/],
    [block("sh", "true", "not ran: a slip"), /no mark/],
    [block("sh", "insieme-backend log default --aftr 3", "not run: the check"), /--aftr/],
    [block("sh", "insieme-backend lag default", "not run: the check"), /lag/],
    [block("sh", "tests/rnu", "not run: the check"), /ENOENT/],
    [block("sh", "cargo bench --bench mirco", "not run: the check"), /no bench/],
    [block("sh", "echo hello") + block("text", "goodbye", "output"), /not printed: goodbye/],
    [block("js", "throw new Error('x');"), /ended with 1/],
    [block("js", "const = 1;", "not run: the check"), /ended with 1/],
    [block("json", '{"a": 1,}'), /JSON/],
    [block("json", '{"a": 1}', "sent: connected, event_accepted"), /instead of/],
    [block("toml", "[nats]\nslot = 128"), /slots/],
    ["Text.\n\n    cargo run\n", /indented/],
    ["Text.\n\n```sh\ntrue\n", /no end/],
  ]) assert.match((await errorOf(markdown)) ?? "nothing", said, markdown);
});

test("links", () => {
  assert.ok(pages().includes("README.md"));
  assert.deepEqual([...anchors("# A `log`, changed\n## A [link](x)\n# A link\n")], ["a-log-changed", "a-link", "a-link-1"]);
  const broken = (link) => brokenLinks("README.md", `# Here\n[x](${link})\n\`[y](no)\``).length;
  assert.deepEqual(["#here", "docs/PROTOCOL.md#tokens", "src", "https://example.com/x"].map(broken), [0, 0, 0, 0]);
  assert.deepEqual(["#there", "docs/PROTOCOL.md#tokenz", "docs/NONE.md"].map(broken), [1, 1, 1]);
});

test("files that a page names", () => {
  const missing = (path) => missingFiles("page", `Read \`${path}\`.`).length;
  assert.deepEqual(["src/main.rs", "tests/run", "docs/", "frontend/no.rs"].map(missing), [0, 0, 0, 0]);
  assert.deepEqual(["src/mian.rs", "tests/rnu"].map(missing), [1, 1]);
});

test("words", () => {
  assert.deepEqual(unplainWords("page", "Whoever starts `anew`, now."), ['page: "Whoever"']);
});

test("log lines", () => {
  const stale = (text) => staleLogLines("page", `It logs \`${text}\`.`, 'warn!("slot lost");').length;
  assert.deepEqual(["slot lost", "Slow Consumer", "slot", "nats.slots", "insieme-backend inspect PARTITION"].map(stale), [0, 0, 0, 0, 0]);
  assert.deepEqual(["slot gone", "the slot, lost"].map(stale), [1, 1]);
});
