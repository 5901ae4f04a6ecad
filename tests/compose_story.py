"""What must work with the backend running under compose; called by tests/compose. Standard library only.

Clients connect through the load balancer, everyone sees everything in one order, a frontend and a validator
are killed on the way, and everything is still there after `down` and `up`. The image runs with the least that it
needs, and trusts the authorities that it should. With tokens, by a key set or by a secret, nobody comes in without
one, and the administration answers. With the profile monitoring Prometheus finds every process.
With the profile cluster any NATS server may be killed under load.
"""

import http.server
import json
import os
import re
import signal
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from websocket import WebSocket

PORT = int(os.environ["INSIEME_PORT"])
PROMETHEUS_PORT = int(os.environ["PROMETHEUS_PORT"])
# A folder with two authorities, trusted.pem and other.pem, and their keys.
CERTIFICATES = os.environ["CERTIFICATES"]
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ADMIN_PORT = int(os.environ["ADMIN_PORT"])
BACKEND = os.environ["BACKEND"]
DOCKER = os.environ.get("DOCKER", "docker")
CLIENTS = 6
# Those who write while NATS servers are killed.
WRITERS = 12
DRAFTS_EACH = 5
WAIT_SECONDS = 60


def say(text):
    print(f"{time.strftime('%H:%M:%S')} compose: {text}", flush=True)


def docker(*arguments):
    return subprocess.run([DOCKER, *arguments], check=True, capture_output=True, text=True, timeout=60).stdout


PLAIN = []
MONITORING = ["--profile", "monitoring"]
BY_JWKS, BY_SECRET = (
    ["-f", "compose.yaml", "-f", f"deploy/compose/tokens-by-{way}.yaml", "--profile", "admin"] for way in ["jwks", "secret"]
)
CLUSTER = ["--env-file", "deploy/compose/cluster.env", "--profile", "cluster"]
# Which of those it is just now.
switches = PLAIN


def compose(*arguments):
    done = subprocess.run(["docker-compose", *switches, *arguments], capture_output=True, text=True, timeout=180)
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

    def __init__(self, name, token=None):
        self.name, self.token = name, token
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
                identity = {"token": self.token} if self.token else {}
                self.tell("connect", clientId=self.name, version="0.0.8", partition="compose", lastEventId=last, **identity)
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
            elif message["type"] == "error" and message["payload"]["code"] == "unavailable":
                # The log was away for longer than drafts are held.
                self.draft(message["payload"]["details"]["draftId"])
            elif message["type"] == "event_rejected" and message["payload"]["reason"] == "rate_limited":
                time.sleep(message["payload"]["retryAfterMs"] / 1000)
                self.draft(message["payload"]["draftId"])
            elif message["type"] != "event_accepted":
                raise AssertionError(f"{self.name} was told {message}")


    def write(self, target):
        """Returns when it has seen the event itself."""
        self.submit(target)
        self.read_until_seen(target)

    def read_until_seen(self, target):
        while not any(seen == target for _, seen in self.events[-200:]):
            self.read_until(len(self.events) + 1)


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


def pid_of(service):
    return int(docker("inspect", "-f", "{{.State.Pid}}", containers(service)[0]))


def kill_one(service):
    """As a crash would: the daemon knows nothing of it beforehand."""
    os.kill(pid_of(service), signal.SIGKILL)
    say(f"killed a {service}")


def up(*more):
    compose("up", "-d", "--no-build", "--scale", "frontend=3", "--scale", "validator=2", *more)


def plain():
    up()
    wait_until("all healthy", lambda: are_healthy(**WHOLE))
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
    wait_until("the killed are back", lambda: are_healthy(**WHOLE))

    compose("down")
    assert docker("ps", "-aq") == "", "down leaves no container"


def everything_is_there_after_down_and_up():
    up()
    wait_until("all healthy again", lambda: are_healthy(**WHOLE))
    late = Client("late")
    late.read_until(CLIENTS * DRAFTS_EACH * 2)
    assert len({target for _, target in late.events}) == len(late.events), "the log is not what it was before"
    late.submit("late-1")
    late.read_until(CLIENTS * DRAFTS_EACH * 2 + 1)
    say("after down and up all of it is there, and it goes on")


