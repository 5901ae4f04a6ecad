"""Checks of deploy/kubernetes without a cluster: the schemas of Kubernetes, and that the objects belong together."""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import yaml

from deploy_tools import BINARY, ROOT, needs_to_drain_seconds, read_yaml, run, say, settings, variables

KUBERNETES = ROOT / "deploy/kubernetes"
# The newest that the schemas are of, and the oldest that is still looked after by anybody.
VERSIONS = ["1.37.0", "1.30.0"]
TOKENS = ["tokens-by-secret", "tokens-by-jwks"]
OPTIONAL = ["ingress", "monitoring"]
SECRETS = {"insieme-nats": {"frontend", "validator", "operator"}, "insieme-auth": {"jwt-secret"}}
NATS_USERS = {"bootstrap": "operator", "backup": "operator", "admin": "operator"}


def build(*parts):
    """The objects of these parts, as `kubectl apply --kustomize` would apply them."""
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "kubernetes"
        shutil.copytree(KUBERNETES, copy)
        chosen = yaml.safe_load((copy / "kustomization.yaml").read_text()) | {"resources": list(parts)}
        (copy / "kustomization.yaml").write_text(yaml.safe_dump(chosen))
        # Warnings go to standard error; there must be none.
        done = subprocess.run(["kubectl", "kustomize", copy], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and not done.stderr, done.stderr
    return [part for part in yaml.safe_load_all(done.stdout)]


def parts_are_all_named():
    text = (KUBERNETES / "kustomization.yaml").read_text()
    shipped = set(yaml.safe_load(text)["resources"])
    named = shipped | set(re.findall(r"^  # - (\S+)$", text, re.M))
    folders = {file.parent.name for file in KUBERNETES.glob("*/kustomization.yaml")}
    assert named == folders == {"base", *TOKENS, *OPTIONAL}, named ^ folders
    assert len(shipped & set(TOKENS)) == 1, f"{shipped}: one way to check tokens"
    for folder in folders:
        listed = set(read_yaml(f"deploy/kubernetes/{folder}/kustomization.yaml")["resources"])
        there = {file.name for file in (KUBERNETES / folder).glob("*.yaml")} - {"kustomization.yaml"}
        assert listed == there, f"{folder}: listed {sorted(listed)}, there are {sorted(there)}"


def follow_the_schemas(objects):
    known = [part for part in objects if "monitoring.coreos.com" not in part["apiVersion"]]
    tool = pathlib.Path(sys.executable).parent / "kubernetes-validate"
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump_all(known, file)
        file.flush()
        for version in VERSIONS:
            run(tool, "--strict", "-k", version, file.name)
    say(f"{len(known)} objects follow the schemas of Kubernetes {' and '.join(VERSIONS)}")


def pod_monitor_finds_the_pods(monitors, workloads):
    """No schema of the operator's is at hand: its fields that are used are known here."""
    (monitor,) = monitors
    spec = monitor["spec"]
    (endpoint,) = spec["podMetricsEndpoints"]
    assert spec.keys() == {"selector", "podMetricsEndpoints"}, spec
    assert endpoint.keys() <= {"port", "path", "interval", "relabelings"}, endpoint
    rules = {rule["targetLabel"]: rule for rule in endpoint["relabelings"]}
    assert all(rule.keys() <= {"sourceLabels", "targetLabel", "replacement"} for rule in rules.values()), rules
    assert rules["job"]["sourceLabels"] == ["__meta_kubernetes_pod_label_app_kubernetes_io_component"]
    jobs = {
        rules["job"]["replacement"].replace("$1", template["metadata"]["labels"]["app.kubernetes.io/component"])
        for template in workloads.values()
        if fits(spec["selector"], template) and endpoint["port"] in ports_of(template)
    }
    scraped = {job["job_name"] for job in read_yaml("deploy/prometheus/prometheus.yml")["scrape_configs"]}
    assert scraped <= jobs == {"insieme-frontend", "insieme-validator", "insieme-admin"}, jobs


def fits(selector, template):
    labels = template["metadata"]["labels"]
    among = lambda rule: rule["operator"] == "In" and labels.get(rule["key"]) in rule["values"]
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        among(rule) for rule in selector.get("matchExpressions", [])
    )


def ports_of(template):
    return {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0].get("ports", [])}


def templates(objects):
    """The pods of each workload, by the name without a version."""
    found = {}
    for part in objects:
        if part["kind"] in ["Deployment", "Job"]:
            found[re.sub(r"(-\d+)+$", "", part["metadata"]["name"])] = part["spec"]["template"]
        elif part["kind"] == "CronJob":
            found[part["metadata"]["name"]] = part["spec"]["jobTemplate"]["spec"]["template"]
    return found


