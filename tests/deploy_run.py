"""Runs every container of deploy/kubernetes as a process, as a kubelet would, on a NATS with the shipped users."""

import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from deploy_kubernetes import build, environment_of, lay_out, templates
from deploy_tools import BINARY, NATS_SERVER, PASSWORDS, WAIT_SECONDS, say, shipped_nats, wait_until
from story_tools import free_port

class Kubelet:
    def __init__(self, folder, objects):
        self.folder = pathlib.Path(folder)
        self.configs = {part["metadata"]["name"]: part for part in objects if part["kind"] == "ConfigMap"}
        self.workloads = templates(objects)
        self.processes = []
        self.nats = free_port()
        (self.folder / "bin").mkdir()
        (self.folder / "bin/insieme-backend").symlink_to(BINARY)

    def start_nats(self):
        config = shipped_nats(self.folder / "nats", "single.conf", {4222: self.nats, 8222: free_port()})
        return self.launch("nats", [NATS_SERVER, "-c", str(config)], PASSWORDS)

    def launch(self, name, command, environment):
        log = open(self.folder / f"{name}.log", "wb")
        child = subprocess.Popen(command, stdout=log, stderr=log, env={"PATH": os.environ["PATH"], **environment})
        self.processes.append(child)
        return child

    def start(self, name):
        """The container's process, and the ports that it has in the place of its own."""
        (container,) = self.workloads[name]["spec"]["containers"]
        root = str(self.folder / name / str(len(self.processes)))
        secrets = {user: PASSWORDS[f"NATS_{user.upper()}_PASSWORD"] for user in ["frontend", "validator", "operator"]}
        # The config's own copy, with addresses of this machine.
        ports = {str(port["containerPort"]): free_port() for port in container.get("ports", [])}
        here = lambda text: re.sub(
            r"0\.0\.0\.0:(\d+)", lambda found: f"127.0.0.1:{ports.get(found[1], 0)}", text
        ).replace("nats://nats:4222", f"nats://127.0.0.1:{self.nats}").replace("replicas = 3", "replicas = 1")
        configs = {
            key: {**part, "data": {file: here(text) for file, text in part["data"].items()}}
            for key, part in self.configs.items()
        }
        moved = lay_out(name, self.workloads[name], configs, root, secrets)
        environment = {key: moved(here(value)) for key, value in environment_of(container, configs).items()}
        environment["PATH"] = f"{self.folder}/bin:{os.environ['PATH']}"
        command = container.get("command", ["insieme-backend"]) + container["args"]
        child = self.launch(name, [moved(word) for word in command], environment)
        return child, {port["name"]: ports[str(port["containerPort"])] for port in container.get("ports", [])}, root

    def finished(self, name):
        child, _, root = self.start(name)
        assert child.wait(timeout=WAIT_SECONDS) == 0, (self.folder / f"{name}.log").read_text()
        return root

    def log_of(self, name):
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def probe(self, name, kind, ports):
        (container,) = self.workloads[name]["spec"]["containers"]
        get = container[kind]["httpGet"]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{ports[get['port']]}{get['path']}", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def stop(self):
        for child in reversed(self.processes):
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
            child.wait()


def status(port, path, **headers):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        return refused.code


def check():
    with tempfile.TemporaryDirectory() as folder:
        kubelet = Kubelet(folder, build("base", "tokens-by-secret"))
        try:
            everything_runs(kubelet)
        except BaseException:
            for log in sorted(pathlib.Path(folder).glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}")
            raise
        finally:
            kubelet.stop()


