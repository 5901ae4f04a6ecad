"""What operators see, for real; called by tests/monitoring. Standard library only.

A NATS server, two validators and four frontends run as processes, and a Prometheus scrapes them with the shipped
rules, their `for:` cut to nothing. While all is well no alarm fires. Then each alarm's cause is made, and it must
fire. On the way every query of the dashboard and of the operations manual must have returned series.
"""

import atexit
import ctypes
import http.server
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

import story_tools
from story_tools import free_port, say
from websocket import WebSocket

BACKEND = os.environ["INSIEME_TEST_BACKEND"]
NATS_SERVER = os.environ["INSIEME_TEST_NATS_SERVER"]
WAIT_SECONDS = 60
# The account's, so that it can be filled.
STORE_BYTES_MAX = 12 * 1024 * 1024
DRAFTS_BYTES_MAX = 1024 * 1024
DESCRIPTORS_MAX = 160
RUNBOOKS_URL = "https://wiki.example/RUNBOOKS"

folder = tempfile.mkdtemp(prefix="insieme-monitoring-")
processes = []


@atexit.register
def clean_up():
    for process in processes:
        process.send(signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def wait_until(what, condition, seconds=WAIT_SECONDS):
    return story_tools.wait_until(what, condition, seconds)


class Process:
    """A process whose output goes to a file; ends with this script, however that ends."""

    def __init__(self, name, command, descriptors=None, **environment):
        self.name, self.command = name, [str(part) for part in command]
        self.environment = {**os.environ, **environment}
        self.descriptors = descriptors
        self.log = os.path.join(folder, f"{name}.log")
        processes.append(self)
        self.start()

    def start(self):
        def prepare():
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
            if self.descriptors:
                resource.setrlimit(resource.RLIMIT_NOFILE, (self.descriptors, self.descriptors))

        self.began = os.path.getsize(self.log) if os.path.exists(self.log) else 0
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=self.environment, preexec_fn=prepare
            )

    def wait_for(self, text):
        def looked():
            with open(self.log, errors="replace") as log:
                log.seek(self.began)
                output = log.read()
            if text in output:
                return output
            if self.child.poll() is not None:
                raise AssertionError(f"{self.name} ended before it said {text!r}:\n{output[-2000:]}")
            return None

        return wait_until(f"{self.name} to say {text!r}", looked)

    def send(self, number):
        if self.child.poll() is None:
            self.child.send_signal(number)

    def kill(self):
        self.send(signal.SIGKILL)
        self.child.wait()


class Client:
    """One connection to one partition."""

    numbers = iter(range(1, 1_000_000))

    def __init__(self, frontend, partition="default", last_event_id=None):
        self.name, self.partition = f"client-{next(self.numbers)}", partition
        self.web = WebSocket(frontend.port)
        payload = {"clientId": self.name, "version": "test", "partition": partition}
        if last_event_id is not None:
            payload["lastEventId"] = last_event_id
        self.tell("connect", **payload)
        connected = self.web.receive()
        assert connected["type"] == "connected", connected

    def tell(self, kind, **payload):
        message = {"id": f"m{next(self.numbers)}", "type": kind, "timestamp": 0, "payload": payload}
        self.web.send(json.dumps(message).encode())

    def submit(self, value, target="a"):
        draft = f"d{next(self.numbers)}"
        event = {"type": "set", "payload": {"target": target, "value": value}}
        self.tell("submit_event", draftId=draft, event=event)

    def answer(self, *kinds):
        while True:
            message = self.web.receive()
            if message["type"] in kinds:
                return message

    def write(self, value=1, target="a"):
        self.submit(value, target)
        return self.answer("event_accepted", "event_rejected", "error")


