// Elements, and values as text. Whatever users wrote goes in as text, never as markup.

/** Makes an element: attributes, listeners (`on…`), and what is in it. */
export function h(name, given = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(given)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== undefined && value !== null) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null));
  return element;
}

/** A table whose rows are replaced as a whole. @param {string} label @param {(string | Node)[]} heads */
export function table(label, heads, rows) {
  return h(
    "div", { class: "wide", tabindex: "0", role: "region", "aria-label": label },
    h("table", {}, h("caption", { class: "unseen" }, label), h("thead", {}, h("tr", {}, heads.map((head) => (head instanceof Node ? head : h("th", { scope: "col" }, head))))),
      h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell) => (cell instanceof Node && cell.nodeName === "TD" ? cell : h("td", {}, cell))))))),
  );
}

export const number = (value) => (typeof value === "number" ? value.toLocaleString("en") : "–");

/** A number's cell. */
export const count = (value) => h("td", { class: "number" }, number(value));

/** A moment, in this browser's time zone. */
export function moment(ms, withDay = true) {
  if (!(ms > 0)) return "–";
  const date = new Date(ms);
  const pad = (value, width = 2) => String(value).padStart(width, "0");
  const day = `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())} `;
  return `${withDay ? day : ""}${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}.${pad(date.getMilliseconds(), 3)}`;
}

/** How long ago, roughly. */
export function ago(ms) {
  if (!(ms > 0)) return "–";
  const seconds = Math.max(0, Math.round((Date.now() - ms) / 1000));
  if (seconds < 90) return `${seconds} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 129_600 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} d`;
}

/** The beginning of a text, on one line. */
export const short = (text, length = 300) => (text.length > length ? `${text.slice(0, length)}…` : text);

/** Runs `work` at once, and then every so often while the view is shown and the page visible. Errors go to `failed`. */
export function every(ms, signal, work, failed) {
  let timer;
  const run = async () => {
    clearTimeout(timer);
    if (signal.aborted) return;
    if (!document.hidden) {
      try {
        await work();
      } catch (error) {
        if (!signal.aborted) failed(error);
      }
    }
    if (!signal.aborted) timer = setTimeout(run, ms);
  };
  document.addEventListener("visibilitychange", () => !document.hidden && run(), { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  void run();
}