def batches_are_staged_in_memory():
    root = f"/proc/{pid_of('nats')}"
    mounts = [line.split() for line in open(f"{root}/mounts")]
    (folder,) = [path for _, path, kind, *_ in mounts if kind == "tmpfs" and path.endswith("/batches")]
    # Below the log's own folder, in which NATS looks for it.
    assert os.path.exists(f"{root}/root{os.path.dirname(folder)}/meta.inf"), folder
    say(f"NATS stages batches in memory, in {folder}")


def product_has_the_least_that_it_needs():
    for service in ["frontend", "validator"]:
        id = containers(service)[0]
        inside = lambda command: docker("exec", id, "sh", "-c", command).strip()
        assert inside("id -u; id -g").split() == ["65532", "65532"], service
        assert re.search(r"^CapEff:\s*0+$", inside("cat /proc/1/status"), re.M), "no capabilities"
        assert re.search(r"^NoNewPrivs:\s*1$", inside("cat /proc/1/status"), re.M), "and none to be had"
        mounts = [line.split() for line in inside("cat /proc/1/mounts").splitlines()]
        (root,) = [options for _, path, _, options, *_ in mounts if path == "/"]
        assert "ro" in root.split(","), f"{service}: the root file system is mounted {root}"
        for folder in ["/", "/tmp", "/usr/local/bin", "/etc/ssl/certs"]:
            tried = inside(f"touch {folder}/written 2>&1 || echo refused")
            assert tried.endswith("refused"), f"{service}: could write to {folder}"
    say("the product runs as nobody, without a capability, and can write nowhere")


