"""Checks of deploy/systemd: systemd takes the units, and the binary takes what they set."""

import pathlib
import re
import shutil
import subprocess
import tempfile

from deploy_tools import BINARY, ROOT, needs_to_drain_seconds, run, say, settings, variables

SYSTEMD = ROOT / "deploy/systemd"
INSTALLED = "/usr/local/bin/insieme-backend"
CONFIG = "/etc/insieme/insieme.toml"
USERS = {"frontend": "frontend", "validator": "validator", "bootstrap": "operator", "admin": "operator", "backup": "operator"}


def check():
    units = sorted(SYSTEMD.glob("*.service"))
    assert {unit.stem.removeprefix("insieme-") for unit in units} == USERS.keys(), units
    systemd_takes(units)
    listening = [binary_takes(unit) for unit in units]
    apart = [address for pair in listening for address in pair]
    assert len(set(apart)) == len(apart) == 5, f"each process has addresses of its own: {apart}"
    backups_rotate((SYSTEMD / "insieme-backup.service").read_text())


def systemd_takes(units):
    drop_in = (SYSTEMD / "tokens-by-secret.conf").read_text()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for unit in units:
            text = unit.read_text()
            assert text.count(INSTALLED) == 1, unit
            (folder / unit.name).write_text(text.replace(INSTALLED, str(BINARY)))
            if unit.stem in ["insieme-frontend", "insieme-admin"]:
                (folder / f"{unit.name}.d").mkdir()
                (folder / f"{unit.name}.d/tokens.conf").write_text(drop_in)
        shutil.copy(SYSTEMD / "insieme-backup.timer", folder)
        files = [folder / unit.name for unit in units] + [folder / "insieme-backup.timer"]
        said = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *files)
        ours = [line for line in said.splitlines() if ".service" in line or ".timer" in line or str(folder) in line]
        assert not ours, said
        for unit in units:
            # 0 is the least that a unit can do to its host, 10 the most.
            said = run("systemd-analyze", "security", "--offline=yes", "--threshold=25", folder / unit.name)
            say(f"{unit.name}: {said.strip().splitlines()[-1].strip()}")


def binary_takes(unit):
    """What it sets are settings, with a key set and with a secret; returns the addresses that it listens on."""
    role = unit.stem.removeprefix("insieme-")
    told = (SYSTEMD / "README.md").read_text()
    for with_secret in [False, True]:
        text = unit.read_text()
        config = (SYSTEMD / "insieme.toml").read_text()
        if with_secret:
            text += (SYSTEMD / "tokens-by-secret.conf").read_text() if role in ["frontend", "admin"] else ""
            config = re.sub(r"^jwks_url = .*\n", "", config, flags=re.M)
        with tempfile.TemporaryDirectory() as folder:
            credentials = dict(re.findall(r"^LoadCredential=(\S+?):(\S+)$", text, re.M))
            for name, source in credentials.items():
                assert pathlib.Path(source).parent == pathlib.Path("/etc/insieme/secrets"), source
                assert pathlib.Path(source).name in told, f"the README does not say where {source} comes from"
                (pathlib.Path(folder) / name).write_text("aSecretOfThirtyTwoBytesAtTheLeast")
            file = pathlib.Path(folder) / "insieme.toml"
            file.write_text(config)
            pairs = [word.split("=", 1) for line in re.findall(r"^Environment=(.*)$", text, re.M) for word in line.split()]
            environment = {key: value.replace("%d", folder) for key, value in pairs if key.startswith("INSIEME_")}
            unknown = environment.keys() - variables()
            assert not unknown, f"{unit.name}: there are no settings {unknown}"
            (command,) = re.findall(rf"^ExecStart={INSTALLED} (.*)$", text, re.M)
            assert command.startswith({"admin": "admin serve"}.get(role, role) + " ") and f"--config {CONFIG}" in command
            in_force = settings("--config", file, **environment)
        assert in_force["nats.user"] == f'"{USERS[role]}"', in_force["nats.user"]
        if role in ["frontend", "admin"]:
            keys = [key for key in ["secret_file", "jwks_url"] if in_force[f"auth.{key}"] != "(unset)"]
            assert keys == ["secret_file" if with_secret else "jwks_url"], (role, keys)
    if role == "frontend":
        (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.M)
        assert int(seconds) >= needs_to_drain_seconds(in_force), f"a frontend is killed after {seconds} s"
    listens = {"frontend": ["frontend.listen", "metrics.listen"], "validator": ["metrics.listen"]}
    listens["admin"] = ["admin.listen", "metrics.listen"]
    return [in_force[key].rsplit(":", 1)[1] for key in listens.get(role, [])]


def backups_rotate(text):
    """What the unit runs before and after a backup, with room for two."""
    plain = lambda line: line.replace("$$", "$").replace("%%", "%")
    (before,) = re.findall(r"^ExecStartPre=(.*)$", text, re.M)
    (after,) = re.findall(r"^ExecStartPost=sh -ec '(.*)'$", text, re.M)
    with tempfile.TemporaryDirectory() as folder:
        for name in ["unfinished", "20260101T000000Z", "20260102T000000Z", "20260103T000000Z"]:
            (pathlib.Path(folder) / name).mkdir()
        subprocess.run(["sh", "-ec", f"{before}; mkdir unfinished; {plain(after)}"], cwd=folder, check=True, timeout=60,
                       env={"PATH": "/usr/bin:/bin", "KEEP": "2"})
        left = sorted(path.name for path in pathlib.Path(folder).iterdir())
    assert len(left) == 2 and left[0] == "20260103T000000Z", left
    say("the backup unit keeps the last backups")
