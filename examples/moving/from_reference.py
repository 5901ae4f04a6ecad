"""Turns the database of the reference server, the npm package `insieme`, into a file that `insieme-backend import` reads.

    python3 from_reference.py STORE.db > events.jsonl

It reads the SQLite file of `createSqliteSyncStore`, or the local file of `createLibsqlSyncStore`: both have the same
tables. It only reads, in one transaction, so the server may run. Python's standard library is all that it needs.
docs/operations/move.md has the steps of a move.
"""

import argparse
import hashlib
import json
import pathlib
import sqlite3
import sys

SCHEMA_VERSION = 4
COLUMNS = "committed_id, id, project_id, user_id, partition, type, schema_version, payload, client_ts, server_ts"


def dump(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def draft_of(row):
    """The event as its client submitted it. Its payload stays as it is written."""
    committed_id, draft_id, project, user, label, kind, schema_version, payload, client_ts, server_ts = row
    payload = payload.decode() if isinstance(payload, bytes) else payload
    json.loads(payload)
    v1 = {"label": label, "schemaVersion": schema_version}
    if user:
        v1["userId"] = user
    # The store keeps no other part of `meta`.
    v1["meta"] = {"clientTs": client_ts}
    head = {"id": committed_id, "partition": project, "timestamp": server_ts, "clientId": options.client_id}
    draft = f'{{"draftId":{dump(draft_id)},"type":{dump(kind)},"payload":{payload},"v1":{dump(v1)}}}'
    return f'{dump(head)[:-1]},"draft":{draft}}}'.replace("\n", " ").replace("\r", " ")


def main():
    out, sha256 = sys.stdout.buffer, hashlib.sha256()

    def line(text):
        data = f"{text}\n".encode()
        sha256.update(data)
        out.write(data)

    path = pathlib.Path(options.store).resolve()
    database = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    database.execute("BEGIN")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version != SCHEMA_VERSION:
        sys.exit(f"{path} has version {version} of the reference server's tables; this reads version {SCHEMA_VERSION}")
    line(dump({"insieme": "export", "version": 1}))
    events = first = last = 0
    for row in database.execute(f"SELECT {COLUMNS} FROM committed_events ORDER BY committed_id"):
        try:
            line(draft_of(row))
        except (ValueError, TypeError) as error:
            sys.exit(f"event {row[0]} cannot be read: {error}")
        events, first, last = events + 1, first or row[0], row[0]
    line(dump({"end": {"events": events, "first": first, "last": last, "sha256": sha256.hexdigest()}}))
    out.flush()
    print(f"{events} events up to {last}", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="the database file")
    parser.add_argument("--client-id", default="reference", help="who is named as the client: the store does not know")
    options = parser.parse_args()
    main()
