"""What the checks of tests/deploy share."""

import os
import pathlib
import re
import subprocess

import story_tools
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = pathlib.Path(os.environ["INSIEME_TEST_BACKEND"]).resolve()
NATS_SERVER = os.environ["INSIEME_TEST_NATS_SERVER"]
PASSWORDS = {f"NATS_{user}_PASSWORD": f"{user.lower()}Secret" for user in ["FRONTEND", "VALIDATOR", "OPERATOR"]}
WAIT_SECONDS = 60


def say(text):
    print(f"deploy: {text}", flush=True)


def run(*command, **environment):
    done = subprocess.run(
        [str(word) for word in command], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def read_yaml(path):
    return yaml.safe_load((ROOT / path).read_text())


def keys():
    """Every configuration key, as `area.name`."""
    found, area = set(), None
    for line in run(BINARY, "check-config", "--print-defaults").splitlines():
        if section := re.match(r"\[(\w+)\]$", line):
            area = section[1]
        elif key := re.match(r"#?(\w+) =", line):
            found.add(f"{area}.{key[1]}")
    assert len(found) > 100, found
    return found


def variables():
    """Every variable that sets a key."""
    return {"INSIEME_" + key.replace(".", "_").upper() for key in keys()}


def settings(*arguments, **environment):
    """What is in force with such a configuration, as check-config prints it."""
    shown = run(BINARY, "check-config", *arguments, **environment)
    return dict(re.findall(r"^(\w+\.\w+) = (.*?)  # ", shown, re.M))


def needs_to_drain_seconds(in_force):
    return (int(in_force["frontend.drain_wait_ms"]) + int(in_force["frontend.drain_ms_max"])) / 1000 + 2


def wait_until(what, condition):
    return story_tools.wait_until(what, condition, WAIT_SECONDS)


def shipped_nats(folder, file, ports):
    """A NATS configuration as it is shipped; only its folders and ports are others. Returns its path."""
    folder.mkdir(parents=True)
    text = (ROOT / "nats" / file).read_text()
    for old, new in ports.items():
        assert f"0.0.0.0:{old}" in text, old
        text = text.replace(f"0.0.0.0:{old}", f"127.0.0.1:{new}")
    text, count = re.subn(r'"/data(/\w+)?"', f'"{folder}/store"', text)
    assert count == 1, text
    (folder / file).write_text(text)
    (folder / "users.conf").write_text((ROOT / "nats/users.conf").read_text())
    return folder / file
