// Asks the administration. The token is in this module's memory and in the header of each request, and nowhere else.

let token;

/** What the administration refused, as it says it. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const hasToken = () => token !== undefined;
export const setToken = (given) => (token = given || undefined);

/** A path of names, each encoded. */
export const path = (...names) => names.map((name) => `/${encodeURIComponent(name)}`).join("");

async function answerTo(where, { signal, accept = "application/json" } = {}) {
  const headers = { Accept: accept, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const response = await fetch(where, { headers, signal, cache: "no-store", credentials: "omit", referrerPolicy: "no-referrer" });
  if (response.ok) return response;
  const text = await response.text();
  let message = text;
  try {
    message = JSON.parse(text).error.message;
  } catch {
    // It is not ours, such as a proxy's.
  }
  if (response.status === 401) dispatchEvent(new CustomEvent("needs-token", { detail: token === undefined ? "" : message }));
  throw new Refused(response.status, message || `the answer was ${response.status}`);
}

/** A value. */
export const ask = async (where, given) => (await answerTo(where, given)).json();

/** A text of at most so many bytes; undefined if it is longer. */
export async function askText(where, bytesMax, given) {
  const response = await answerTo(where, given);
  let text = "";
  let bytes = 0;
  const decoder = new TextDecoder();
  for await (const piece of pieces(response)) {
    bytes += piece.length;
    if (bytes > bytesMax) return undefined;
    text += decoder.decode(piece, { stream: true });
  }
  return text + decoder.decode();
}

/** Values, one a line. */
export async function askLines(where, given) {
  const text = await (await answerTo(where, { accept: "application/jsonl", ...given })).text();
  return text.split("\n").filter((line) => line !== "").map((line) => JSON.parse(line));
}

/** Follows an event stream until it ends: gives its data as texts, as many at a time as have come. */
export async function* follow(where, given) {
  const response = await answerTo(where, { ...given, accept: "text/event-stream" });
  const decoder = new TextDecoder();
  let rest = "";
  for await (const piece of pieces(response)) {
    rest += decoder.decode(piece, { stream: true });
    const blocks = rest.split("\n\n");
    rest = blocks.pop() ?? "";
    const found = [];
    for (const block of blocks) {
      const at = block.startsWith("data: ") ? 6 : block.indexOf("\ndata: ") + 7;
      if (at > 6 || block.startsWith("data: ")) found.push(block.slice(at));
    }
    yield found;
  }
}

async function* pieces(response) {
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** The pages of a list, one after the other, until there are `max` entries. */
export async function pagesOf(where, key, max, given) {
  const entries = [];
  let last;
  let after;
  do {
    const query = after === undefined ? "" : `?after=${encodeURIComponent(after)}`;
    last = await ask(`${where}${query}`, given);
    entries.push(...last[key]);
    after = last.next ?? undefined;
  } while (after !== undefined && entries.length < max);
  return { entries: entries.slice(0, max), more: after !== undefined || entries.length > max, last };
}

/** Follows an event stream, again and again while the view is shown. */
export async function followForever(where, signal, heard, told) {
  while (!signal.aborted) {
    try {
      told("");
      for await (const texts of follow(where(), { signal })) {
        if (signal.aborted) return;
        heard(texts);
      }
    } catch (error) {
      if (signal.aborted) return;
      told(error.message);
      if (error.status === 401 || error.status === 403) return;
    }
    await new Promise((done) => setTimeout(done, 2000));
  }
}
