"""Keeps tables in PostgreSQL up to date with the log of insieme-backend, each event exactly once.

The position is stored in the transaction of the effects. Kill this at any time: it goes on from the position, and no
effect is lost or doubled. Run a second one by accident, and one of the two stops. docs/READING-THE-LOG.md explains it.

    NATS_URL, NATS_USER, NATS_PASSWORD   where the log is   [default: nats://127.0.0.1:4222, no user]
    NATS_API                             how the account names JetStream's API; `core` for the user `reader`
    DATABASE_URL                         the PostgreSQL database
"""

import asyncio
import hashlib
import json
import os
import pathlib
import sys
from typing import NamedTuple

import nats
import psycopg

CONSUMER = "activity"
READ = os.environ.get("NATS_API", "$JS.API") + ".DIRECT.GET.COMMITTED"
# What is read, and written in one transaction, at a time.
BATCH_EVENTS = 500
BATCH_BYTES = 4 * 1024 * 1024
ANSWER_SECONDS = 5
# How long without news until the log is read again all the same: live messages may be lost.
IDLE_SECONDS = 1
RETRY_SECONDS = 1


class Event(NamedTuple):
    id: int
    # The partition's subject token.
    partition: str
    # The record, as it is stored.
    body: bytes

    def sha256(self):
        return hashlib.sha256(self.body).hexdigest()


class Position(NamedTuple):
    event_id: int
    record_sha256: str


class IncompleteAnswer(Exception):
    """A part of an answer was lost on its way."""


class MustStop(Exception):
    """Going on would be wrong; a person has to look."""


async def read(log, first):
    """At most a batch of events from `first` on, and whether there are more."""
    inbox = log.new_inbox()
    replies = await log.subscribe(inbox)
    try:
        get = {"seq": first, "next_by_subj": "committed.>", "batch": BATCH_EVENTS, "max_bytes": BATCH_BYTES}
        await log.publish(READ, json.dumps(get).encode(), reply=inbox)
        events, last = [], 0
        while True:
            reply = await replies.next_msg(timeout=ANSWER_SECONDS)
            headers = reply.headers or {}
            status = headers.get("Status")
            if status == "404" and not events:
                return [], False
            if status not in (None, "204"):
                raise IncompleteAnswer(f"NATS answers {status} {headers.get('Description', '')}")
            # Each reply names the one before it, and the end names the last one: so none was lost.
            if headers.get("Nats-Last-Sequence") != str(last):
                raise IncompleteAnswer(f"a reply follows {headers.get('Nats-Last-Sequence')}, not {last}")
            if status == "204":
                return events, int(headers["Nats-Num-Pending"]) > 0
            last = int(headers["Nats-Sequence"])
            events.append(Event(last, headers["Nats-Subject"].removeprefix("committed."), reply.data))
    finally:
        await replies.unsubscribe()


async def news(log, position):
    """The events after the position, and whether there are more."""
    # The last event again: if it is another one, this is not the log that was read.
    events, more = await read(log, max(position.event_id, 1))
    if position.event_id == 0 or not events:
        return events, more
    if events[0].id != position.event_id or events[0].sha256() != position.record_sha256:
        raise MustStop(f"event {position.event_id}, the last one that was read, is gone or is another one")
    return events[1:], more


async def effect(cursor, event):
    """What this consumer is for: put yours here. It runs once for each event."""
    record = json.loads(event.body)
    # A mark is bookkeeping of the validators, and no client's event.
    if record.get("isMark"):
        return
    await cursor.execute(
        "INSERT INTO event (event_id, partition, record) VALUES (%s, %s, %s)",
        (event.id, event.partition, event.body.decode()),
    )
    await cursor.execute(
        "INSERT INTO activity (partition, events, last_event_id) VALUES (%s, 1, %s) ON CONFLICT (partition)"
        " DO UPDATE SET events = activity.events + 1, last_event_id = excluded.last_event_id",
        (event.partition, event.id),
    )


async def apply(database, position, events):
    """Writes the effects of the events and the new position, all or nothing; gives that position."""
    after = Position(events[-1].id, events[-1].sha256())
    async with database.transaction():
        cursor = database.cursor()
        # Nobody else may go on from here until this is committed.
        await cursor.execute("SELECT event_id FROM position WHERE consumer = %s FOR UPDATE", (CONSUMER,))
        (stored,) = await cursor.fetchone()
        if stored != position.event_id:
            raise MustStop(f"another one is running: the position is {stored}, not {position.event_id}")
        for event in events:
            await effect(cursor, event)
        await cursor.execute(
            "UPDATE position SET event_id = %s, record_sha256 = %s WHERE consumer = %s", (*after, CONSUMER)
        )
    return after


async def open_position(database):
    await database.execute(pathlib.Path(__file__).with_name("schema.sql").read_text())
    await database.execute("INSERT INTO position VALUES (%s, 0, '') ON CONFLICT DO NOTHING", (CONSUMER,))
    stored = await database.execute("SELECT event_id, record_sha256 FROM position WHERE consumer = %s", (CONSUMER,))
    return Position(*await stored.fetchone())


async def run():
    async with await psycopg.AsyncConnection.connect(os.environ["DATABASE_URL"], autocommit=True) as database:
        position = await open_position(database)
        log = await nats.connect(
            os.environ.get("NATS_URL", "nats://127.0.0.1:4222"),
            user=os.environ.get("NATS_USER"),
            password=os.environ.get("NATS_PASSWORD"),
            max_reconnect_attempts=0,
        )
        try:
            woken = asyncio.Event()

            async def wake(_):
                woken.set()

            # Only to hear at once that there is something: what is read comes from the log.
            await log.subscribe("live.>", cb=wake)
            print(f"reading after event {position.event_id}", flush=True)
            while True:
                woken.clear()
                events, more = await news(log, position)
                if events:
                    position = await apply(database, position, events)
                if not more:
                    try:
                        await asyncio.wait_for(woken.wait(), IDLE_SECONDS)
                    except asyncio.TimeoutError:
                        pass
        finally:
            await log.close()


async def main():
    while True:
        try:
            await run()
        except (psycopg.Error, nats.errors.Error, OSError, asyncio.TimeoutError, IncompleteAnswer) as error:
            # Nobody knows whether a transaction whose answer was lost is committed; the position says so.
            print(f"failed: {type(error).__name__}: {error}; trying again", file=sys.stderr, flush=True)
            await asyncio.sleep(RETRY_SECONDS)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except MustStop as error:
        sys.exit(f"stopped: {error}")
    except KeyboardInterrupt:
        pass