def belong_together(objects):
    of_kind = lambda *kinds: [part for part in objects if part["kind"] in kinds]
    named = lambda kind: {part["metadata"]["name"]: part for part in of_kind(kind)}
    workloads = templates(objects)
    assert workloads.keys() == {"frontend", "validator", "bootstrap", "admin", "backup"}, workloads.keys()
    matching = lambda selector: [name for name, template in workloads.items() if fits(selector, template)]
    identity = [(part["kind"], part["metadata"]["name"]) for part in objects]
    assert len(set(identity)) == len(identity), "an object is there twice"

    told = (KUBERNETES / "README.md").read_text()
    for secret, keys in SECRETS.items():
        assert f"generic {secret}" in told, f"README.md does not say how to make {secret}"
        assert all(re.search(rf"--from-(literal|file)={key}=", told) for key in keys), secret
    for part in of_kind("Deployment", "PodDisruptionBudget"):
        found = matching(part["spec"]["selector"])
        assert found == [part["metadata"]["name"]], f"{part['kind']} {part['metadata']['name']} selects {found}"
    for part in of_kind("HorizontalPodAutoscaler"):
        target = part["spec"]["scaleTargetRef"]["name"]
        assert part["spec"]["minReplicas"] > 1 and "replicas" not in named("Deployment")[target]["spec"], (
            "two say how many there are"
        )
    for part in of_kind("NetworkPolicy"):
        selector = part["spec"]["podSelector"]
        assert matching(selector) or selector["matchLabels"] == {"app.kubernetes.io/name": "nats"}, part["metadata"]

    # What clients reach is not what probes ask; and what Prometheus asks has every pod, ready or not.
    exposed, scraped = {}, set()
    for part in of_kind("Service"):
        (name,) = matching({"matchLabels": part["spec"]["selector"]})
        targets = {port["targetPort"] for port in part["spec"]["ports"]}
        assert targets <= ports_of(workloads[name]).keys(), part["metadata"]["name"]
        if part["spec"].get("clusterIP") == "None":
            assert targets == {"metrics"} and part["spec"]["publishNotReadyAddresses"], part["metadata"]["name"]
            scraped.add(name)
        else:
            exposed[part["metadata"]["name"]] = targets
    assert scraped == named("Deployment").keys(), scraped
    assert exposed == {"frontend": {"ws"}, "admin": {"http"}}, exposed
    for part in of_kind("Ingress"):
        for rule in part["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                service = path["backend"]["service"]
                ports = {port["name"] for port in named("Service")[service["name"]]["spec"]["ports"]}
                assert service["port"]["name"] in ports and path["path"] == "/ws", service

    version = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    (job,) = named("Job")
    assert job == f"bootstrap-{version.replace('.', '-')}", f"{job}: a job of another version cannot be changed into it"
    assert named("Job")[job]["spec"]["ttlSecondsAfterFinished"] > 0

    in_force = {}
    for name, template in workloads.items():
        in_force[name] = pod_is_right(name, template, named("ConfigMap"), named("PersistentVolumeClaim"))
    seconds = workloads["frontend"]["spec"]["terminationGracePeriodSeconds"]
    assert seconds >= needs_to_drain_seconds(in_force["frontend"]), f"a frontend is killed after {seconds} s"
    assert int(in_force["frontend"]["frontend.drain_wait_ms"]) > 0, "load balancers need time to notice"
    if of_kind("PodMonitor"):
        pod_monitor_finds_the_pods(of_kind("PodMonitor"), workloads)
    if of_kind("Ingress"):
        assert in_force["frontend"]["frontend.trusted_proxies"] != "[]", "clients' addresses come from the ingress"
        for kind in ["read", "send"]:
            told = of_kind("Ingress")[0]["metadata"]["annotations"][f"nginx.ingress.kubernetes.io/proxy-{kind}-timeout"]
            assert int(told) * 1000 > 2 * int(in_force["frontend"]["frontend.heartbeat_interval_ms"]), told
    say(f"{len(objects)} objects belong together, and the binary takes the configuration of {', '.join(workloads)}")


def pod_is_right(name, template, configs, claims):
    """Returns the settings that are in force in its container."""
    spec, (container,) = template["spec"], template["spec"]["containers"]
    assert spec["enableServiceLinks"] is False, f"{name}: Kubernetes' own INSIEME_… variables are no settings"
    assert spec["automountServiceAccountToken"] is False, name
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0, name
    own = container["securityContext"]
    assert own["readOnlyRootFilesystem"] and not own["allowPrivilegeEscalation"], name
    assert own["capabilities"] == {"drop": ["ALL"]} and "limits" in container["resources"], name
    for probe in ["livenessProbe", "readinessProbe"]:
        assert name in ["bootstrap", "backup"] or container[probe]["httpGet"]["port"] == "metrics", (name, probe)
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    for mount in container["volumeMounts"]:
        volume = volumes.pop(mount["name"])
        if claim := volume.get("persistentVolumeClaim"):
            assert claim["claimName"] in claims, (name, claim)
        else:
            assert mount["readOnly"], (name, mount)
    assert not volumes, f"{name}: not mounted: {list(volumes)}"

    environment = environment_of(container, configs)
    unknown = {key for key in environment if key.startswith("INSIEME_")} - variables()
    assert not unknown, f"{name}: there are no settings {unknown}"
    assert environment["INSIEME_NATS_USER"] == NATS_USERS.get(name, name), name
    with tempfile.TemporaryDirectory() as root:
        moved = lay_out(name, template, configs, root)
        config = re.search(r"/etc/insieme/[\w.]+", " ".join(container["args"]))[0]
        in_force = settings("--config", moved(config), **{key: moved(value) for key, value in environment.items()})
    listens = {"ws": "frontend.listen", "http": "admin.listen", "metrics": "metrics.listen"}
    for port, number in ports_of(template).items():
        assert in_force[listens[port]] == f'"0.0.0.0:{number}"', (name, port, in_force[listens[port]])
    if name in ["frontend", "admin"]:
        keys = [key for key in ["secret_file", "jwks_url"] if in_force[f"auth.{key}"] != "(unset)"]
        assert len(keys) == 1 and in_force["frontend.allow_anyone"] == "false", (name, keys)
    return in_force


def environment_of(container, configs):
    environment = {}
    for source in container.get("envFrom", []):
        reference = source["configMapRef"]
        config = configs.get(reference["name"])
        assert config or reference.get("optional"), reference
        environment |= config["data"] if config else {}
    return environment | {entry["name"]: entry["value"] for entry in container["env"]}


def lay_out(name, template, configs, root, secrets={}):
    """Puts the files where the container would have them, below another root; returns what moves paths there."""
    places = []
    (container,) = template["spec"]["containers"]
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    uses_secret = any("insieme-tokens" == key and "INSIEME_AUTH_SECRET_FILE" in part["data"] for key, part in configs.items())
    for mount in container["volumeMounts"]:
        volume, folder = volumes[mount["name"]], pathlib.Path(root + mount["mountPath"])
        folder.mkdir(parents=True)
        places.append(mount["mountPath"])
        if secret := volume.get("secret"):
            keys = {item["key"]: item["path"] for item in secret["items"]}
            assert keys.keys() <= SECRETS[secret["secretName"]], name
            if secret["secretName"] == "insieme-auth" and not uses_secret:
                assert secret["optional"], f"{name} does not start without a secret"
                continue
            for key, path in keys.items():
                (folder / path).write_text(secrets.get(key, "aSecretOfThirtyTwoBytesAtTheLeast"))
        elif reference := volume.get("configMap"):
            config = configs.get(reference["name"])
            assert config or reference.get("optional"), (name, reference)
            like_kubelet(folder, config["data"] if config else {})

    def moved(text):
        for place in places:
            text = re.sub(rf"(?<![\w/]){re.escape(place)}(?=[/\s\"]|$)", lambda _: root + place, text)
        return text

    return moved


def like_kubelet(folder, files):
    """The files of a ConfigMap are links through ..data, which is replaced as a whole."""
    real = folder / "..2026_01_01"
    real.mkdir()
    (folder / "..data").symlink_to(real.name)
    for key, text in files.items():
        assert re.fullmatch(r"[-._a-zA-Z0-9]+", key), f"{key} is no key of a ConfigMap"
        (real / key).write_text(text)
        (folder / key).symlink_to(f"..data/{key}")


def schemas_of_a_config_map_are_read():
    with tempfile.TemporaryDirectory() as folder:
        like_kubelet(pathlib.Path(folder), {"todo.added.json": '{"type": 1}'})
        done = subprocess.run(
            [BINARY, "check-config", "--set", f"rules.schema_dir={folder}"], capture_output=True, text=True, timeout=60
        )
    assert done.returncode != 0 and "todo.added.json" in done.stderr, "a broken schema in a ConfigMap was not seen"
    say("schemas are read out of a ConfigMap")


def check():
    parts_are_all_named()
    for tokens in TOKENS:
        objects = build("base", tokens, *OPTIONAL)
        follow_the_schemas(objects)
        belong_together(objects)
    schemas_of_a_config_map_are_read()