class Nats:
    """The server, with an account whose store is bounded; and its protocol, for what no process of ours does."""

    def __init__(self):
        self.port = free_port()
        config = os.path.join(folder, "nats.conf")
        with open(config, "w") as file:
            file.write(
                f"""listen: "127.0.0.1:{self.port}"
                jetstream {{ store_dir: "{folder}/store" }}
                accounts {{ app {{
                  jetstream: {{ max_file: {STORE_BYTES_MAX}, max_mem: 8388608 }}
                  users: [ {{ user: all, password: all }} ]
                }} }}
                no_auth_user: all
                """
            )
        self.process = Process("nats", [NATS_SERVER, "-c", config])
        self.process.wait_for("Server is ready")

    @property
    def url(self):
        return f"nats://127.0.0.1:{self.port}"

    def restart(self, down_seconds=0):
        self.process.kill()
        time.sleep(down_seconds)
        self.process.start()
        self.process.wait_for("Server is ready")

    def publish(self, *messages):
        with socket.create_connection(("127.0.0.1", self.port), 10) as link:
            link.recv(65536)
            data = b'CONNECT {"verbose":false,"pedantic":false,"lang":"python","version":"1"}\r\n'
            for subject, body in messages:
                data += f"PUB {subject} {len(body)}\r\n".encode() + body + b"\r\n"
            link.sendall(data + b"PING\r\n")
            said = b""
            while b"PONG" not in said:
                said += link.recv(65536)
            assert b"-ERR" not in said, said


class Role:
    """A frontend or a validator."""

    def __init__(self, name, role, nats, schemas, descriptors=None, guard=None):
        self.metrics, self.port = free_port(), free_port()
        command = [BACKEND, role, "--nats", nats.url, "--set", f"metrics.listen=127.0.0.1:{self.metrics}"]
        if role == "frontend":
            command += ["--listen", f"127.0.0.1:{self.port}", *(guard or ["--allow-anyone"])]
        else:
            command += ["--set", f"rules.schema_dir={schemas}", "--set", "rules.schema_poll_ms=200"]
        for setting in [
            "metrics.store_look_ms=250",
            f"nats.drafts_bytes_max={DRAFTS_BYTES_MAX}",
            "nats.ownership_ttl_ms=2000",
            "nats.request_timeout_ms=2000",
            "frontend.submissions_per_minute_max=0",
            "frontend.frames_per_second_max=0",
            "frontend.submission_deadline_ms=6000",
            "frontend.ring_events_max=16",
            "validator.snapshot_events_min=5",
            "validator.snapshot_share_min=0",
        ]:
            command += ["--set", setting]
        self.role = role
        self.process = Process(name, command, descriptors, INSIEME_FAULT="")
        self.ready()

    def ready(self):
        self.process.wait_for(f"{self.role} ready:")


class Issuer:
    """Gives the keys for tokens over HTTP, or an error."""

    def __init__(self):
        self.fails = False
        # Of RFC 8037, whose private half is public.
        key = {"kty": "OKP", "crv": "Ed25519", "kid": "a", "alg": "EdDSA", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
        issuer, text = self, json.dumps({"keys": [key]}).encode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(500 if issuer.fails else 200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}/keys"


class Application:
    """Says over HTTP that whoever asks may come in, or nothing of use."""

    def __init__(self):
        self.fails = False
        application = self
        text = json.dumps({"allow": True, "permissions": ["read"], "expiresAt": int(time.time()) + 3600}).encode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(500 if application.fails else 200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}/hook"


class Certificate:
    """A certificate and its key, in one file, so that both change at once."""

    def __init__(self):
        self.file = f"{folder}/certificate.pem"

    def renew(self, days):
        """For so many days from now on."""
        made = subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-subj", "/CN=localhost", "-days", str(days), "-keyout", "-"],
            check=True, capture_output=True,
        )
        self.put(made.stdout)

    def put(self, text):
        with open(f"{self.file}.new", "wb") as file:
            file.write(text)
        os.rename(f"{self.file}.new", self.file)


