"""What must hold of the files in deploy/ and nats/, and of compose.yaml; called by tests/deploy."""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
KUBERNETES = ROOT / "deploy/kubernetes"
BINARY = ROOT / "target/debug/insieme-backend"
# The newest that the schemas are of, and the oldest that is still looked after by anybody.
VERSIONS = ["1.37.0", "1.30.0"]
PASSWORDS = {f"NATS_{user}_PASSWORD": f"{user.lower()}Secret" for user in ["FRONTEND", "VALIDATOR", "OPERATOR"]}


def say(text):
    print(f"deploy: {text}", flush=True)


def run(*command, **environment):
    done = subprocess.run(
        [str(word) for word in command], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def manifests():
    names = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    others = {"kustomization.yaml", "nats-values.yaml"}
    there = {file.name for file in KUBERNETES.glob("*.yaml")} - others
    assert set(names) == there, f"kustomization.yaml names {sorted(names)}, there are {sorted(there)}"
    return names, [part for name in names for part in yaml.safe_load_all((KUBERNETES / name).read_text())]


def follow_the_schemas(names):
    tool = pathlib.Path(sys.executable).parent / "kubernetes-validate"
    for version in VERSIONS:
        run(tool, "--strict", "-k", version, *(KUBERNETES / name for name in names))
    say(f"{len(names)} files follow the schemas of Kubernetes {' and '.join(VERSIONS)}")


def belong_together(parts):
    by_kind = lambda kind: [part for part in parts if part["kind"] == kind]
    config = {part["metadata"]["name"]: part["data"] for part in by_kind("ConfigMap")}
    workloads = {part["metadata"]["name"]: part["spec"]["template"] for part in by_kind("Deployment") + by_kind("Job")}
    fits = lambda selector, labels: all(labels.get(key) == value for key, value in selector.items())
    matching = lambda selector: [
        name for name, template in workloads.items() if fits(selector, template["metadata"]["labels"])
    ]
    ports = {
        name: {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0].get("ports", [])}
        for name, template in workloads.items()
    }
    secrets = {"insieme-nats": {"frontend", "validator", "operator"}, "insieme-auth": {"jwt-secret"}}
    for secret, keys in secrets.items():
        told = (KUBERNETES / "README.md").read_text()
        assert f"generic {secret}" in told, f"README.md does not say how to make {secret}"
        assert all(re.search(rf"--from-(literal|file)={key}=", told) for key in keys), secret

    for kind in ["Deployment", "PodDisruptionBudget"]:
        for part in by_kind(kind):
            found = matching(part["spec"]["selector"]["matchLabels"])
            assert found == [part["metadata"]["name"]], f"{kind} {part['metadata']['name']} selects {found}"
    for part in by_kind("HorizontalPodAutoscaler"):
        target = part["spec"]["scaleTargetRef"]["name"]
        assert part["spec"]["minReplicas"] > 1 and "replicas" not in next(
            other["spec"] for other in by_kind("Deployment") if other["metadata"]["name"] == target
        ), "two say how many there are"
    for part in by_kind("Service"):
        (name,) = matching(part["spec"]["selector"])
        assert all(port["targetPort"] in ports[name] for port in part["spec"]["ports"]), part["metadata"]["name"]
    for part in by_kind("NetworkPolicy"):
        selector = part["spec"]["podSelector"]["matchLabels"]
        assert matching(selector) or selector == {"app.kubernetes.io/name": "nats"}, part["metadata"]["name"]

    for name, template in workloads.items():
        spec, (container,) = template["spec"], template["spec"]["containers"]
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0, name
        own = container["securityContext"]
        assert own["readOnlyRootFilesystem"] and not own["allowPrivilegeEscalation"], name
        assert own["capabilities"] == {"drop": ["ALL"]} and "limits" in container["resources"], name
        for probe in ["livenessProbe", "readinessProbe"]:
            assert name == "bootstrap" or container[probe]["httpGet"]["port"] in ports[name], (name, probe)
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        files = {}
        for mount in container["volumeMounts"]:
            volume = volumes.pop(mount["name"])
            if "secret" in volume:
                keys = {item["key"]: item["path"] for item in volume["secret"]["items"]}
                assert keys.keys() <= secrets[volume["secret"]["secretName"]], name
                files |= {f"{mount['mountPath']}/{path}": "aSecretOfThirtyTwoBytesAtTheLeast" for path in keys.values()}
            else:
                files |= {f"{mount['mountPath']}/{key}": text for key, text in config[volume["configMap"]["name"]].items()}
        assert not volumes, f"{name}: not mounted: {list(volumes)}"
        takes_its_configuration(name, container, files, ports[name])
    say(f"{len(parts)} objects belong together, and the binary takes the configuration of {', '.join(workloads)}")