def everything_runs(kubelet):
    # Pods are all started at once: a frontend waits for NATS, and is not killed for it.
    frontend, ports, _ = kubelet.start("frontend")
    wait_until("the frontend to be alive without NATS", lambda: kubelet.probe("frontend", "livenessProbe", ports))
    assert not kubelet.probe("frontend", "readinessProbe", ports), "ready without NATS"
    kubelet.start_nats()
    wait_until("NATS", lambda: "Server is ready" in kubelet.log_of("nats"))
    kubelet.finished("bootstrap")
    # As after an upgrade, when the streams are there.
    kubelet.finished("bootstrap")
    running = {"frontend": (frontend, ports)}
    for name in ["validator", "admin"]:
        running[name] = kubelet.start(name)[:2]
    for name, (_, ports) in running.items():
        for kind in ["livenessProbe", "readinessProbe"]:
            wait_until(f"{name}: {kind}", lambda: kubelet.probe(name, kind, ports))
    say(f"{', '.join(running)} run and are ready, with the shipped files, users and probes")

    # It is ready a moment before it listens.
    wait_until("the administration to listen", lambda: "admin ready:" in kubelet.log_of("admin"))
    # Nobody without a token.
    assert status(running["admin"][1]["http"], "/processes") == 401
    secret = kubelet.folder / "secret"
    secret.write_text("aSecretOfThirtyTwoBytesAtTheLeast")
    token = subprocess.run(
        [BINARY, "token", "--secret-file", secret, "--audience", "insieme", "--client", "operator", "--permission", "admin"],
        check=True, capture_output=True, text=True, timeout=60,
    ).stdout.strip()
    bearer = {"Authorization": f"Bearer {token}"}
    wait_until("the administration", lambda: status(running["admin"][1]["http"], "/processes", **bearer) == 200)
    say("the administration answers with a token, and not without")

    # The backup job, as often as its schedule would have it, on one volume.
    (container,) = kubelet.workloads["backup"]["spec"]["containers"]
    (keep,) = [entry for entry in container["env"] if entry["name"] == "KEEP"]
    keep["value"] = "2"
    made = []
    for number in range(3):
        root = pathlib.Path(kubelet.finished("backup"))
        (folder,) = (root / "backups").iterdir()
        assert re.fullmatch(r"\d{8}T\d{6}Z", folder.name) and (folder / "COMMITTED.json").exists(), list(folder.iterdir())
        made.append(folder)
    old_ones_go(kubelet, container, made[0])

    began = time.monotonic()
    child, ports = running["frontend"]
    child.send_signal(signal.SIGTERM)
    wait_until("the frontend to say that it goes away", lambda: not kubelet.probe("frontend", "readinessProbe", ports))
    assert status(ports["ws"], "/livez") == 200, "it still takes connections"
    assert child.wait(timeout=WAIT_SECONDS) == 0
    assert time.monotonic() - began > 4, "it waits until load balancers have noticed"
    say("a frontend that is stopped says so first, and still takes connections for a while")


def old_ones_go(kubelet, container, whole):
    """The job's own script, on a volume with three backups and one that was broken off, and room for two."""
    volume = kubelet.folder / "volume"
    (volume / "unfinished").mkdir(parents=True)
    for name in ["20260101T000000Z", "20260102T000000Z", "20260103T000000Z"]:
        (volume / name).mkdir()
    programs = kubelet.folder / "programs"
    programs.mkdir()
    stub = programs / "insieme-backend"
    stub.write_text(f'#!/bin/sh\nfor last; do :; done\ntest ! -e "$last" && cp -r "{whole}" "$last"\n')
    stub.chmod(0o755)
    (script,) = container["args"]
    subprocess.run(
        [*container["command"], script.replace("/backups", str(volume))], check=True, timeout=60,
        env={"PATH": f"{programs}:{os.environ['PATH']}", "KEEP": "2"},
    )
    left = sorted(folder.name for folder in volume.iterdir())
    assert len(left) == 2 and left[0] == "20260103T000000Z", left
    # One that fails leaves those that there are.
    stub.write_text("#!/bin/sh\nexit 1\n")
    failed = subprocess.run(
        [*container["command"], script.replace("/backups", str(volume))], timeout=60,
        env={"PATH": f"{programs}:{os.environ['PATH']}", "KEEP": "1"},
    )
    assert failed.returncode != 0 and sorted(folder.name for folder in volume.iterdir()) == left
    say("the backup job makes whole backups, keeps the last, and a failed one costs none")
