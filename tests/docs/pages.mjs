// The pages of the documentation, and whether their links lead anywhere.

import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { ROOT } from "./snippets.mjs";

/** Written by a command, with links into its own folder. */
const GENERATED = new Set(["benches/RESULTS.md"]);
const SKIPPED = new Set(["node_modules", "target", ".git"]);

/** Paths of all Markdown files below the repository's root. */
export function pages(folder = ROOT) {
  return readdirSync(folder, { withFileTypes: true })
    .filter(({ name }) => !SKIPPED.has(name))
    .flatMap((entry) => {
      const path = join(folder, entry.name);
      return entry.isDirectory() ? pages(path) : [path];
    })
    .map((path) => relative(ROOT, path.startsWith("/") ? path : join(ROOT, path)))
    .filter((path) => path.endsWith(".md") && !GENERATED.has(path))
    .sort();
}

export const read = (page) => readFileSync(join(ROOT, page), "utf8");

/** The page without its blocks, in which a link is no link. */
const prose = (markdown) => markdown.replaceAll(/^\s*```[^]*?^\s*```\s*$/gm, "").replaceAll(/`[^`\n]*`/g, (code) => code.replaceAll(/[[\]()]/g, ""));

/** The anchors of a page's headings, as GitHub makes them. */
export function anchors(markdown) {
  const seen = new Map();
  return new Set([...prose(markdown).matchAll(/^#+ (.*)$/gm)].map(([, title]) => {
    const plain = title.replaceAll(/\[([^\]]*)\]\([^)]*\)/g, "$1").trim().toLowerCase();
    const anchor = plain.replaceAll(/[^\p{L}\p{N}\s_-]/gu, "").replaceAll(/\s/g, "-");
    const times = seen.get(anchor) ?? 0;
    seen.set(anchor, times + 1);
    return times === 0 ? anchor : `${anchor}-${times}`;
  }));
}

/** Files of this repository that a page names as `path/file` and that are not there, as messages. */
export function missingFiles(page, markdown) {
  return [...markdown.matchAll(/`((?:\.ci|benches|clients|deploy|docs|nats|src|tests)\/[\w./-]+)`/g)].map(([, path]) => path)
    .filter((path) => !existsSync(join(ROOT, path)))
    .map((path) => `${page}: there is no ${path}`);
}

/** What others say, and not this backend. */
const OF_OTHERS = /^(?:atomic publish batch is incomplete$|(?:chronyc|docker|kubectl|nats|systemctl) )/;

/** The text of all Rust files, with strings that are broken over lines joined. */
export function source(folder = join(ROOT, "src")) {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(".rs"))
    .map((entry) => readFileSync(join(entry.parentPath ?? entry.path, entry.name), "utf8"))
    .join("\n").replaceAll(/\\\n\s*/g, "");
}

/** Log lines that an operator's page quotes and that no code writes, as messages. */
export function staleLogLines(page, markdown, code) {
  const quoted = markdown.replaceAll(/^\s*```[^]*?^\s*```\s*$/gm, "").matchAll(/`([^`]+)`/g);
  return [...quoted].map(([, text]) => text.replaceAll(/\s+/g, " "))
    .filter((text) => /^[a-z]+(?:,? [a-z;']+)+$/.test(text) && !OF_OTHERS.test(text) && !code.includes(text))
    .map((text) => `${page}: nothing logs "${text}"`);
}

/** Words that have a plainer one (`again`, `now`, `if`), as messages. */
export function unplainWords(page, markdown) {
  return [...prose(markdown).replaceAll(/`[^`\n]*`/g, "").matchAll(/\b(?:whoever|anew|just now|nought)\b/gi)].map(([word]) => `${page}: "${word}"`);
}

/** Links of a page that lead nowhere, as messages. */
export function brokenLinks(page, markdown, readPage = read) {
  return [...prose(markdown).matchAll(/\]\(([^()\s]+)\)/g)].map(([, target]) => target)
    .filter((target) => !/^[a-z]+:/.test(target))
    .flatMap((target) => {
      const [file, anchor] = target.split("#");
      const path = file === "" ? page : join(dirname(page), file);
      if (!existsSync(join(ROOT, path))) return [`${page}: there is no ${target}`];
      if (anchor === undefined) return [];
      if (statSync(join(ROOT, path)).isDirectory() || !path.endsWith(".md")) return [`${page}: ${target} has no anchors`];
      const goal = file === "" ? markdown : readPage(path);
      return anchors(goal).has(anchor) ? [] : [`${page}: no heading is ${target}`];
    });
}
