// `dev` as a newcomer runs it, and its pages in Chromium: looked at for what breaks the policy, fails, or keeps people out.

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { freePort, Process, run } from "../../../../tests/interop/lib/processes.mjs";

export const BINARY = process.env.INSIEME_TEST_BACKEND ?? fileURLToPath(new URL("../../../../target/debug/insieme-backend", import.meta.url));
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** What a page is told by the browser before its own modules run. */
const WATCH = `window.wrong = [];
document.addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) => window.wrong.push("policy: " + violatedDirective + " " + blockedURI));
addEventListener("error", ({ message }) => window.wrong.push("error: " + message));
addEventListener("unhandledrejection", ({ reason }) => window.wrong.push("rejection: " + reason));`;

export class Dev {
  static async start() {
    const dev = new Dev();
    dev.dir = mkdtempSync(join(tmpdir(), "insieme-dev-"));
    process.on("exit", () => rmSync(dev.dir, { recursive: true, force: true }));
    dev.nats = process.env.INSIEME_TEST_NATS_SERVER ?? run(BINARY, ["dev", "--print-nats-server"]).trim();
    dev.port = await freePort();
    await dev.run();
    return dev;
  }

  async run() {
    const at = ["--listen", `127.0.0.1:${this.port}`, "--data-dir", join(this.dir, "data"), "--nats-server", this.nats];
    const settings = ["frontend.submissions_per_minute_max=0", "frontend.frames_per_second_max=0", "frontend.bytes_per_second_max=0"];
    this.process = new Process("dev", BINARY, ["dev", ...at, ...settings.flatMap((setting) => ["--set", setting])]);
    await this.process.says("dev ready:");
  }

  get url() {
    return `http://127.0.0.1:${this.port}/`;
  }

  get natsUrl() {
    return /NATS\s+(nats:\S+)/.exec(this.process.said)[1];
  }

  /** The administration, which serves the inspector. */
  get admin() {
    return /inspector (http:\S+)\/inspector/.exec(this.process.said)[1];
  }

  async stop() {
    await this.process.kill();
    rmSync(this.dir, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  }
}

/** Opens a page that is watched. */
export async function openWatched(chromium, url, context) {
  const page = await chromium.open("about:blank", context);
  await page.send("Page.addScriptToEvaluateOnNewDocument", { source: WATCH });
  await page.goto(url);
  await page.until("document.readyState === 'complete' && Array.isArray(window.wrong)");
  return page;
}

/** What pages are looked at as. */
export const LOOKS = [375, 1440].flatMap((width) => ["light", "dark"].map((scheme) => ({ width, scheme })));

/** As a phone or a desk has it, in one of both schemes. */
export async function look(page, { width, height = 900, scheme = "light", motion = "no-preference" }) {
  await page.send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: false });
  await page.send("Emulation.setEmulatedMedia", {
    features: [{ name: "prefers-color-scheme", value: scheme }, { name: "prefers-reduced-motion", value: motion }],
  });
}

/** What axe finds, one line for each; and that nothing sticks out of the page. */
export async function flaws(page) {
  await page.run(`${AXE}; undefined`);
  const found = await page.run(`axe.run(document, { resultTypes: ["violations"] }).then(({ violations }) =>
    violations.flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => id + " " + target + ": " + failureSummary)))`);
  const over = await page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth");
  return over > 0 ? [...found, `the page is ${over} px wider than the window`] : found;
}

/** Types keys as a person does. */
export async function type(page, text) {
  await page.send("Input.insertText", { text });
}

export async function press(page, key) {
  const codes = { Enter: 13, Tab: 9, Escape: 27, Home: 36, End: 35, PageDown: 34, " ": 32 };
  const given = { key, code: key === " " ? "Space" : key, windowsVirtualKeyCode: codes[key], ...(key === "Enter" ? { text: "\r" } : key === " " ? { text: " " } : {}) };
  await page.send("Input.dispatchKeyEvent", { type: "keyDown", ...given });
  await page.send("Input.dispatchKeyEvent", { type: "keyUp", ...given });
}

/** Writes records into the log, past validators, in NATS's atomic batches: a long log at once. */
export async function fillLog(natsUrl, records) {
  const socket = connect(Number(new URL(natsUrl).port), "127.0.0.1");
  let said = "";
  let heard = () => {};
  socket.setEncoding("utf8");
  socket.on("data", (text) => ((said += text), heard()));
  const until = (wanted) =>
    new Promise((done, fail) => {
      socket.once("error", fail);
      heard = () => {
        if (/"error"/.test(said)) fail(new Error(said));
        if (!wanted.test(said)) return;
        said = "";
        socket.removeListener("error", fail);
        done();
      };
      heard();
    });
  socket.write('CONNECT {"verbose":false,"headers":true}\r\nSUB ack 1\r\n');
  await until(/^INFO/);
  for (let batch = 0; batch * 1000 < records.length; batch += 1) {
    const some = records.slice(batch * 1000, batch * 1000 + 1000);
    let text = "";
    some.forEach((record, index) => {
      const last = index === some.length - 1;
      const body = JSON.stringify(record);
      const head = `NATS/1.0\r\nNats-Batch-Id: fill-${process.pid}-${batch}\r\nNats-Batch-Sequence: ${index + 1}\r\n${last ? "Nats-Batch-Commit: 1\r\n" : ""}\r\n`;
      text += `HPUB committed.${record.partition}${last ? " ack" : ""} ${head.length} ${head.length + Buffer.byteLength(body)}\r\n${head}${body}\r\n`;
    });
    socket.write(text);
    await until(/"batch":/);
  }
  socket.destroy();
}
/** An event as it stands in the log. */
export const record = (partition, ordinal) => ({
  type: "set", payload: { target: `n${ordinal % 50}`, value: ordinal }, partition, timestamp: 1_790_000_000_000 + ordinal, clientId: `writer-${ordinal % 7}`,
  draftId: `d${ordinal}`, contentHash: "0000000000000000", ordinal,
});
