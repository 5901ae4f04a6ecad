// One person: a client, a network with a switch, and a board on the page.

import { createClient } from "/client/index.js";
import { indexedDbStore } from "/client/indexeddb.js";
import { COLUMNS, FIRST_CARDS, add, cardsOf, left, missingColumns, move, remove, rename, wordsFor } from "./board.js";
import { networkWithSwitch } from "./network.js";

const TITLE_LENGTH_MAX = 80;

/** Makes an element: attributes, listeners (`on…`), and what is in it. Text stays text. */
function make(name, given = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(given)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

const randomName = () => Math.random().toString(36).slice(2, 8);

/** A name that stays with this browser. */
function nameFor(person) {
  const key = `insieme-demo-${person}`;
  const name = localStorage.getItem(key) ?? `${person.toLowerCase()}-${randomName()}`;
  localStorage.setItem(key, name);
  return name;
}

const STATES = {
  starting: "starting",
  connecting: "connecting",
  connected: "connected",
  disconnected: "no connection",
  closed: "closed",
};

/** Puts a person on the page. @param {string} name @param {boolean} first whether this one fills a new board */
export function person(name, first) {
  const clientId = nameFor(name);
  const offlineKey = `insieme-demo-offline-${name}`;
  const network = networkWithSwitch(sessionStorage.getItem(offlineKey) === null);
  const client = createClient({
    url: location.origin.replace("http", "ws"),
    partition: "demo",
    clientId,
    store: indexedDbStore({ name: clientId }),
    WebSocket: network.WebSocket,
  });

  const state = make("span", { class: "state", "data-role": "state", role: "status" });
  const waiting = make("span", { class: "waiting", "data-role": "waiting" });
  const toggle = make("button", {
    type: "button", role: "switch", class: "switch", "aria-label": `${name}’s network`, "data-role": "switch",
    onclick: () => {
      network.set(!network.online);
      if (network.online) sessionStorage.removeItem(offlineKey);
      else sessionStorage.setItem(offlineKey, "yes");
      tell();
    },
  });
  const refusals = make("ul", { class: "refusals", "aria-label": `What was refused to ${name}` });
  const input = make("input", {
    type: "text", maxlength: TITLE_LENGTH_MAX, placeholder: "A new card", "aria-label": `A new card by ${name}`, autocomplete: "off",
  });
  const form = make("form", {
    class: "add",
    onsubmit: (event) => {
      event.preventDefault();
      const title = input.value.trim();
      if (title === "") return input.focus();
      client.submit(...add(client.getSnapshot(), "todo", title, name, randomName() + randomName()));
      input.value = "";
    },
  }, input, make("button", { type: "submit" }, "Add"));

  const lists = new Map();
  const columns = COLUMNS.map(({ id, title, limit }) => {
    const count = make("span", { class: "count" });
    const list = make("ul", { "aria-label": `${title}, ${name}’s board`, "data-column": id });
    lists.set(id, { list, count, limit });
    return make("section", { class: "column" }, make("h3", {}, title, count), list);
  });
  const panel = make(
    "section", { class: "person", "data-person": name, "aria-label": `${name}’s board` },
    make("header", {}, make("span", { class: "face", "aria-hidden": "true" }, name[0]), make("h2", {}, name), state, waiting, make("span", { class: "net" }, toggle)),
    make("div", { role: "status" }, refusals),
    make("div", { class: "columns" }, ...columns),
    form,
  );

  /** By card: its element, and what shows it now. */
  const shown = new Map();

  function cardElement(card) {
    let now = card;
    const title = make("span", { class: "title" });
    const mark = make("span", { class: "mark" });
    const button = (does, sign, run) => make("button", { type: "button", onclick: () => run(now), "data-does": does }, make("span", { "aria-hidden": "true" }, sign));
    const shift = (by) => (given) => {
      const to = COLUMNS[COLUMNS.findIndex(({ id }) => id === given.column) + by];
      client.submit(...move(client.getSnapshot(), given, to.id, name));
      focusLater(given.card, by < 0 ? "back" : "on");
    };
    const back = button("back", "←", shift(-1));
    const on = button("on", "→", shift(1));
    const edit = button("rename", "✎", () => write());
    const gone = button("remove", "✕", (given) => client.submit(...remove(given)));
    const tools = make("span", { class: "tools" }, back, on, edit, gone);
    const element = make("li", { class: "card" }, title, mark, tools);

    function write() {
      const field = make("input", { type: "text", maxlength: TITLE_LENGTH_MAX, "aria-label": "Title", class: "edit" });
      field.value = now.title;
      let done = false;
      const finish = (keep) => {
        if (done) return;
        done = true;
        const text = field.value.trim();
        if (keep && text !== "" && text !== now.title) client.submit(...rename(now, text));
        field.replaceWith(title);
        edit.focus();
      };
      field.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== "Escape") return;
        // Or the same key would press the button that has the focus next.
        event.preventDefault();
        finish(event.key === "Enter");
      });
      field.addEventListener("blur", () => finish(true));
      title.replaceWith(field);
      field.focus();
      field.select();
    }

    function show(given, isWaiting) {
      const moved = now.column !== given.column || now.title !== given.title;
      now = given;
      const text = String(given.title);
      title.textContent = text;
      mark.textContent = isWaiting ? "waits" : "";
      element.classList.toggle("waits", isWaiting);
      if (moved && given.by !== name) flash(element);
      const at = COLUMNS.findIndex(({ id }) => id === given.column);
      back.disabled = at === 0;
      on.disabled = at === COLUMNS.length - 1;
      back.setAttribute("aria-label", `Move “${text}” to ${COLUMNS[at - 1]?.title ?? "the left"}`);
      on.setAttribute("aria-label", `Move “${text}” to ${COLUMNS[at + 1]?.title ?? "the right"}`);
      edit.setAttribute("aria-label", `Rename “${text}”`);
      gone.setAttribute("aria-label", `Remove “${text}”`);
    }
    return { element, show, buttons: { back, on } };
  }

  /** After a move the focus stays with the card. */
  function focusLater(card, does) {
    requestAnimationFrame(() => {
      const buttons = shown.get(card)?.buttons;
      if (!buttons) return;
      const button = buttons[does].disabled ? buttons[does === "on" ? "back" : "on"] : buttons[does];
      button.focus();
    });
  }

  /** The names of the cards about which something waits. */
  function waitingCards(cards) {
    const places = new Map(cards.map((card) => [`${card.column} ${card.place}`, card.card]));
    return new Set(client.pending.map(({ payload }) => payload.value?.card ?? places.get(`${payload.target} ${payload.options?.id}`)));
  }

  function draw() {
    const cards = cardsOf(client.getSnapshot());
    const waits = waitingCards(cards);
    const kept = new Set();
    for (const [column, { list, count, limit }] of lists) {
      const here = cards.filter((card) => card.column === column);
      count.textContent = limit ? ` ${here.length} of ${limit}` : ` ${here.length}`;
      count.classList.toggle("full", limit !== undefined && here.length >= limit);
      here.forEach((card, index) => {
        if (!shown.has(card.card)) shown.set(card.card, cardElement(card));
        const { element, show } = shown.get(card.card);
        show(card, waits.has(card.card));
        // Only what is elsewhere is put anew: an element that is moved loses the focus.
        if (list.children[index] !== element) list.insertBefore(element, list.children[index] ?? null);
        kept.add(card.card);
      });
    }
    for (const [card, { element }] of shown) {
      if (kept.has(card)) continue;
      element.remove();
      shown.delete(card);
    }
  }

  function refused() {
    const told = client.rejected.filter(({ payload }) => payload.value?.title !== undefined || payload.options?.id !== undefined);
    refusals.replaceChildren(
      ...told.map((draft) =>
        make(
          "li", { class: "refusal" },
          make("p", {}, wordsFor(draft)),
          make("p", { class: "server" }, "The server: ", make("code", {}, draft.errors[0]?.code ?? draft.reason), ` ${draft.errors[0]?.message ?? ""}`),
          make("button", { type: "button", onclick: () => (client.dismiss(draft.id), refused()) }, "Dismiss"),
        ),
      ),
    );
  }

  function tell() {
    const { connection, synced, pending } = client.status;
    const at = !network.online ? "offline" : connection === "connected" && synced ? "connected" : connection;
    panel.dataset.state = at;
    const text = at === "offline" ? "offline" : connection === "connected" && !synced ? "catching up" : (STATES[connection] ?? connection);
    if (state.textContent !== text) state.textContent = text;
    waiting.textContent = pending > 0 ? `${pending} ${pending === 1 ? "edit waits" : "edits wait"}` : "";
    toggle.setAttribute("aria-checked", String(network.online));
    toggle.replaceChildren(make("span", { class: "knob", "aria-hidden": "true" }), network.online ? "Online" : "Offline");
    prepare();
  }

  let filled = false;
  /** Makes the columns of a new board, and gives back the places that are left, when nothing else is under way. */
  function prepare() {
    const { synced, pending, head } = client.status;
    if (!synced || pending > 0 || !network.online) return;
    const snapshot = client.getSnapshot();
    const missing = missingColumns(snapshot);
    for (const draft of missing) client.submit(...draft);
    if (first && !filled && head === 0 && missing.length > 0) {
      for (const [column, title] of FIRST_CARDS) client.submit(...add(client.getSnapshot(), column, title, name, randomName() + randomName()));
    }
    filled = true;
    for (const draft of left(snapshot, name)) client.submit(...draft);
  }

  client.subscribe(() => {
    draw();
    tell();
  });
  client.on("status", () => {
    draw();
    tell();
  });
  client.on("rejected", refused);
  draw();
  tell();
  refused();
  // What was refused before the page was loaded is known once the store is open.
  const opened = client.on("status", () => {
    if (client.status.connection === "starting") return;
    opened();
    refused();
  });
  return { panel, client, network };
}

/** Shows that somebody else did this. */
function flash(element) {
  element.classList.remove("flash");
  requestAnimationFrame(() => element.classList.add("flash"));
}
