// Keeps tables in PostgreSQL up to date with the log of insieme-backend, each event exactly once.
//
// The position is stored in the transaction of the effects. Kill this at any time: it goes on from the position, and
// no effect is lost or doubled. Run a second one by accident, and one of the two stops. docs/READING-THE-LOG.md
// explains it.
//
//     NATS_URL, NATS_USER, NATS_PASSWORD   where the log is   [default: nats://127.0.0.1:4222, no user]
//     NATS_API                             how the account names JetStream's API; `core` for the user `reader`
//     DATABASE_URL                         the PostgreSQL database

import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { connect, createInbox } from "@nats-io/transport-node";
import pg from "pg";

const CONSUMER = "activity";
const READ = `${process.env.NATS_API ?? "$JS.API"}.DIRECT.GET.COMMITTED`;
// What is read, and written in one transaction, at a time.
const BATCH_EVENTS = 500;
const BATCH_BYTES = 4 * 1024 * 1024;
const ANSWER_MS = 5_000;
// How long without news until the log is read again all the same: live messages may be lost.
const IDLE_MS = 1_000;
const RETRY_MS = 1_000;

/** Going on would be wrong; a person has to look. */
class MustStop extends Error {}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const sha256 = (event) => createHash("sha256").update(event.body).digest("hex");

/** At most a batch of events from `first` on, and whether there are more. */
async function read(log, first) {
  const inbox = createInbox();
  const replies = log.subscribe(inbox);
  const timer = setTimeout(() => replies.unsubscribe(), ANSWER_MS);
  try {
    const get = { seq: first, next_by_subj: "committed.>", batch: BATCH_EVENTS, max_bytes: BATCH_BYTES };
    log.publish(READ, JSON.stringify(get), { reply: inbox });
    const events = [];
    let last = 0;
    for await (const { headers, data } of replies) {
      timer.refresh();
      const status = headers?.code ?? 0;
      if (status === 404 && events.length === 0) return { events, more: false };
      if (status !== 0 && status !== 204) throw new Error(`NATS answers ${status} ${headers.description}`);
      // Each reply names the one before it, and the end names the last one: so none was lost.
      const previous = headers?.get("Nats-Last-Sequence");
      if (previous !== String(last)) throw new Error(`a reply follows ${previous}, not ${last}`);
      if (status === 204) return { events, more: Number(headers.get("Nats-Num-Pending")) > 0 };
      last = Number(headers.get("Nats-Sequence"));
      events.push({ id: last, partition: headers.get("Nats-Subject").slice("committed.".length), body: data });
    }
    throw new Error("the answer did not come whole in time");
  } finally {
    clearTimeout(timer);
    replies.unsubscribe();
  }
}

/** The events after the position, and whether there are more. */
async function news(log, position) {
  // The last event again: if it is another one, this is not the log that was read.
  const { events, more } = await read(log, Math.max(position.eventId, 1));
  if (position.eventId === 0 || events.length === 0) return { events, more };
  if (events[0].id !== position.eventId || sha256(events[0]) !== position.recordSha256) {
    throw new MustStop(`event ${position.eventId}, the last one that was read, is gone or is another one`);
  }
  return { events: events.slice(1), more };
}

/** What this consumer is for: put yours here. It runs once for each event. */
async function effect(database, { id, partition, body }) {
  const text = Buffer.from(body).toString();
  // A mark is bookkeeping of the validators, and no client's event.
  if (JSON.parse(text).isMark) return;
  await database.query("INSERT INTO event (event_id, partition, record) VALUES ($1, $2, $3)", [id, partition, text]);
  await database.query(
    `INSERT INTO activity (partition, events, last_event_id) VALUES ($1, 1, $2) ON CONFLICT (partition)
     DO UPDATE SET events = activity.events + 1, last_event_id = excluded.last_event_id`,
    [partition, id],
  );
}

/** Writes the effects of the events and the new position, all or nothing; gives that position. */
async function apply(database, position, events) {
  const last = events.at(-1);
  const after = { eventId: last.id, recordSha256: sha256(last) };
  await database.query("BEGIN");
  // Nobody else may go on from here until this is committed.
  const { rows } = await database.query("SELECT event_id FROM position WHERE consumer = $1 FOR UPDATE", [CONSUMER]);
  const stored = Number(rows[0].event_id);
  if (stored !== position.eventId) {
    throw new MustStop(`another one is running: the position is ${stored}, not ${position.eventId}`);
  }
  for (const event of events) await effect(database, event);
  const values = [after.eventId, after.recordSha256, CONSUMER];
  await database.query("UPDATE position SET event_id = $1, record_sha256 = $2 WHERE consumer = $3", values);
  await database.query("COMMIT");
  return after;
}

async function openPosition(database) {
  await database.query(await readFile(new URL("schema.sql", import.meta.url), "utf8"));
  await database.query("INSERT INTO position VALUES ($1, 0, '') ON CONFLICT DO NOTHING", [CONSUMER]);
  const { rows } = await database.query("SELECT * FROM position WHERE consumer = $1", [CONSUMER]);
  return { eventId: Number(rows[0].event_id), recordSha256: rows[0].record_sha256 };
}

async function run() {
  const database = new pg.Client(process.env.DATABASE_URL);
  let log = null;
  // The query that runs fails too; without a listener it would end the process.
  database.on("error", (error) => console.error(`the database's connection failed: ${error.message}`));
  try {
    await database.connect();
    let position = await openPosition(database);
    const { NATS_URL: servers = "nats://127.0.0.1:4222", NATS_USER: user, NATS_PASSWORD: pass } = process.env;
    log = await connect({ servers, user, pass, reconnect: false });
    let wake = () => {};
    let isWoken = false;
    // Only to hear at once that there is something: what is read comes from the log.
    log.subscribe("live.>", { callback: () => { isWoken = true; wake(); } });
    console.log(`reading after event ${position.eventId}`);
    for (;;) {
      isWoken = false;
      const { events, more } = await news(log, position);
      if (events.length > 0) position = await apply(database, position, events);
      if (more || isWoken) continue;
      let timer;
      await new Promise((resolve) => {
        wake = resolve;
        timer = setTimeout(resolve, IDLE_MS);
      });
      clearTimeout(timer);
    }
  } finally {
    // A transaction that is open ends with its connection.
    await log?.close();
    await database.end().catch(() => {});
  }
}

for (;;) {
  try {
    await run();
  } catch (error) {
    if (error instanceof MustStop) {
      console.error(`stopped: ${error.message}`);
      process.exit(1);
    }
    // Nobody knows whether a transaction whose answer was lost is committed; the position says so.
    console.error(`failed: ${error.message}; trying again`);
    await sleep(RETRY_MS);
  }
}
