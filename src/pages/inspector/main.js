// Which view is shown, by what stands after the # of the address; and the token, if one is asked for.

import { hasToken, setToken } from "./ask.js";
import { backend } from "./backend.js";
import { h } from "./dom.js";
import { partition } from "./partition.js";
import { partitions } from "./partitions.js";
import { people } from "./people.js";
import { rejections } from "./rejections.js";

const VIEWS = [
  ["partitions", "Partitions", partitions],
  ["people", "People", people],
  ["rejections", "Rejections", rejections],
  ["backend", "Backend", backend],
];

const main = document.getElementById("main");
const nav = document.getElementById("views");
let shown = new AbortController();
let isAsking = false;

function show() {
  shown.abort();
  shown = new AbortController();
  isAsking = false;
  const [name = "", ...rest] = location.hash.slice(1).split("/");
  const known = VIEWS.find(([id]) => id === name);
  const current = name === "partition" ? "partitions" : (known?.[0] ?? "partitions");
  nav.replaceChildren(
    ...VIEWS.map(([id, title]) => h("a", { href: `#${id}`, "aria-current": id === current ? "page" : undefined }, title)),
  );
  main.replaceChildren();
  if (name === "partition") partition(main, decoded(rest[0] ?? ""), rest[1] ?? "log", shown.signal);
  else (known?.[2] ?? partitions)(main, shown.signal);
}

function decoded(name) {
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

/** Asks for a token. It is forgotten with the page. */
function askForToken(why) {
  if (isAsking) return;
  shown.abort();
  isAsking = true;
  const field = h("input", { type: "password", id: "token", autocomplete: "off", spellcheck: "false", required: true });
  const form = h(
    "form", { class: "sheet token", onsubmit: (event) => (event.preventDefault(), setToken(field.value.trim()), show()) },
    h("h2", {}, "A token is needed"),
    h("p", {}, "Give one with the permission ", h("code", {}, "admin"), ". It stays in this page’s memory, and is gone when you reload."),
    why && hasToken() ? h("p", { class: "problem", role: "alert" }, why) : undefined,
    h("label", { for: "token" }, "Token"), field, h("button", { type: "submit" }, "Look inside"),
  );
  main.replaceChildren(form);
  field.focus();
}

addEventListener("needs-token", ({ detail }) => askForToken(detail));
addEventListener("hashchange", show);
show();
