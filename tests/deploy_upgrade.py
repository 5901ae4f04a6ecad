"""Does what docs/operations/upgrade.md says about one server that becomes three, and about another number of slots."""

import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import urllib.request

from deploy_tools import BINARY, NATS_SERVER, PASSWORDS, ROOT, run, say, shipped_nats, wait_until
from story_tools import free_port
from websocket import WebSocket

PARTITIONS = [f"room-{number}" for number in range(6)]
EVENTS_EACH = 12


def text_at(url):
    """What it answers with 200; nothing otherwise."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


class Site:
    """NATS and one process of each role, by the shipped configuration."""

    def __init__(self, folder, servers=1, **settings):
        self.folder, self.processes, self.port = pathlib.Path(folder), [], free_port()
        self.folder.mkdir()
        # The machine may be busy; how long things take is not what this checks.
        settings = {"nats_request_timeout_ms": 30_000, **settings}
        self.settings = {f"INSIEME_{key.upper()}": str(value) for key, value in settings.items()}
        self.ports = [free_port() for _ in range(servers)]
        health, routes = [], [free_port() for _ in range(servers)]
        addresses = ", ".join(f'"nats://route:routeSecret@127.0.0.1:{port}"' for port in routes)
        for number, (port, route) in enumerate(zip(self.ports, routes), 1):
            monitoring = free_port()
            ports = {4222: port, 8222: monitoring} | ({6222: route} if servers > 1 else {})
            file = "cluster.conf" if servers > 1 else "single.conf"
            config = shipped_nats(self.folder / f"nats-{number}", file, ports)
            own = {"NATS_SERVER_NAME": f"insieme-{number}", "NATS_ROUTES": f"[ {addresses} ]"}
            self.launch(f"nats-{number}", [NATS_SERVER, "-c", config], **PASSWORDS, **own, NATS_ROUTE_PASSWORD="routeSecret")
            health.append(f"http://127.0.0.1:{monitoring}/healthz?js-server-only=true")
        for url in health:
            wait_until("NATS to be healthy", lambda: text_at(url))
        # A cluster answers nothing about streams before it has a leader.
        for url in health if servers > 1 else []:
            wait_until("NATS to have a leader", lambda: '"leader": "insieme-' in text_at(url.split("/healthz")[0] + "/jsz"))

    def environment(self, user):
        urls = ",".join(f"nats://127.0.0.1:{port}" for port in self.ports)
        prefix = {"INSIEME_NATS_API_PREFIX": "core"} if user == "frontend" else {}
        password = PASSWORDS[f"NATS_{user.upper()}_PASSWORD"]
        return {**self.settings, **prefix, "INSIEME_NATS_URLS": urls, "INSIEME_NATS_USER": user, "INSIEME_NATS_PASSWORD": password}

    def launch(self, name, command, **environment):
        log = open(self.folder / f"{name}.log", "wb")
        child = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, env={**os.environ, **environment})
        self.processes.append(child)

    def log_of(self, name):
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def operate(self, *command):
        return run(BINARY, *command, **self.environment("operator"))

    def start(self):
        self.operate("bootstrap")
        # Snapshots come along in a backup.
        self.launch("validator", [BINARY, "validator", "--set", "validator.snapshot_events_min=5"], **self.environment("validator"))
        frontend = [BINARY, "frontend", "--listen", f"127.0.0.1:{self.port}", "--allow-anyone"]
        self.launch("frontend", frontend, **self.environment("frontend"))
        for role in ["validator", "frontend"]:
            wait_until(f"{role} to be ready", lambda: f"{role} ready:" in self.log_of(role))

    def write(self, value):
        """Returns the last event id of each partition."""
        last = {}
        for partition in PARTITIONS:
            socket = WebSocket(self.port)
            tell = lambda kind, **payload: socket.send(
                json.dumps({"id": "m", "type": kind, "timestamp": 0, "payload": payload}).encode()
            )
            tell("connect", clientId="writer", version="1", partition=partition)
            assert socket.receive()["type"] == "connected"
            for number in range(EVENTS_EACH):
                event = {"type": "set", "payload": {"target": f"key-{number}", "value": value}}
                tell("submit_event", draftId=f"{value}-{number}", event=event)
                while (answer := socket.receive())["type"] != "event_accepted":
                    assert answer["type"] in ["broadcast"], answer
                last[partition] = answer["payload"]["eventId"]
            socket.close()
        return last

    def hashes(self):
        return [self.operate("state", partition, "--hash").splitlines()[0] for partition in PARTITIONS]

    def stop(self):
        for child in reversed(self.processes):
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in self.processes:
            child.wait(timeout=60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def documented(section):
    """The commands on the backup's files in a section of the page."""
    text = (ROOT / "docs/operations/upgrade.md").read_text()
    part = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.M | re.S)[1]
    found = re.findall(r"^ *(sed .*FOLDER.*)$", part, re.M)
    assert len(found) == 1, (section, found)
    return found[0]


def check():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        with Site(folder / "before") as site:
            site.start()
            last, hashes = site.write("before"), site.hashes()
            for name in ["three", "slots"]:
                site.operate("backup", str(folder / f"backup-{name}"))
        moved("from one server to three", Site(folder / "three", servers=3, nats_replicas=3), "From one server to three",
              folder / "backup-three", hashes, last)
        moved("from 64 slots to 128", Site(folder / "slots", nats_slots=128), "Another number of slots",
              folder / "backup-slots", hashes, last)


def moved(what, site, section, backup, hashes, last):
    with site:
        subprocess.run(["bash", "-ec", documented(section).replace("FOLDER", str(backup))], check=True, timeout=60)
        site.operate("restore", str(backup))
        site.start()
        assert site.hashes() == hashes, f"{what}: the states are others"
        after = site.write("after")
        assert all(after[partition] > last[partition] for partition in PARTITIONS), f"{what}: event ids begin again"
    say(f"{what}: every state is as it was, and it goes on")