class Prometheus:
    """The shipped rules on the processes, and what has fired so far."""

    def __init__(self, frontends, validators):
        with open("deploy/prometheus/alerts.yml") as file:
            rules = file.read()
        self.alarms = re.findall(r"^ *- alert: (\w+)$", rules, re.M)
        hurried, count = re.subn(r"^( *for:) .*$", r"\1 0s", rules, flags=re.M)
        assert count == len(self.alarms), "every alarm says for how long"
        with open(f"{folder}/alerts.yml", "w") as file:
            file.write(hurried)
        with open("deploy/prometheus/prometheus.yml") as file:
            shipped = file.read()
        # The jobs as they are shipped; only where the processes are is told otherwise, and how often to look.
        config, count = re.subn(r"_interval: 15s", "_interval: 500ms", shipped)
        assert count == 2, shipped
        for job, roles in [("frontend", frontends), ("validator", validators)]:
            targets = ", ".join(f'"127.0.0.1:{role.metrics}"' for role in roles)
            found = rf"(job_name: insieme-{job}\n)    dns_sd_configs:\n.*\n.*\n.*\n"
            config, count = re.subn(found, rf"\1    static_configs: [ {{ targets: [ {targets} ] }} ]\n", config)
            assert count == 1, shipped
        with open(f"{folder}/prometheus.yml", "w") as file:
            file.write(config)
        self.port = free_port()
        self.process = Process(
            "prometheus",
            ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
             f"--web.listen-address=127.0.0.1:{self.port}", "--enable-feature=expand-external-labels"],
            RUNBOOKS_URL=RUNBOOKS_URL,
        )
        self.process.wait_for("ready to receive web requests")
        self.fired, self.links = {}, {}

    def ask(self, path, **parameters):
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}?{query}", timeout=20) as answer:
            return json.load(answer)["data"]

    def query(self, query):
        return self.ask("query", query=query)["result"]

    def watch_alarms(self):
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            try:
                for alert in self.ask("alerts")["alerts"]:
                    if alert["state"] == "firing":
                        name, annotations = alert["labels"]["alertname"], alert["annotations"]
                        self.fired.setdefault(name, annotations["summary"])
                        self.links[name] = annotations["runbook_url"]
            except OSError:
                pass  # it is going away, or busy
            time.sleep(0.2)

    def expect(self, *names):
        for name in names:
            wait_until(f"{name} to fire", lambda: name in self.fired)
            wait_until(f"where {name} links to", lambda: name in self.links)
            assert self.links[name] == f"{RUNBOOKS_URL}#{name.lower()}", self.links[name]
            say(f"fired: {name}: {self.fired[name]}")


class Queries:
    """The queries of the dashboard and of the manual that have not returned series yet."""

    def __init__(self, prometheus):
        with open("deploy/grafana/dashboard.json") as file:
            panels = json.load(file)["panels"]
        shown = [target["expr"] for panel in panels for target in panel.get("targets", [])]
        with open("docs/operations/observe.md") as file:
            table = re.search(r"### The metrics of the design document\n(.*?)\n## ", file.read(), re.S)[1]
        told = re.findall(r"^\| `\w+` \| `(.+?)`", table, re.M)
        assert len(told) == 12 and len(shown) > 40, (len(told), len(shown))
        # As Grafana has it with everything chosen.
        values = {"$__rate_interval": "30s", "$job": ".*", "$instance": ".*"}
        self.left = {re.sub(r"\$\w+", lambda found: values[found[0]], query) for query in shown + told}
        self.count, self.prometheus = len(self.left), prometheus

    def look(self):
        self.left = {query for query in self.left if not self.prometheus.query(query)}
        return not self.left


def come(frontend):
    """Says `connect` without a token, and gives the answer."""
    web = WebSocket(frontend.port)
    connect = {"clientId": "visitor", "version": "test"}
    web.send(json.dumps({"id": "m", "type": "connect", "timestamp": 0, "payload": connect}).encode())
    return web.receive()


