"""Turns an export of insieme-backend into a database of the reference server, the npm package `insieme`.

    insieme-backend export events.jsonl && python3 to_reference.py events.jsonl STORE.db

STORE.db must not exist. It has the tables of `createSqliteSyncStore` and `createLibsqlSyncStore`. Events are as v1 clients
saw them, under their ids; marks, which no client sees, are left out. docs/operations/move.md says what is lost.
"""

import argparse
import hashlib
import json
import pathlib
import sqlite3
import sys

TABLES = """
CREATE TABLE committed_events (
  committed_id INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  project_id TEXT NOT NULL,
  user_id TEXT,
  partition TEXT NOT NULL,
  type TEXT NOT NULL,
  schema_version INTEGER NOT NULL,
  payload BLOB NOT NULL,
  payload_compression TEXT DEFAULT NULL,
  client_ts INTEGER NOT NULL,
  server_ts INTEGER NOT NULL,
  created_at INTEGER NOT NULL
);
CREATE INDEX committed_events_project_committed_idx ON committed_events(project_id, committed_id);
PRAGMA user_version = 4;
"""
INSERT = "INSERT INTO committed_events VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, ?, ?, ?)"


def row_of(committed_id, record):
    """The event as v1 clients see it. A classic event is shown to them under another id and label."""
    v1, time = record.get("v1"), record["timestamp"]
    if v1 is None:
        name, label, version, user, client_ts = f"evt-{committed_id}", "default", 1, record.get("userId"), time
    else:
        client_ts = v1["meta"].get("clientTs", 0)
        name, label, version, user = record["draftId"], v1["label"], v1["schemaVersion"], v1.get("userId")
    payload = json.dumps(record["payload"], ensure_ascii=False, separators=(",", ":")).encode()
    place = (committed_id, name, record["partition"], user, label)
    return (*place, record["type"], version, payload, int(client_ts), time, time)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=pathlib.Path)
    parser.add_argument("store", type=pathlib.Path)
    options = parser.parse_args()
    if options.store.exists():
        sys.exit(f"{options.store} is there already")
    # Only a whole one gets its name.
    part = options.store.with_name(options.store.name + ".part")
    part.unlink(missing_ok=True)
    database = sqlite3.connect(part)
    database.executescript(TABLES)
    sha256, end, stored, read, left_out = hashlib.sha256(), None, 0, 0, 0
    with open(options.export, "rb") as lines:
        for number, line in enumerate(lines, 1):
            said = json.loads(line)
            if number == 1 and (said.get("insieme"), said.get("version")) != ("export", 1):
                sys.exit(f"{options.export} is no export of insieme-backend")
            if end := said.get("end"):
                break
            sha256.update(line)
            if number == 1:
                continue
            read += 1
            if said["record"].get("isMark"):
                left_out += 1
                continue
            try:
                database.execute(INSERT, row_of(said["id"], said["record"]))
            except (sqlite3.Error, KeyError, TypeError, ValueError) as error:
                sys.exit(f"event {said['id']} cannot be stored there: {error}")
            stored += 1
    if end is None or end["events"] != read or end["sha256"] != sha256.hexdigest():
        sys.exit(f"{options.export} is not whole")
    database.commit()
    database.close()
    part.rename(options.store)
    print(f"{stored} events; {left_out} marks left out")


if __name__ == "__main__":
    main()