class KeyServer:
    """Gives a key set by HTTPS to whoever is in the network of compose, with a certificate by one authority."""

    KEYS = {
        "keys": [
            # Of RFC 8037, whose private half is public.
            {"kty": "OKP", "crv": "Ed25519", "kid": "a", "alg": "EdDSA", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
        ]
    }

    # The same, as PKCS #8.
    PRIVATE = """-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g
-----END PRIVATE KEY-----
"""

    def __init__(self, address, authority):
        base = os.path.join(CERTIFICATES, f"keys-{authority}")
        with open(f"{base}.ext", "w") as extensions:
            extensions.write(f"subjectAltName = IP:{address}\n")
        openssl = lambda *arguments: subprocess.run(["openssl", *arguments], check=True, capture_output=True)
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        openssl("req", *curve, "-subj", "/CN=keys", "-keyout", f"{base}.key", "-out", f"{base}.csr")
        by = os.path.join(CERTIFICATES, authority)
        openssl(
            *["x509", "-req", "-days", "2", "-in", f"{base}.csr", "-out", f"{base}.pem"],
            *["-CA", f"{by}.pem", "-CAkey", f"{by}.key", "-CAcreateserial", "-extfile", f"{base}.ext"],
        )

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                text = json.dumps(KeyServer.KEYS).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            # A client that does not trust the certificate is no error here.
            def handle_error(self, *_):
                pass

        self.server = Server((address, 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{base}.pem", f"{base}.key")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"https://{address}:{self.server.server_address[1]}/keys"


def keys_are_fetched_with_the_image_s_authorities():
    address = network_address()
    for authority, expected in [("trusted", "keys for tokens were loaded"), ("other", "certificate: UnknownIssuer")]:
        server = KeyServer(address, authority)
        settings = {"AUTH_JWKS_URL": server.url, "FRONTEND_ALLOW_ANYONE": "false"}
        flags = [word for key, value in settings.items() for word in ("-e", f"INSIEME_{key}={value}")]
        id = compose("run", "-d", "--no-deps", *flags, "frontend").split()[-1]

        def told():
            done = subprocess.run([DOCKER, "logs", id], capture_output=True, text=True, timeout=60)
            return expected in done.stdout + done.stderr

        wait_until(f"a frontend to say {expected!r}", told)
        docker("rm", "-f", id)
        server.server.shutdown()
    say("keys are fetched by HTTPS from whom the image's authorities vouch for, and from nobody else")


def network_address():
    network = json.loads(docker("network", "inspect", f"{os.environ['COMPOSE_PROJECT_NAME']}_default"))
    return network[0]["IPAM"]["Config"][0]["Gateway"]


def token(*signing, client, permission):
    arguments = ["--issuer", ISSUER, "--audience", "insieme", "--client", client, "--permission", permission, *signing]
    # Without INSIEME_PORT, which is compose's.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("INSIEME_")}
    made = subprocess.run([BACKEND, "token", *arguments], env=environment, capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def tokens_by_a_key_set():
    global switches
    switches = BY_JWKS
    server = KeyServer(network_address(), "trusted")
    private = os.path.join(CERTIFICATES, "tokens.pem")
    with open(private, "w") as file:
        file.write(KeyServer.PRIVATE)
    os.environ.update(TOKENS_JWKS_URL=server.url, TOKENS_ISSUER=ISSUER)
    who_has_a_token_comes_in("--key-file", private, "--key-id", "a")
    server.server.shutdown()
    say("with tokens by the issuer's keys nobody comes in without one, and the administration answers")


def tokens_by_a_secret():
    global switches
    switches = BY_SECRET
    secret = os.path.join(CERTIFICATES, "tokens-secret")
    with open(secret, "w") as file:
        file.write("aSecretOfThirtyTwoBytesAtTheLeast")
    os.chown(secret, 65532, 65532)
    os.chmod(secret, 0o400)
    # The folder above is the test's own, and the container sees only the file.
    os.environ.update(TOKENS_SECRET_FILE=secret, TOKENS_ISSUER=ISSUER)
    who_has_a_token_comes_in("--secret-file", secret)
    say("so with tokens by a secret")


def who_has_a_token_comes_in(*signing):
    up()
    wait_until("all healthy, with tokens", lambda: are_healthy(admin=1, **WHOLE))
    name = f"token-{len(signing)}"
    # The load balancer sees the new frontends a moment after their own health checks do.
    client = Client(name, token(*signing, client=name, permission="*"))
    client.write(f"{name}-1")
    stranger = WebSocket(PORT)
    payload = {"clientId": "stranger", "version": "0.0.8", "partition": "compose"}
    stranger.send(json.dumps({"id": "s", "type": "connect", "timestamp": 0, "payload": payload}).encode())
    refused = stranger.receive()
    assert refused["type"] == "error" and refused["payload"]["code"] == "auth_failed", refused

    def ask(*headers):
        request = urllib.request.Request(f"http://127.0.0.1:{ADMIN_PORT}/processes", headers=dict(headers))
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refusal:
            return refusal.code, None

    # It is healthy a moment before it listens.
    wait_until("the administration to listen", lambda: "admin ready:" in compose("logs", "admin"))
    assert ask()[0] == 401, "the administration asks for a token"
    bearer = ("Authorization", f"Bearer {token(*signing, client='operator', permission='admin')}")

    def sees_all():
        status, answer = ask(bearer)
        roles = sorted(process["role"] for process in answer["processes"]) if status == 200 else []
        return roles == ["admin"] + ["frontend"] * 3 + ["validator"] * 2

    wait_until("the administration to see every process", sees_all)


def prometheus_finds_every_process():
    # Grafana is in no package; see tests/compose.
    up("validator", "lb", "prometheus")
    wait_until("Prometheus to be healthy", lambda: are_healthy(prometheus=1, **WHOLE))

    def ask(path):
        with urllib.request.urlopen(f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1/{path}", timeout=10) as answer:
            return json.load(answer)["data"]

    def scraped():
        targets = [(target["labels"]["job"], target["health"]) for target in ask("targets")["activeTargets"]]
        return sorted(targets) == [("insieme-frontend", "up")] * 3 + [("insieme-validator", "up")] * 2

    wait_until("every frontend and validator to be scraped", scraped)
    rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
    with open(os.path.join(ROOT, "deploy/prometheus/alerts.yml")) as file:
        shipped = re.findall(r"- alert: (\w+)", file.read())
    assert [rule["name"] for rule in rules] == shipped, rules

    def evaluated():
        states = [(rule["health"], rule["state"]) for rule in ask("rules")["groups"][0]["rules"]]
        return all(health == "ok" and state != "firing" for health, state in states) and states

    wait_until("every rule to be evaluated, and none to fire", evaluated)
    owned = ask("query?query=sum(insieme_slots_owned)")["result"][0]["value"][1]
    assert owned == ask("query?query=max(insieme_slots_configured)")["result"][0]["value"][1], owned
    say(f"Prometheus scrapes 3 frontends and 2 validators, and has evaluated {len(rules)} rules")


def write_while(clients, happens):
    """All write one value after the other, until everything has happened; returns how many were committed."""
    stop = threading.Event()
    written = [0] * len(clients)

    def write(index):
        while not stop.is_set():
            clients[index].write(f"{clients[index].name}-load-{written[index]}")
            written[index] += 1
            # Within frontend.submissions_per_minute_max.
            time.sleep(0.7)

    with ThreadPoolExecutor(len(clients)) as pool:
        running = [pool.submit(write, index) for index in range(len(clients))]

        def count():
            for one in running:
                if one.done():
                    one.result()
            return sum(written)

        try:
            happens(count)
        finally:
            stop.set()
        for one in running:
            one.result()
    check(clients, sum(written))
    return sum(written)


def leader_of_the_log():
    """The container that leads COMMITTED."""
    report = json.loads(docker("exec", containers("nats")[0], "wget", "-q", "-O", "-", JETSTREAM))
    for account in report["account_details"]:
        for stream in account.get("stream_detail", []):
            if stream["name"] == "COMMITTED":
                number = stream["cluster"]["leader"].removeprefix("insieme-")
                return containers("nats" if number == "1" else f"nats-{number}")[0]
    raise AssertionError(f"no leader of COMMITTED: {report}")


def the_profile_alone_is_refused():
    compose("up", "-d", "--no-build", "nats-2")
    said = lambda: "needs deploy/compose/cluster.env too" in compose("logs", "nats-2")
    wait_until("the second NATS server to say what it lacks", said)
    compose("down", "-v")


def any_nats_server_may_be_killed():
    whole = dict(**{"nats-2": 1, "nats-3": 1}, **WHOLE)
    up()
    wait_until("all healthy, with three NATS servers", lambda: are_healthy(**whole))
    clients = [Client(f"k{number}") for number in range(WRITERS)]

    def killed(count):
        go_on = lambda: wait_until("the writers to get on", lambda before=count(): count() > before + 60)
        go_on()
        for _ in range(2):
            leader = leader_of_the_log()
            docker("kill", "-s", "KILL", leader)
            since = time.monotonic()
            go_on()
            say(f"the NATS server that led the log is dead; after {time.monotonic() - since:.1f} s 60 more are committed")
            docker("start", leader)
            wait_until("the killed NATS server is back", lambda: are_healthy(**whole))
            go_on()

    count = write_while(clients, killed)
    say(f"{count} drafts of {WRITERS} clients, each committed once, in one order that all saw")
    compose("down", "-v")


WHOLE = dict(nats=1, validator=2, frontend=3, lb=1)
ISSUER = "https://issuer.example/"
JETSTREAM = "http://127.0.0.1:8222/jsz?accounts=true&streams=true"

plain()
everything_is_there_after_down_and_up()
batches_are_staged_in_memory()
product_has_the_least_that_it_needs()
keys_are_fetched_with_the_image_s_authorities()
tokens_by_a_key_set()
tokens_by_a_secret()
# The administration belongs to those files.
compose("rm", "-s", "-f", "admin")
switches = MONITORING
prometheus_finds_every_process()
compose("down", "-v")
switches = ["--profile", "cluster"]
the_profile_alone_is_refused()
switches = CLUSTER
any_nats_server_may_be_killed()
