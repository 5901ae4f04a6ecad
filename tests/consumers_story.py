"""Consumers that are killed again and again keep every effect once; called by tests/consumers. Standard library only.

NATS runs with the shipped accounts and its user `reader`, with a validator and a frontend. Clients write while both
consumers are killed at random moments. NATS and PostgreSQL are killed once, too. At the end each database must have what
the log has: every event once, and counts that say the same.
"""

import argparse
import atexit
import ctypes
import glob
import json
import os
import pathlib
import pwd
import random
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import story_tools
from story_tools import free_port, say
from websocket import WebSocket

ROOT = pathlib.Path(__file__).resolve().parent.parent
BACKEND = os.environ["INSIEME_TEST_BACKEND"]
NATS_SERVER = os.environ["INSIEME_TEST_NATS_SERVER"]
PYTHON = os.environ["INSIEME_TEST_PYTHON"]
POSTGRES = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
WAIT_SECONDS = 120
USERS = ["frontend", "validator", "operator", "reader"]
PARTITIONS = ["default", "a/b ü?", "new\nline", "~"]
# What makes a consumer do its work in pieces: lines of it, and what they become.
BROKEN = {
    "consumer.py": [("async with database.transaction():", "if True:")],
    "consumer.mjs": [('"BEGIN"', '"SELECT 1"'), ('"COMMIT"', '"SELECT 1"')],
}

folder = pathlib.Path(tempfile.mkdtemp(prefix="insieme-consumers-"))
folder.chmod(0o755)
processes = []


@atexit.register
def clean_up():
    for process in processes:
        process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def wait_until(what, condition):
    return story_tools.wait_until(what, condition, WAIT_SECONDS)


class Process:
    """A process whose output goes to a file; ends with this script, however that ends."""

    def __init__(self, name, command, user=None, **environment):
        self.name, self.command, self.user = name, [str(part) for part in command], user
        self.environment = {**os.environ, **environment}
        self.log = folder / f"{name}.log"
        processes.append(self)
        self.start()

    def start(self):
        self.began = self.log.stat().st_size if self.log.exists() else 0
        death = lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment,
                preexec_fn=death, user=self.user, group=self.user, cwd=folder,
            )

    def said(self):
        return self.log.read_bytes()[self.began :].decode(errors="replace")

    def wait_for(self, text):
        def looked():
            assert self.child.poll() is None or text in self.said(), f"{self.name} ended:\n{self.said()[-2000:]}"
            return self.said() if text in self.said() else None

        return wait_until(f"{self.name} to say {text!r}", looked)

    def kill(self):
        self.child.kill()
        self.child.wait()


class Database:
    """A PostgreSQL server with its data in this run's folder."""

    def __init__(self):
        # It does not run as root.
        self.user = "postgres" if os.geteuid() == 0 else None
        self.port, self.data = free_port(), folder / "postgres"
        self.data.mkdir(mode=0o700)
        if self.user:
            os.chown(self.data, *pwd.getpwnam(self.user)[2:4])
        init = [f"{POSTGRES}/initdb", "--auth=trust", "--username=test", "--encoding=UTF8", "--locale=C", self.data]
        subprocess.run(init, check=True, stdout=subprocess.DEVNULL, user=self.user, group=self.user, cwd=folder)
        command = [f"{POSTGRES}/postgres", "-D", self.data, "-p", self.port, "-h", "127.0.0.1", "-k", self.data]
        self.server = Process("postgres", command, user=self.user)
        self.wait()

    def wait(self):
        wait_until("PostgreSQL to answer", lambda: self.ask("postgres", "SELECT 1", check=False) == "1")

    def url(self, name):
        return f"postgresql://test@127.0.0.1:{self.port}/{name}"

    def ask(self, name, query, check=True):
        command = [f"{POSTGRES}/psql", "-qAtX", self.url(name), "-c", query]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout.strip()


