// A partition's log, of any length: only what is on the screen is asked for, by ordinal. It follows the log.

import { askLines, followForever, path } from "./ask.js";
import { h, moment, number, short } from "./dom.js";
import { jsonText } from "./tree.js";

const ROW_PX = 32;
/** Browsers draw no element that is much higher; beyond that, a pixel of the scroll bar is more than one of the log. */
const HEIGHT_MAX_PX = 8_000_000;
const CHUNK = 100;
const CHUNKS_MAX = 60;
/** How many new events are read between two frames; of more, these are the last, and the rest is asked for if looked at. */
const READ_PER_FRAME_MAX = 100;
const SETTLE_MS = 60;

/** What a row shows of an event. A payload is kept by its beginning only. */
function rowOf(event) {
  const { ordinal, eventId, timestamp, type, clientId, userId, isMark, v1 } = event;
  const what = v1 ? { ...v1, payload: event.payload } : event.payload;
  return { ordinal, eventId, timestamp, type, clientId, userId, isMark, text: short(JSON.stringify(what) ?? "") };
}

export function log(element, name, signal) {
  const where = `${path("partitions", name)}/events`;
  let total = 0;
  let head = 0;
  let first = 0;
  let follows = true;
  let fetching;
  let settle;
  let waiting = [];
  let drawing = false;
  let left = 0;
  let second = { at: 0, count: 0, rate: 0 };
  /** By number of the chunk, in the order of their last use. */
  const chunks = new Map();

  const told = h("p", { class: "told", role: "status" }, "Opening…");
  const problem = h("p", { class: "problem", role: "alert" });
  const layer = h("div", { class: "layer" });
  const spacer = h("div", { class: "spacer" }, layer);
  const scroller = h("div", { class: "log", tabindex: "0", role: "region", "aria-label": "Events", "data-role": "log" }, spacer);
  const detail = h("div", { class: "detail", "data-role": "detail" });
  const followBox = h("input", { type: "checkbox", id: "follow", onchange: () => ((follows = followBox.checked), follows && toEnd()) });
  const jump = h("input", { type: "number", min: "1", step: "1", "aria-label": "Event number", placeholder: "Number" });
  const form = h("form", { class: "row", onsubmit: (event) => (event.preventDefault(), goTo(Number(jump.value) - 1)) }, jump, h("button", { type: "submit" }, "Go"));
  element.replaceChildren(
    h("div", { class: "bar" }, told, h("label", { class: "row", for: "follow" }, followBox, "Follow"), form),
    problem,
    h("div", { class: "logrow heads", "aria-hidden": "true" }, ["Number", "Event id", "Time", "Type", "Author", "Payload"].map((title) => h("span", {}, title))),
    scroller, detail,
  );

  const fits = () => Math.max(1, Math.floor(scroller.clientHeight / ROW_PX));
  const last = () => Math.max(0, total - fits());
  const height = () => Math.min(HEIGHT_MAX_PX, total * ROW_PX);

  function cached(ordinal) {
    return chunks.get(Math.floor((ordinal - 1) / CHUNK))?.[(ordinal - 1) % CHUNK];
  }

  function keep(row) {
    const number = Math.floor((row.ordinal - 1) / CHUNK);
    const chunk = chunks.get(number) ?? new Array(CHUNK);
    chunk[(row.ordinal - 1) % CHUNK] = row;
    chunks.delete(number);
    chunks.set(number, chunk);
    if (chunks.size > CHUNKS_MAX) chunks.delete(chunks.keys().next().value);
  }

  const buttons = [];
  function rowButton(index) {
    buttons[index] ??= (() => {
      const cells = Array.from({ length: 6 }, () => h("span"));
      const button = h("button", { type: "button", class: "logrow", onclick: () => button.row && open(button.row) }, cells);
      button.style.top = `${index * ROW_PX}px`;
      return Object.assign(button, { cells });
    })();
    return buttons[index];
  }

  function draw() {
    drawing = false;
    const shown = Math.min(fits() + 1, total - first);
    spacer.style.height = `${height()}px`;
    layer.style.height = `${scroller.clientHeight}px`;
    for (let index = 0; index < shown; index += 1) {
      const button = rowButton(index);
      const row = cached(first + index + 1);
      button.row = row;
      const texts = row
        ? [number(row.ordinal), row.eventId, moment(row.timestamp), row.isMark ? "(mark)" : row.type, row.userId ?? row.clientId, row.isMark ? "" : row.text]
        : [number(first + index + 1), "", "", "", "", "…"];
      texts.forEach((text, cell) => button.cells[cell].textContent !== String(text) && (button.cells[cell].textContent = text));
      button.classList.toggle("mark", row?.isMark === true);
      if (button.parentNode !== layer) layer.append(button);
    }
    for (const button of buttons.slice(Math.max(0, shown))) button.remove();
    const parts = [`${number(total)} ${total === 1 ? "event" : "events"}.`];
    if (second.rate > 0) parts.push(`${number(second.rate)} in the last second.`);
    if (left > 0) parts.push(`Sampled: of what came, ${number(left)} events were only counted.`);
    told.textContent = parts.join(" ");
    followBox.checked = follows;
    ask();
  }

  function later() {
    if (drawing) return;
    drawing = true;
    requestAnimationFrame(draw);
  }

  /** Asks for what is shown and not there, once the scrolling has paused. */
  function ask() {
    clearTimeout(settle);
    const wanted = [];
    for (let ordinal = first + 1; ordinal <= Math.min(first + fits() + 1, total); ordinal += 1) if (!cached(ordinal)) wanted.push(ordinal);
    if (wanted.length === 0) return;
    settle = setTimeout(() => void load(wanted[0]), SETTLE_MS);
  }

  async function load(ordinal) {
    fetching?.abort();
    const request = (fetching = new AbortController());
    const stop = () => request.abort();
    signal.addEventListener("abort", stop);
    const from = Math.floor((ordinal - 1) / CHUNK) * CHUNK + 1;
    try {
      const events = await askLines(`${where}?ordinal=${from}&limit=${CHUNK}`, { signal: request.signal });
      for (const event of events) keep(rowOf(event));
      problem.textContent = "";
      // What is not in the log any more is no event, and is not asked for again.
      for (let at = from; at < from + CHUNK && at <= total; at += 1) {
        if (!cached(at) && events.some((event) => event.ordinal > at)) keep({ ordinal: at, eventId: "", type: "(not in the log any more)", clientId: "", text: "" });
      }
      if (events.length > 0) later();
    } catch (error) {
      if (!request.signal.aborted) problem.textContent = error.message;
    } finally {
      signal.removeEventListener("abort", stop);
    }
  }

  /** Shows the log from an event on. */
  function goTo(index) {
    if (!Number.isFinite(index)) return;
    first = Math.min(last(), Math.max(0, Math.floor(index)));
    follows = first >= last();
    spacer.style.height = `${height()}px`;
    place();
    later();
  }

  function toEnd() {
    first = last();
    spacer.style.height = `${height()}px`;
    place();
    later();
  }

  let placed = -1;
  let sized = 0;
  function place() {
    const range = height() - scroller.clientHeight;
    placed = last() === 0 ? 0 : Math.round((first / last()) * range);
    scroller.scrollTop = placed;
  }

  scroller.addEventListener("scroll", () => {
    // A window of another size moves the bar too; what is shown stays.
    if (scroller.clientHeight !== sized) return;
    if (Math.abs(scroller.scrollTop - placed) <= 1) return;
    placed = -1;
    const range = Math.max(1, height() - scroller.clientHeight);
    first = Math.min(last(), Math.round((scroller.scrollTop / range) * last()));
    follows = first >= last();
    later();
  });
  scroller.addEventListener("keydown", (event) => {
    const page = fits() - 1;
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    goTo(step === Infinity ? last() : step === -Infinity ? 0 : first + step);
  });
  const sizes = new ResizeObserver(() => {
    sized = scroller.clientHeight;
    if (follows) toEnd();
    else goTo(first);
  });
  sizes.observe(scroller);
  signal.addEventListener("abort", () => sizes.disconnect());

  async function open({ ordinal, eventId }) {
    detail.replaceChildren(h("p", {}, "…"));
    try {
      const [event] = await askLines(`${where}?from=${eventId}&to=${eventId}`, { signal });
      const base = `#partition/${encodeURIComponent(name)}/state@${ordinal}`;
      detail.replaceChildren(
        h("div", { class: "bar" }, h("h3", {}, `Event ${number(ordinal)}`), h("a", { href: base }, "The state at this event"), h("a", { href: `${base}-${Math.max(1, ordinal - 1)}` }, "What it changed")),
        h("pre", { tabindex: "0", "aria-label": "The event as it is stored" }, event ? jsonText(event) : "It is not in the log any more."),
      );
    } catch (error) {
      detail.replaceChildren(h("p", { class: "problem", role: "alert" }, error.message));
    }
  }

  /** Takes in what has come since the last frame. */
  function take() {
    const texts = waiting;
    waiting = [];
    if (texts.length === 0) return;
    left += Math.max(0, texts.length - READ_PER_FRAME_MAX);
    for (const text of texts.slice(-READ_PER_FRAME_MAX)) {
      const row = rowOf(JSON.parse(text));
      keep(row);
      total = Math.max(total, row.ordinal);
      head = Math.max(head, row.eventId);
    }
    const now = performance.now();
    second.count += texts.length;
    if (now - second.at >= 1000) second = { at: now, count: 0, rate: second.at === 0 ? 0 : Math.round((second.count * 1000) / (now - second.at)) };
    if (follows) toEnd();
    else later();
  }
  const quiet = setInterval(() => {
    if (second.rate === 0 || performance.now() - second.at < 2000) return;
    second.rate = 0;
    later();
  }, 1000);
  signal.addEventListener("abort", () => (clearInterval(quiet), clearTimeout(settle), fetching?.abort()));

  async function begin() {
    // One request, however long the log is: its last events, which say how many there are.
    const found = await askLines(`${where}?last=${CHUNK}`, { signal });
    const last = found.at(-1);
    if (last === undefined) {
      told.textContent = "This partition has no events yet.";
    } else {
      for (const event of found) keep(rowOf(event));
      [total, head] = [last.ordinal, last.eventId];
      toEnd();
    }
    let frame = 0;
    await followForever(
      () => `${where}?from=${head + 1}`,
      signal,
      (texts) => {
        waiting.push(...texts);
        // A hidden page gets no frames, and keeps no more than is read.
        if (document.hidden && waiting.length > READ_PER_FRAME_MAX) left += waiting.splice(0, waiting.length - READ_PER_FRAME_MAX).length;
        cancelAnimationFrame(frame);
        frame = requestAnimationFrame(take);
      },
      (why) => (problem.textContent = why),
    );
  }
  begin().catch((error) => {
    if (!signal.aborted) problem.textContent = error.message;
    told.textContent = "";
  });
}

/** The last event's number and id. */
export async function lastOf(where, signal) {
  const [last] = await askLines(`${where}?last=1`, { signal });
  return last === undefined ? { events: 0, eventId: 0 } : { events: last.ordinal, eventId: last.eventId };
}