def takes_its_configuration(name, container, files, ports):
    """Puts the files where the container would have them, below another root."""
    role, *arguments = container["args"]
    with tempfile.TemporaryDirectory() as root:
        for path, text in files.items():
            file = pathlib.Path(root + path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        moved = lambda text: root + text if text in files else text
        assert all(text in files for text in arguments if text.startswith("/")), f"{name}: {arguments}"
        environment = {entry["name"]: moved(entry["value"]) for entry in container["env"]}
        assert not any(value.startswith("/run/secrets") for value in environment.values()), f"{name}: {environment}"
        shown = run(BINARY, "check-config", *map(moved, arguments), **environment)
        assert f'user = "{ {"bootstrap": "operator"}.get(name, name)}"' in shown, shown
        listens = {"ws": '"0.0.0.0:3001"', "metrics": '"0.0.0.0:9100"'}
        assert role == name and all(listens[port] in shown for port in ports), shown


def nats_takes_its_configurations():
    server = os.environ["INSIEME_TEST_NATS_SERVER"]
    several = {"NATS_SERVER_NAME": "insieme-1", "NATS_ROUTE_PASSWORD": "routeSecret"}
    several["NATS_ROUTES"] = '[ "nats://route:routeSecret@127.0.0.1:6222" ]'
    for file in ["single.conf", "cluster.conf"]:
        run(server, "-t", "-c", ROOT / "nats" / file, **PASSWORDS, **several)

    # The values of NATS's chart say the same as cluster.conf. The chart writes JSON, with `<< >>` left out,
    # and an include for a key `$include`.
    values = yaml.safe_load((KUBERNETES / "nats-values.yaml").read_text())
    environment = values["container"]["env"]
    assert environment.pop("GOMEMLIMIT", None), "NATS has a limit to its memory"
    assert environment.keys() == PASSWORDS.keys(), "the passwords that users.conf wants"
    plain = lambda value: re.sub(r"^<< | >>$", "", value) if isinstance(value, str) else value
    said = {key: plain(value) for key, value in values["config"]["merge"].items()}
    said |= values["config"]["jetstream"]["merge"]
    assert said.pop("$include") == "users.conf"
    shipped = (ROOT / "nats/cluster.conf").read_text()
    for key, value in said.items():
        found = re.search(rf'^\s*{key}: "?([^"\n]*)"?$', shipped, re.M)
        assert found and found[1] == str(value), f"nats-values.yaml: {key} is {value}, in cluster.conf {found and found[1]}"
    assert f"nats:{values['container']['image']['tag']}" in (ROOT / "compose.yaml").read_text()
    say("NATS takes its configurations, and the values of its chart say the same")


def compose_puts_files_where_they_are_looked_for():
    read = lambda path: yaml.safe_load((ROOT / path).read_text())
    services = read("compose.yaml")["services"]
    mounts = {name: [text.split(":")[:2] for text in service.get("volumes", [])] for name, service in services.items()}
    for name, pairs in mounts.items():
        for source, _ in pairs:
            assert not source.startswith(".") or (ROOT / source).exists(), f"{name}: there is no {source}"
    targets = {name: {target: source for source, target in pairs} for name, pairs in mounts.items()}

    # Grafana reads its provisioning, that reads the dashboards, and they come from Prometheus.
    (provider,) = read("deploy/grafana/provisioning/dashboards/insieme.yml")["providers"]
    dashboards = [target for target in targets["grafana"] if target.startswith(provider["options"]["path"] + "/")]
    assert len(dashboards) == 1 and dashboards[0].endswith(".json"), dashboards
    assert "/etc/grafana/provisioning" in targets["grafana"]
    (source,) = read("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in services, source
    assert f'"uid": "{source["uid"]}"' in (ROOT / "deploy/grafana/dashboard.json").read_text()

    # Prometheus reads its configuration, and scrapes services that serve metrics there.
    assert targets["prometheus"]["/etc/prometheus"] == "./deploy/prometheus"
    for job in read("deploy/prometheus/prometheus.yml")["scrape_configs"]:
        for found in job["dns_sd_configs"]:
            for name in found["names"]:
                assert services[name]["environment"]["INSIEME_METRICS_LISTEN"] == f"0.0.0.0:{found['port']}", name

    # What cluster.env sets is asked for, and names the servers that there are.
    text = (ROOT / "compose.yaml").read_text()
    lines = (ROOT / "deploy/compose/cluster.env").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert all(f"${{{name}:-" in text for name in settings), settings
    servers = [name for name, service in services.items() if service["image"].startswith("nats:")]
    assert settings["INSIEME_NATS_URLS"] == ",".join(f"nats://{name}:4222" for name in servers), settings
    routes = services["nats"]["environment"]["NATS_ROUTES"]
    assert all(f"@{name}:6222" in routes for name in servers), routes
    assert settings["INSIEME_NATS_REPLICAS"] == str(len(servers))
    say("compose mounts what there is to where it is looked for, and its cluster is of the servers that it has")


def systemd_takes_the_units():
    units = sorted((ROOT / "deploy/systemd").glob("*.service"))
    with tempfile.TemporaryDirectory() as folder:
        for unit in units:
            text = unit.read_text()
            assert text.count("/usr/local/bin/insieme-backend") == 1, unit
            (pathlib.Path(folder) / unit.name).write_text(text.replace("/usr/local/bin/insieme-backend", str(BINARY)))
        said = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *(f"{folder}/{unit.name}" for unit in units))
        ours = [line for line in said.splitlines() if ".service" in line]
        assert not ours, said
        for unit in units:
            # 0 is the least that a unit can do to its host, 10 the most.
            said = run("systemd-analyze", "security", "--offline=yes", "--threshold=25", f"{folder}/{unit.name}")
            say(f"{unit.name}: {said.strip().splitlines()[-1].strip()}")


names, parts = manifests()
follow_the_schemas(names)
belong_together(parts)
nats_takes_its_configurations()
compose_puts_files_where_they_are_looked_for()
systemd_takes_the_units()