class Backend:
    """NATS as it is shipped, with its user `reader`; a validator and a frontend."""

    def __init__(self):
        self.nats_port = free_port()
        users = (ROOT / "nats/users.conf").read_text()
        others, reader = users.split("\n  READ {\n")
        assert "\n    # users: [\n" in f"\n{reader}", reader
        (folder / "users.conf").write_text(others + "\n  READ {\n" + reader.replace("\n    # ", "\n    ").replace("# users", "users"))
        text = (ROOT / "nats/single.conf").read_text().replace('http: "0.0.0.0:8222"', "")
        text = text.replace("0.0.0.0:4222", f"127.0.0.1:{self.nats_port}").replace('"/data"', f'"{folder}/store"')
        (folder / "nats.conf").write_text(text)
        passwords = {f"NATS_{user.upper()}_PASSWORD": f"{user}Secret" for user in USERS}
        self.nats = Process("nats", [NATS_SERVER, "--config", folder / "nats.conf"], **passwords)
        self.nats.wait_for("Server is ready")
        self.run("bootstrap")
        self.validator = Process("validator", [BACKEND, "validator"], **self.as_user("validator"))
        self.validator.wait_for("validator ready: ")
        command = [BACKEND, "frontend", "--allow-anyone", "--listen", "127.0.0.1:0"]
        command += ["--set", "frontend.submissions_per_minute_max=0"]
        frontend = Process("frontend", command, INSIEME_NATS_API_PREFIX="core", **self.as_user("frontend"))
        self.port = int(re.search(r"frontend ready: ws://127.0.0.1:(\d+)", frontend.wait_for("frontend ready: "))[1])

    def url(self):
        return f"nats://127.0.0.1:{self.nats_port}"

    def as_user(self, user):
        return {"INSIEME_NATS_URLS": self.url(), "INSIEME_NATS_USER": user, "INSIEME_NATS_PASSWORD": f"{user}Secret"}

    def run(self, *arguments):
        environment = {**os.environ, **self.as_user("operator")}
        done = subprocess.run([BACKEND, *arguments], capture_output=True, env=environment)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()


class Writer(threading.Thread):
    """A client that writes until it is told to stop."""

    def __init__(self, port, partition):
        super().__init__(daemon=True)
        self.port, self.partition = port, partition
        self.ending, self.sent = threading.Event(), 0

    def run(self):
        while not self.ending.is_set():
            try:
                self.write()
            except OSError:
                time.sleep(0.2)

    def write(self):
        web = WebSocket(self.port)
        name = f"writer-{random.random()}"
        numbers = iter(range(1_000_000))

        def tell(kind, **payload):
            message = {"id": f"m{next(numbers)}", "type": kind, "timestamp": 0, "payload": payload}
            web.send(json.dumps(message).encode())

        tell("connect", clientId=name, version="test", partition=self.partition)
        assert web.receive()["type"] == "connected"
        while not self.ending.is_set():
            self.sent += 1
            # The first draft is refused, which takes a mark in a partition that has no event yet.
            event = {"type": "set", "payload": {"target": f"k{self.sent % 50}", "value": f"{self.sent} \0 ü"}}
            if self.sent == 1:
                event["payload"] = {}
            tell("submit_event", draftId=f"d{self.sent}", event=event)
            while web.receive()["type"] not in ("event_accepted", "event_rejected"):
                pass
        web.close()


class Consumer:
    """A consumer with a database of its own."""

    def __init__(self, name, command, database, backend):
        self.name, self.command, self.database, self.positions = name, command, database, set()
        database.ask("postgres", f"CREATE DATABASE {name}")
        self.environment = {
            "NATS_URL": backend.url(), "NATS_USER": "reader", "NATS_PASSWORD": "readerSecret", "NATS_API": "core",
            "DATABASE_URL": database.url(name),
        }
        self.process = Process(name, command, **self.environment)
        self.process.wait_for("reading after event")

    def position(self):
        return int(self.database.ask(self.name, "SELECT event_id FROM position"))

    def meet_a_second_one(self):
        """Runs a second one beside it: one of the two must stop."""
        second = Process(f"{self.name}-second", self.command, **self.environment)
        both = [self.process, second]
        stopped = wait_until("one of two to stop", lambda: [one for one in both if one.child.poll() is not None])[0]
        assert "another one is running" in stopped.said(), stopped.said()
        second.kill()
        if stopped is self.process:
            self.process.start()

    def kill_at_some_moment(self):
        # Mostly after it has committed something; sometimes before its first commit, or before it has begun.
        moment = random.random()
        if moment < 0.9:
            self.process.wait_for("reading after event")
        if moment < 0.7:
            before = self.position()
            wait_until(f"{self.name} to go on", lambda: self.position() > before)
        time.sleep(random.random() * 0.2)
        self.process.kill()
        self.positions.add(self.position())
        self.process.start()