def check_runbooks(alarms):
    with open("docs/RUNBOOKS.md") as file:
        sections = re.findall(r"^## (Insieme\w+)$", file.read(), re.M)
    assert sorted(sections) == sorted(alarms), set(sections) ^ set(alarms)


def bootstrap(nats):
    """Makes the streams that are not there."""
    subprocess.run(
        [BACKEND, "bootstrap", "--nats", nats.url, "--set", f"nats.drafts_bytes_max={DRAFTS_BYTES_MAX}",
         "--set", "nats.ownership_ttl_ms=2000"],
        check=True,
    )


def main():
    nats = Nats()
    bootstrap(nats)
    schemas = []
    for name in ["one", "two"]:
        os.makedirs(f"{folder}/schemas-{name}")
        schemas.append(f"{folder}/schemas-{name}")
        with open(f"{schemas[-1]}/note.json", "w") as file:
            file.write("{}")
    validators = [Role(f"validator-{n}", "validator", nats, schemas[n]) for n in range(2)]
    frontend = Role("frontend-0", "frontend", nats, None)
    small = Role("frontend-1", "frontend", nats, None, descriptors=DESCRIPTORS_MAX)
    issuer, certificate = Issuer(), Certificate()
    certificate.renew(days=90)
    guard = [
        f"auth.jwks_url={issuer.url}", "auth.jwks_refresh_s=1", "auth.jwks_retry_s=1", "frontend.tls_poll_ms=200",
        f"frontend.tls_cert_file={certificate.file}", f"frontend.tls_key_file={certificate.file}",
    ]
    guarded = Role("frontend-2", "frontend", nats, None, guard=[word for one in guard for word in ("--set", one)])
    application = Application()
    hook = ["--set", f"auth.hook_url={application.url}", "--set", "auth.hook_cache_ms=0"]
    asking = Role("frontend-3", "frontend", nats, None, guard=hook)
    prometheus = Prometheus([frontend, small, guarded, asking], validators)
    check_runbooks(prometheus.alarms)
    queries = Queries(prometheus)
    wait_until("every target to be scraped", lambda: len(prometheus.query('up{job=~"insieme.*"} == 1')) == 6)

    # While slots are being taken the first time, some have no owner; alarms wait for longer than that.
    wait_until("all to be well", lambda: prometheus.query("sum(insieme_slots_owned) == 64"))
    wait_until("no alarm", lambda: not prometheus.ask("alerts")["alerts"])
    prometheus.watch_alarms()

    say("all is well")
    for n in range(3):
        client = Client(frontend)
        for value in range(20):
            assert client.write(value)["type"] == "event_accepted"
            client.tell("heartbeat")
        assert client.write(1, "a.__proto__")["type"] == "event_rejected"
        client.web.close()
    # Behind what the ring holds: caught up from the log.
    behind = Client(frontend, last_event_id=1)
    for _ in range(40):
        behind.answer("broadcast")
    behind.tell("no such request")
    behind.answer("error")
    # Told to go, so that closes are counted by code.
    for _ in range(20):
        behind.tell("heartbeat")
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    stranger = WebSocket(guarded.port, tls=anyone)
    connect = {"clientId": "stranger", "version": "test", "token": "not one"}
    stranger.send(json.dumps({"id": "m", "type": "connect", "timestamp": 0, "payload": connect}).encode())
    refused = stranger.receive()
    assert refused["payload"]["code"] == "auth_failed", refused
    assert come(asking)["type"] == "connected"
    late = WebSocket(frontend.port)
    late.send(b"\xff\xfe")
    try:
        while True:
            late.receive()
    except (ConnectionError, OSError):
        pass
    wait_until("several looks at all of it", lambda: prometheus.query("count_over_time(insieme_ready[1m]) > 8"))
    queries.look()
    assert not prometheus.fired, f"fired though all is well: {prometheus.fired}"

    say("schemas that differ, and broken ones")
    with open(f"{schemas[0]}/more.json", "w") as file:
        file.write("{}")
    prometheus.expect("InsiemeSchemasDiffer")
    with open(f"{schemas[1]}/broken.json", "w") as file:
        file.write("{")
    prometheus.expect("InsiemeSchemasBroken")
    os.remove(f"{schemas[1]}/broken.json")

    say("keys and certificates")
    issuer.fails = True
    prometheus.expect("InsiemeKeysUnfetched")
    assert "InsiemeKeysNone" not in prometheus.fired, "those before are in force"
    guarded.process.kill()
    guarded.process.start()
    guarded.ready()
    prometheus.expect("InsiemeKeysNone")
    issuer.fails = False
    application.fails = True
    assert come(asking)["payload"]["code"] == "unavailable"
    prometheus.expect("InsiemeHookFails")
    certificate.renew(days=10)
    prometheus.expect("InsiemeCertificateEnds")
    assert "InsiemeCertificateEndsToday" not in prometheus.fired, "not today"
    # Under a certificate of a year's all is well again, as far as it goes.
    certificate.renew(days=365)
    ends = "min(insieme_tls_certificate_not_after_timestamp_seconds) - time()"
    days = lambda: float(prometheus.query(ends)[0]["value"][1]) / 86400
    wait_until("the new certificate to be seen", lambda: 364 < days() <= 365)
    certificate.renew(days=1)
    prometheus.expect("InsiemeCertificateEndsToday")
    certificate.put(b"no certificate")
    prometheus.expect("InsiemeCertificateBroken")

    say("what was revoked cannot be read")
    assert "InsiemeRevocationsUnread" not in prometheus.fired
    nats.publish(("$JS.API.STREAM.DELETE.KV_REVOKED", b""))
    prometheus.expect("InsiemeRevocationsUnread")
    bootstrap(nats)

    say("clients that do nothing right")
    client = Client(frontend)
    for _ in range(100):
        client.tell("no such request")
        client.answer("error")
        client.tell("heartbeat")
    prometheus.expect("InsiemeErrorsMany")

    say("clients that come and go")

    def come_and_go():
        for _ in range(30):
            try:
                WebSocket(frontend.port).close()
            except (ConnectionError, OSError):
                time.sleep(0.5)  # a limit
        return "InsiemeReconnectStorm" in prometheus.fired

    wait_until("InsiemeReconnectStorm to fire", come_and_go)
    prometheus.expect("InsiemeReconnectStorm")

    say("a frontend with few file descriptors")
    # Short of the limit: a process that has none left cannot be asked any more.
    open_now = float(prometheus.query("max(process_open_fds{job='insieme-frontend'})")[0]["value"][1])
    crowd = []
    while len(crowd) + open_now < 0.92 * DESCRIPTORS_MAX:
        try:
            crowd.append(WebSocket(small.port))
        except (ConnectionError, OSError):
            time.sleep(0.2)  # a limit
    prometheus.expect("InsiemeDescriptorsNearlyUsed")
    for web in crowd:
        web.close()
    queries.look()

    say("no validator")
    for validator in validators:
        validator.process.kill()
    writers = [Client(frontend, f"crowd-{n}") for n in range(6)]
    for value in range(250):
        for writer in writers:
            writer.submit(value)
    big = [Client(frontend, f"big-{n}") for n in range(9)]
    for writer in big:
        writer.submit("x" * 100_000)
    prometheus.expect(
        "InsiemeProcessDown", "InsiemeSlotsWithoutOwner", "InsiemeDraftBacklog", "InsiemeQueueNearlyFull",
        "InsiemeDraftsUnanswered", "InsiemeAnswersSlow",
    )
    say("a clock that is off")
    assert "InsiemeClockOff" not in prometheus.fired
    # A build with fault points shifts it.
    validators[0].process.environment["INSIEME_FAULT"] = "clock_ms=-60000"
    for validator in validators:
        validator.process.start()
        validator.ready()
    prometheus.expect("InsiemeClockOff")
    wait_until("all slots to be owned again", lambda: prometheus.query("sum(insieme_slots_owned) == 64"))
    queries.look()

    say("something that is no draft in the queue")
    nats.publish(("draft.0.nowhere", b"nonsense"))
    prometheus.expect("InsiemePoisonedDrafts")

    say("a NATS that stands still")
    writers = [Client(frontend, f"still-{n}") for n in range(12)]
    for writer in writers:
        assert writer.write()["type"] == "event_accepted"

    def stands_still(seconds, alarm):
        """Stops NATS in the middle of what is written, when a commit is under way as like as not."""
        drafts = 8
        stops_at = random.randrange(1, drafts)
        for value in range(drafts):
            for writer in writers:
                writer.submit(value)
            if value < stops_at:
                time.sleep(0.002)
            elif value == stops_at:
                time.sleep(random.uniform(0, 0.003))
                nats.process.send(signal.SIGSTOP)
        time.sleep(seconds)
        nats.process.send(signal.SIGCONT)
        for writer in writers:
            for _ in range(drafts):
                writer.answer("event_accepted", "error")
        return alarm in prometheus.fired

    wait_until("InsiemeCommitsSlow to fire", lambda: stands_still(1.2, "InsiemeCommitsSlow"))
    prometheus.expect("InsiemeCommitsSlow")
    wait_until("InsiemeCommitFailures to fire", lambda: stands_still(3, "InsiemeCommitFailures"))
    prometheus.expect("InsiemeCommitFailures")

    say("a NATS that comes and goes")
    for _ in range(3):
        nats.restart(down_seconds=1.5)
        wait_until("all to be ready", lambda: len(prometheus.query("insieme_ready == 1")) == 6)
    prometheus.expect("InsiemeNotReady", "InsiemeNatsReconnects")
    wait_until("all slots to be owned again", lambda: prometheus.query("sum(insieme_slots_owned) == 64"))

    say("somebody else writes to the log")
    # Plain names stand in subjects as they are. Each is good for one conflict, and they must be more than one in
    # twenty of all that was committed before, however quick that was.
    partitions = [f"harmed-{n}" for n in range(400)]
    clients = [Client(frontend, partition) for partition in partitions]
    for client in clients:
        assert client.write()["type"] == "event_accepted"
    nats.publish(*((f"committed.{partition}", b"nonsense") for partition in partitions))
    for client in clients:
        client.submit(2)
    prometheus.expect("InsiemeLogDamaged", "InsiemeConflicts")

    say("no place for snapshots")
    nats.publish(("$JS.API.STREAM.DELETE.OBJ_SNAPSHOTS", b""))
    # Partitions of which nobody has heard yet are taken in without.
    client = Client(frontend, "no snapshots")
    for value in range(8):
        assert client.write(value)["type"] == "event_accepted"
    prometheus.expect("InsiemeSnapshotFailures", "InsiemeStoreUnseen")

    say("a store that fills")
    client = Client(frontend, "large")
    while "InsiemeStoreNearlyFull" not in prometheus.fired:
        if client.write("y" * 200_000)["type"] != "event_accepted":
            break
    prometheus.expect("InsiemeStoreNearlyFull")

    missing = [name for name in prometheus.alarms if name not in prometheus.fired]
    assert not missing, f"never fired: {missing}"
    wait_until(f"series for {queries.left}", queries.look, 20)
    say(f"all {len(prometheus.alarms)} alarms have fired, all {queries.count} queries have returned series")


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        for process in processes:
            with open(process.log, errors="replace") as log:
                print(f"--- the last of {process.name}:\n" + "".join(log.readlines()[-15:]), file=sys.stderr)
        raise
