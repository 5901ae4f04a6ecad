"""What must work with the backend running under compose; called by tests/compose.

Clients connect through the load balancer, everyone sees everything in one order, a frontend and a validator
are killed on the way, and everything is still there after `down` and `up`. Standard library only.
"""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from websocket import WebSocket

PORT = int(sys.argv[1])
DOCKER = os.environ.get("DOCKER", "docker")
CLIENTS = 6
DRAFTS_EACH = 5
WAIT_SECONDS = 60


def say(text):
    print(f"{time.strftime('%H:%M:%S')} compose: {text}", flush=True)


def docker(*arguments):
    return subprocess.run([DOCKER, *arguments], check=True, capture_output=True, text=True, timeout=60).stdout


def compose(*arguments):
    done = subprocess.run(["docker-compose", *arguments], capture_output=True, text=True, timeout=180)
    if done.returncode != 0:
        raise AssertionError(f"docker-compose {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def wait_until(what, condition):
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {WAIT_SECONDS} s\n{docker('ps', '-a')}")


def containers(service):
    return compose("ps", "-q", service).split()


def are_healthy(**scale):
    for service, count in scale.items():
        states = [docker("inspect", "-f", "{{.State.Health.Status}}", id).strip() for id in containers(service)]
        if states.count("healthy") != count:
            return False
    return True


class Client:
    """Comes back when its connection breaks, and submits again what it has not seen committed."""

    def __init__(self, name):
        self.name = name
        self.events = []
        self.mine = []
        self.reconnects = -1
        self.connect()

    def connect(self):
        self.reconnects += 1
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                self.socket = WebSocket(PORT)
                last = self.events[-1][0] if self.events else 0
                self.tell("connect", clientId=self.name, version="0.0.8", partition="compose", lastEventId=last)
                answer = self.socket.receive()
                if answer["type"] == "connected":
                    break
                raise ConnectionError(answer)
            except (OSError, ConnectionError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        self.server = answer["payload"]["serverId"]
        seen = {target for _, target in self.events}
        for target in self.mine:
            if target not in seen:
                self.draft(target)

    def tell(self, kind, **payload):
        message = {"id": f"{kind}-{time.monotonic_ns()}", "type": kind, "timestamp": 0, "payload": payload}
        self.socket.send(json.dumps(message).encode())

    def draft(self, target):
        event = {"type": "set", "payload": {"target": target, "value": self.name}}
        self.tell("submit_event", draftId=target, event=event)

    def submit(self, target):
        self.mine.append(target)
        try:
            self.draft(target)
        except OSError:
            self.connect()

    def read_until(self, count):
        deadline = time.monotonic() + WAIT_SECONDS
        while len(self.events) < count:
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name} has seen {len(self.events)} of {count} events")
            try:
                message = self.socket.receive()
            except OSError:
                self.connect()
                continue
            if message["type"] == "broadcast":
                payload = message["payload"]
                self.events.append((payload["eventId"], payload["event"]["payload"]["target"]))
            elif message["type"] != "event_accepted":
                raise AssertionError(f"{self.name} was told {message}")


def everyone_submits(clients, round, halfway=lambda: None):
    for index, client in enumerate(clients):
        if index == len(clients) // 2:
            halfway()
        for number in range(DRAFTS_EACH):
            client.submit(f"{client.name}-{round}-{number}")
    check(clients, CLIENTS * DRAFTS_EACH * round)


def check(clients, count):
    # All at once: what one waits for may be what another has yet to submit again.
    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(lambda client: client.read_until(count), clients))
    ids = [id for id, _ in clients[0].events]
    assert ids == sorted(set(ids)), "ids must rise, none twice"
    assert len({target for _, target in clients[0].events}) == count, "every draft committed once"
    for client in clients[1:]:
        assert client.events == clients[0].events, f"{client.name} saw something else than {clients[0].name}"


def kill_one(service):
    """As a crash would: the daemon knows nothing of it beforehand."""
    pid = int(docker("inspect", "-f", "{{.State.Pid}}", containers(service)[0]))
    os.kill(pid, signal.SIGKILL)
    say(f"killed a {service}")


def main():
    whole = dict(nats=1, validator=2, frontend=3, lb=1)
    wait_until("all healthy", lambda: are_healthy(**whole))
    say("all are healthy")
    # The load balancer sees a new frontend a moment after its health check does.
    probes = set()
    wait_until("all frontends behind the load balancer", lambda: len(probes.add(Client("probe").server) or probes) == 3)

    clients = [Client(f"c{number}") for number in range(CLIENTS)]
    say(f"{CLIENTS} clients on {len({client.server for client in clients})} frontends")
    everyone_submits(clients, 1)
    say("everyone saw everything, in one order")

    everyone_submits(clients, 2, halfway=lambda: (kill_one("frontend"), kill_one("validator")))
    assert sum(client.reconnects for client in clients) > 0, "somebody was on the frontend that was killed"
    say("still so with a frontend and a validator killed on the way")
    wait_until("the killed are back", lambda: are_healthy(**whole))

    compose("down")
    assert docker("ps", "-aq") == "", "down leaves no container"
    compose("up", "-d", "--no-build", "--scale", "frontend=3", "--scale", "validator=2")
    wait_until("all healthy again", lambda: are_healthy(**whole))
    late = Client("late")
    late.read_until(CLIENTS * DRAFTS_EACH * 2)
    assert late.events == clients[0].events, "the log is not what it was before"
    late.submit("late-1")
    late.read_until(CLIENTS * DRAFTS_EACH * 2 + 1)
    say("after down and up all of it is there, and it goes on")


main()
