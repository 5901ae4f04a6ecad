// Takes the fenced blocks out of a Markdown page, and checks each by its language and its mark.
//
// A block is checked by its language:
//
//     sh     runs in bash, in a folder of the page's own, beside a running `dev`
//     js     runs in Node, in the same folder
//     json   parses, as one value or as one value a line
//     toml   passes `insieme-backend check-config`
//     text, mermaid, promql   are illustrations
//
// An HTML comment on the line before the block changes that:
//
//     <!-- not run: REASON -->        sh, js, toml: only its form is checked (commands, flags, files)
//     <!-- keeps running -->          sh: started, waited for until it says that it is ready, ended with the tests
//     <!-- file: NAME -->             written into the page's folder under that name
//     <!-- sent: TYPE, TYPE -->       json: each line is sent over one WebSocket; messages of these types come back
//     <!-- output -->                 text: lines that the block before printed; … stands for anything
//
// Anything else is an error: a block without a language, another language, another mark, an indented block.

import { spawnSync } from "node:child_process";
import { accessSync, constants, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const ILLUSTRATIONS = new Set(["text", "mermaid", "promql"]);
const MARKS = {
  sh: ["not run", "keeps running"],
  js: ["not run", "file"],
  json: ["file", "sent"],
  toml: ["not run", "file"],
  text: ["output"],
  mermaid: [],
  promql: [],
};
const RUN_MS = 120_000;

/** The fenced blocks of a page, in order. Throws for a block that hides from the checks. */
export function blocksOf(markdown, page) {
  const blocks = [];
  let open = null;
  let lastText = "";
  let isAfterBlank = true;
  let isInList = false;
  for (const [index, line] of markdown.split("\n").entries()) {
    const fence = /^(\s*)(```+)\s*(\S*)\s*$/.exec(line);
    if (open !== null) {
      if (fence !== null && fence[2].length >= open.ticks && fence[3] === "") {
        blocks.push({ page, line: open.line, language: open.language, mark: open.mark, text: `${open.lines.join("\n")}\n` });
        open = null;
        lastText = "";
      } else {
        open.lines.push(line.startsWith(open.indent) ? line.slice(open.indent.length) : line);
      }
      continue;
    }
    if (fence !== null) {
      const [, indent, ticks, language] = fence;
      open = { line: index + 1, indent, ticks: ticks.length, language, mark: markOf(lastText), lines: [] };
      continue;
    }
    if (/^ {4}\S/.test(line) && isAfterBlank && !isInList) throw new Error(`${page}:${index + 1}: an indented block: use a fence with a language`);
    isAfterBlank = line.trim() === "";
    if (isAfterBlank) continue;
    if (/^\s*([*-]|\d+\.) /.test(line)) isInList = true;
    else if (/^\S/.test(line)) isInList = false;
    lastText = line.trim();
  }
  if (open !== null) throw new Error(`${page}:${open.line}: the block has no end`);
  return blocks;
}

function markOf(line) {
  const comment = /^<!--\s*(.*?)\s*-->$/.exec(line);
  if (comment === null) return null;
  const [, name, value] = /^([a-z ]+?)(?::\s*(.*))?$/s.exec(comment[1]) ?? [];
  return name === undefined ? null : { name, value: value ?? "" };
}

/** What the blocks of one page share. */
export class Page {
  #printed = "";

  /**
   * `folder` is the page's own; `binary` the backend; `rewrite` puts real addresses into a block's text;
   * `start` runs what keeps running; `exchange` sends messages over a WebSocket and gives the types that came back.
   */
  constructor({ folder, binary, environment = {}, rewrite = (text) => text, start, exchange }) {
    Object.assign(this, { folder, binary, environment, rewrite, start, exchange });
  }

  /** Throws if something is wrong with the block. */
  async check(block) {
    const { language, mark, text } = block;
    if (!Object.hasOwn(MARKS, language)) throw new Error(language === "" ? "the block has no language" : `no check knows the language ${language}`);
    if (mark !== null && !MARKS[language].includes(mark.name)) throw new Error(`no mark of ${language} is called "${mark.name}"`);
    if (mark?.name === "not run" && mark.value === "") throw new Error("say why it is not run");
    if (mark?.name === "file") writeFileSync(join(this.folder, mark.value), this.rewrite(text));
    if (language === "json") return this.#json(text, mark);
    if (language === "toml") return mark?.name === "not run" ? undefined : this.#toml(text);
    if (language === "js") return this.#js(text, mark);
    if (language === "sh") return this.#sh(text, mark);
    if (mark?.name === "output") return this.#output(text);
    if (!ILLUSTRATIONS.has(language)) throw new Error(`${language} is neither checked nor an illustration`);
  }

  async #json(text, mark) {
    let values;
    try {
      values = [JSON.parse(text)];
    } catch {
      values = text.split("\n").filter((line) => line.trim() !== "").map((line) => JSON.parse(line));
    }
    if (mark?.name !== "sent") return;
    const expected = mark.value.split(",").map((type) => type.trim());
    const came = await this.exchange(values, expected);
    if (came.join() !== expected.join()) throw new Error(`answered with ${came.join(", ")} instead of ${expected.join(", ")}`);
  }

  /** Files that the configuration names are made, since the check reads them. */
  #toml(text) {
    const config = this.rewrite(text).replaceAll(/^(\w*secret_file) = "[^"]*"/gm, (_, key) => {
      const file = join(this.folder, key);
      writeFileSync(file, "0123456789abcdef0123456789abcdef\n");
      return `${key} = ${JSON.stringify(file)}`;
    });
    const file = join(this.folder, "checked.toml");
    writeFileSync(file, config);
    this.#run(this.binary, ["check-config", "--config", file], { keep: false });
  }

  #js(text, mark) {
    const file = join(this.folder, mark?.name === "file" ? mark.value : "snippet.mjs");
    writeFileSync(file, this.rewrite(text));
    this.#run("node", ["--check", file], { keep: false });
    if (mark === null) this.#run("node", [file]);
  }

  async #sh(text, mark) {
    this.#run("bash", ["-n", "-c", text], { keep: false });
    if (mark?.name === "not run") return checkCommands(text, this.binary);
    if (mark?.name === "keeps running") {
      this.#printed = await this.start(this.rewrite(text), this);
      return;
    }
    this.#run("bash", ["-euo", "pipefail", "-c", this.rewrite(text)]);
  }

  #output(text) {
    for (const line of text.trimEnd().split("\n")) {
      const pattern = line.split("…").map((part) => part.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&")).join(".*");
      if (!new RegExp(`^${pattern}$`, "m").test(this.#printed)) throw new Error(`not printed: ${line}\n${this.#printed}`);
    }
  }

  #run(command, words, { keep = true } = {}) {
    const { status, signal, error, stdout, stderr } = spawnSync(command, words, {
      cwd: this.folder, env: { ...process.env, ...this.environment }, encoding: "utf8", timeout: RUN_MS,
      stdio: ["ignore", "pipe", "pipe"],
    });
    if (error !== undefined) throw error;
    if (status !== 0) throw new Error(`ended with ${signal ?? status}\n${stdout}${stderr}`);
    if (keep) this.#printed = stdout;
  }
}

/** Checks the commands of a shell script that is not run: scripts are there, and our own take these flags. */
export function checkCommands(script, binary) {
  for (const line of script.replaceAll("\\\n", " ").split("\n")) {
    const words = wordsOf(line.replace(/(^|\s)#.*$/, ""));
    while (words.length > 0 && (/^[A-Z_]+=/.test(words[0]) || words[0] === "sudo" || words[0] === "nice")) words.shift();
    if (words.length === 0) continue;
    if (words.slice(0, 4).join(" ") === "cargo run --release --") words.splice(0, 4, "insieme-backend");
    const [command, ...rest] = words;
    if (/(^|\/)insieme-backend$/.test(command)) checkOurs(rest, binary);
    else if (/^(\.ci|benches|tests)\//.test(command)) accessSync(join(ROOT, command), constants.X_OK);
    else if (command === "cargo" && rest.includes("--bench")) checkBench(rest[rest.indexOf("--bench") + 1]);
    const manifest = rest[rest.indexOf("--manifest-path") + 1];
    if (rest.includes("--manifest-path") && !existsSync(join(ROOT, manifest))) throw new Error(`there is no ${manifest}`);
  }
}

/** Words of a command line up to a pipe or a redirection; [OPTIONAL] words count, PLACEHOLDERS become 1. */
function wordsOf(line) {
  const words = [...line.matchAll(/'([^']*)'|"([^"]*)"|([^\s'"]+)/g)].map(([, single, double, plain]) => single ?? double ?? plain);
  const end = words.findIndex((word) => /^([|>&;]|&&)/.test(word));
  return words.slice(0, end === -1 ? undefined : end)
    .map((word) => (/^[A-Z_]+=/.test(word) ? word : word.replaceAll(/^\[|\]$|…/g, "").replaceAll(/\b[A-Z][A-Z_]*\b/g, "1")))
    .filter((word) => word !== "");
}

function checkOurs(words, binary) {
  const { status, stdout, stderr } = spawnSync(binary, [...words, "--help"], { encoding: "utf8" });
  if (status !== 0) throw new Error(`insieme-backend ${words.join(" ")}: ${stderr}`);
  const subcommand = words.find((word) => !word.startsWith("-"));
  if (subcommand !== undefined && !stdout.includes(`insieme-backend ${subcommand}`)) throw new Error(`there is no command ${subcommand}`);
}

function checkBench(name) {
  const manifest = readFileSync(join(ROOT, "Cargo.toml"), "utf8");
  if (!manifest.includes(`[[bench]]\nname = "${name}"\n`)) throw new Error(`there is no bench ${name}`);
}
