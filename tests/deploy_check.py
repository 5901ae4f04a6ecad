"""What must hold of the files in deploy/ and nats/, and of compose.yaml; called by tests/deploy."""

import re
import tempfile

import deploy_kubernetes
import deploy_monitoring
import deploy_run
import deploy_systemd
import deploy_upgrade
from deploy_tools import NATS_SERVER, PASSWORDS, ROOT, needs_to_drain_seconds, read_yaml, run, say, settings, variables


def nats_takes_its_configurations():
    several = {"NATS_SERVER_NAME": "insieme-1", "NATS_ROUTE_PASSWORD": "routeSecret"}
    several["NATS_ROUTES"] = '[ "nats://route:routeSecret@127.0.0.1:6222" ]'
    for file in ["single.conf", "cluster.conf"]:
        run(NATS_SERVER, "-t", "-c", ROOT / "nats" / file, **PASSWORDS, **several)

    # The values of NATS's chart say the same as cluster.conf. The chart writes JSON, with `<< >>` left out,
    # and an include for a key `$include`.
    values = read_yaml("deploy/kubernetes/nats-values.yaml")
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
    services = read_yaml("compose.yaml")["services"]
    mounts = {name: [text.split(":")[:2] for text in service.get("volumes", [])] for name, service in services.items()}
    for name, pairs in mounts.items():
        for source, _ in pairs:
            assert not source.startswith(".") or (ROOT / source).exists(), f"{name}: there is no {source}"
    targets = {name: {target: source for source, target in pairs} for name, pairs in mounts.items()}

    # Grafana reads its provisioning, that reads the dashboards, and they come from Prometheus.
    (provider,) = read_yaml("deploy/grafana/provisioning/dashboards/insieme.yml")["providers"]
    dashboards = [target for target in targets["grafana"] if target.startswith(provider["options"]["path"] + "/")]
    assert len(dashboards) == 1 and dashboards[0].endswith(".json"), dashboards
    assert "/etc/grafana/provisioning" in targets["grafana"]
    (source,) = read_yaml("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in services, source
    assert source["type"] == "prometheus" and source["isDefault"], "the dashboard takes the data source that there is"

    # Prometheus reads its configuration, and scrapes services that serve metrics there.
    assert targets["prometheus"]["/etc/prometheus"] == "./deploy/prometheus"
    labels = read_yaml("deploy/prometheus/prometheus.yml")["global"]["external_labels"]
    assert labels == {"insieme_runbooks": "${RUNBOOKS_URL}"} and "RUNBOOKS_URL" in services["prometheus"]["environment"]
    assert "--enable-feature=expand-external-labels" in services["prometheus"]["command"], "the variable is replaced"
    for job in read_yaml("deploy/prometheus/prometheus.yml")["scrape_configs"]:
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


def compose_sets_what_there_is():
    """For every process of ours, without tokens and with each of the files for them."""
    services = read_yaml("compose.yaml")["services"]
    ours = {name: service for name, service in services.items() if "INSIEME_NATS_USER" in service.get("environment", {})}
    assert ours.keys() == {"bootstrap", "validator", "frontend", "admin"}, ours.keys()
    with tempfile.NamedTemporaryFile("w") as secret:
        secret.write("aSecretOfThirtyTwoBytesAtTheLeast")
        secret.flush()
        given = {"TOKENS_SECRET_FILE": secret.name, "TOKENS_JWKS_URL": "https://issuer.example/keys", "TOKENS_ISSUER": "i"}
        for file in [None, *sorted((ROOT / "deploy/compose").glob("*.yaml"))]:
            more = read_yaml(file)["services"] if file else {}
            assert not file or more.keys() == {"frontend", "admin"}, f"{file}: both check tokens"
            for name, service in ours.items():
                merged = service["environment"] | more.get(name, {}).get("environment", {})
                environment = {key: interpolated(str(value), given) for key, value in merged.items()}
                for volume in more.get(name, {}).get("volumes", []):
                    source, target = interpolated(volume["source"], given), volume["target"]
                    environment = {key: source if value == target else value for key, value in environment.items()}
                unknown = environment.keys() - variables()
                assert not unknown, f"{name}: there are no settings {unknown}"
                in_force = settings(**environment)
                keys = [key for key in ["secret_file", "jwks_url"] if in_force[f"auth.{key}"] != "(unset)"]
                anyone = in_force["frontend.allow_anyone"] == "true"
                if name in more:
                    assert len(keys) == 1 and not anyone, (name, file, keys)
                elif name == "frontend":
                    assert anyone and not keys, (name, file)
            if file is None:
                seconds = int(services["frontend"]["stop_grace_period"].removesuffix("s"))
                in_force = settings(**{key: interpolated(str(value), {}) for key, value in ours["frontend"]["environment"].items()})
                assert seconds >= needs_to_drain_seconds(in_force), f"a frontend is killed after {seconds} s"
    everyone = [port for service in services.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in everyone), f"reachable from elsewhere: {everyone}"
    say("compose sets what the binary takes, without tokens and with them")


def interpolated(text, given):
    def value(found):
        name, default = found[1], found[2]
        assert default is not None or name in given, f"nobody says what {name} is"
        return given.get(name, default)

    return re.sub(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)\}", value, text)


if __name__ == "__main__":
    nats_takes_its_configurations()
    compose_sets_what_there_is()
    compose_puts_files_where_they_are_looked_for()
    deploy_monitoring.check()
    deploy_systemd.check()
    deploy_kubernetes.check()
    deploy_run.check()
    deploy_upgrade.check()