def compare(consumer, log):
    """What differs between a database and the log."""
    found = json.loads(consumer.database.ask(consumer.name, "SELECT coalesce(json_agg(e), '[]') FROM event e"))
    in_table = {row["event_id"]: (row["partition"], row["record"]) for row in found}
    counts = dict(line.split("|") for line in consumer.database.ask(
        consumer.name, "SELECT partition, events FROM activity").splitlines())
    wrong = []
    if missing := log.keys() - in_table.keys():
        wrong.append(f"{len(missing)} events are missing, such as {sorted(missing)[:5]}")
    if others := in_table.keys() - log.keys():
        wrong.append(f"{len(others)} events are none, such as {sorted(others)[:5]}")
    if [id for id in log.keys() & in_table.keys() if in_table[id][1] != log[id]]:
        wrong.append("records differ")
    told = {}
    for partition, _ in in_table.values():
        told[partition] = told.get(partition, 0) + 1
    if {partition: int(count) for partition, count in counts.items()} != told:
        wrong.append(f"effects are lost or doubled: {counts}, and the events are {told}")
    return wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--broken", action="store_true")
    options = parser.parse_args()
    programs = folder / "consumers"
    shutil.copytree(ROOT / "examples/consumers", programs, symlinks=True)
    if options.broken:
        for file, changes in BROKEN.items():
            text = (programs / file).read_text()
            for old, new in changes:
                assert text.count(old) == 1, (file, old)
                text = text.replace(old, new)
            (programs / file).write_text(text)

    backend, database = Backend(), Database()
    say("NATS, a validator, a frontend and PostgreSQL run")
    writers = [Writer(backend.port, partition) for partition in PARTITIONS]
    for writer in writers:
        writer.start()
    consumers = [
        Consumer("python", [PYTHON, programs / "consumer.py"], database, backend),
        Consumer("node", ["node", programs / "consumer.mjs"], database, backend),
    ]
    for number in range(options.kills):
        # All from this thread: a process ends with the thread that started it.
        for one in consumers:
            try:
                one.kill_at_some_moment()
            except AssertionError:
                # The effect that it had before it was killed stands in its way: that is noticed, too.
                if options.broken and "event_pkey" in one.process.said():
                    return say(f"noticed, as it must be: {one.name} cannot go on:\n{one.process.said()[-300:]}")
                raise
        if number == options.kills // 3:
            database.server.kill()
            database.server.start()
            database.wait()
            say("PostgreSQL was killed, and is back")
        if number == options.kills * 2 // 3:
            backend.nats.kill()
            backend.nats.start()
            backend.nats.wait_for("Server is ready")
            say("NATS was killed, and is back")
    for one in consumers:
        say(f"{one.name}: killed {options.kills} times, at {len(one.positions)} different positions")
        assert len(one.positions) > options.kills / 3, "it was killed too early to do anything"

    if not options.broken:
        for one in consumers:
            one.meet_a_second_one()
        say("a second one beside each was noticed")
    for writer in writers:
        writer.ending.set()
    for writer in writers:
        writer.join()
    log, marks, head = {}, 0, 0
    for partition in PARTITIONS:
        for line in backend.run("log", partition).splitlines():
            event = json.loads(line)
            id = event.pop("eventId")
            head = max(head, id)
            if event.get("isMark"):
                marks += 1
            else:
                log[id] = event
    say(f"the log has {len(log)} events and {marks} marks")
    assert marks > 0 and len(log) > 100, "too little happened"
    wrong = []
    for one in consumers:
        try:
            wait_until(f"{one.name} to be at the end", lambda: one.position() >= head)
            wrong += [f"{one.name}: {what}" for what in compare(one, log)]
        except AssertionError as error:
            wrong.append(f"{one.name}: {error}\n{one.process.said()[-800:]}")
    if options.broken:
        assert wrong, "effects without a transaction were not noticed"
        return say(f"noticed, as it must be: {wrong}")
    assert not wrong, "\n".join(wrong)

    # A log that is another one is not read on.
    one = consumers[0]
    one.process.kill()
    database.ask(one.name, "UPDATE position SET record_sha256 = 'of another log'")
    one.process.start()
    wait_until("it to stop", lambda: one.process.child.poll() is not None)
    assert "is another one" in one.process.said(), one.process.said()
    say("every event has its effect once")


if __name__ == "__main__":
    main()
