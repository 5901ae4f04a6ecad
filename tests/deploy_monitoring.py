"""Checks that the dashboard and the alarms speak of metrics, variables and pages that there are, and the documentation
of settings that there are."""

import json
import re

import yaml

from deploy_tools import ROOT, keys, read_yaml, run, say, variables

# What alarms link to.
ANNOTATION = '{{ or $externalLabels.insieme_runbooks "docs/RUNBOOKS.md" }}#'
AREAS = "nats|auth|frontend|validator|rules|log|metrics|admin|control|traces|process"
# Look like keys, and are none: files, and what JavaScript has.
FILES = r"\.(conf|md|rs|toml|yaml|yml|json|py|js|mjs|ts|sh|service|timer)$|^process\.(env|exit|argv|pid)$"


def check():
    metrics = declared_metrics()
    queries = dashboard_queries()
    alarms = [rule for group in read_yaml("deploy/prometheus/alerts.yml")["groups"] for rule in group["rules"]]
    for text in queries + [rule["expr"] for rule in alarms]:
        unknown = names_in(text) - metrics
        assert not unknown, f"there is no metric {unknown}: {text}"
    for rule in alarms:
        link = rule["annotations"]["runbook_url"]
        assert link == f"{ANNOTATION}{rule['alert'].lower()}", link
    sections = re.findall(r"^## (Insieme\w+)$", (ROOT / "docs/RUNBOOKS.md").read_text(), re.M)
    assert sorted(sections) == sorted(rule["alert"] for rule in alarms), set(sections) ^ {rule["alert"] for rule in alarms}
    rule_of_the_operator()
    say(f"{len(queries)} queries and {len(alarms)} alarms use metrics that there are, and link to runbooks that there are")
    settings_that_are_named_exist()


def declared_metrics():
    found = set()
    for file in ROOT.glob("src/**/*.rs"):
        found |= set(re.findall(r'"((?:insieme|process)_[a-z_]+)"', file.read_text()))
    listed = set(re.findall(r"`((?:insieme|process)_[a-z_]+)`", (ROOT / "docs/operations/observe.md").read_text()))
    assert len(listed & found) > 60, "the metrics are declared elsewhere now"
    return {name + suffix for name in listed & found for suffix in ["", "_bucket", "_sum", "_count"]} | {"up"}


def names_in(query):
    return set(re.findall(r"\b(?:insieme|process)_[a-z_]+|\bup\b", re.sub(r'"[^"]*"', '""', query)))


def dashboard_queries():
    dashboard = json.loads((ROOT / "deploy/grafana/dashboard.json").read_text())
    listed = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert list(listed) == ["datasource", "job", "instance"], list(listed)
    assert listed["datasource"]["type"] == "datasource" and listed["datasource"]["query"] == "prometheus"
    queries = [listed[name]["query"]["query"] for name in ["job", "instance"]]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"]), "two panels have one id"
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
            text = target["expr"]
            for name, selector in re.findall(r"\b((?:insieme|process)_\w+)(\{[^}]*\})?", text):
                assert 'job=~"$job",instance=~"$instance"' in selector, f"{panel['title']}: {name} of any process"
            unknown = set(re.findall(r"\$(\w+)", text)) - {"job", "instance", "__rate_interval"}
            assert not unknown, f"{panel['title']}: there is no variable {unknown}"
            queries.append(text)
    return queries


def rule_of_the_operator():
    """The command of the README makes a PrometheusRule out of the alarms."""
    told = (ROOT / "deploy/kubernetes/README.md").read_text()
    (command,) = re.findall(r"^\{\n(  printf.*?)\n\} \| kubectl", told, re.M | re.S)
    made = yaml.safe_load(run("bash", "-c", f"cd {ROOT}; {command}"))
    assert made["kind"] == "PrometheusRule" and made["spec"] == read_yaml("deploy/prometheus/alerts.yml"), made


def settings_that_are_named_exist():
    there, set_by = keys(), variables()
    files = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*"), ROOT / "compose.yaml", ROOT / "README.md"]
    count = 0
    for file in files:
        if not file.is_file():
            continue
        text = file.read_text()
        named = set(re.findall(r"\bINSIEME_[A-Z][A-Z_]*[A-Z]\b(?![…*])", text)) - {"INSIEME_CONFIG"}
        own = {name for name in named if name.startswith("INSIEME_TEST_")} | OF_OTHERS.get(file.name, set())
        unknown = named - own - set_by
        assert not unknown, f"{file.relative_to(ROOT)}: no setting is {unknown}"
        written = set(re.findall(rf"`((?:{AREAS})\.[a-z][a-z_]+)(?: = [^`]*)?`", text))
        if file.suffix != ".md":
            written |= set(re.findall(rf"(?<![\w/.`-])((?:{AREAS})\.[a-z]+(?:_[a-z]+)*)\b(?![./-])", text))
        unknown = {key for key in written if not re.search(FILES, key)} - there - NO_KEYS
        assert not unknown, f"{file.relative_to(ROOT)}: there is no key {unknown}"
        count += len(named) + len(written)
    say(f"{count} times a setting is named, and each is one")


# Of compose itself, and of Kubernetes for a Service of our name.
OF_OTHERS = {
    **{name: {"INSIEME_PORT"} for name in ["compose.yaml", "deploy.md"]},
    "configure.md": {"INSIEME_PORT", "INSIEME_SERVICE_HOST"},
}
NO_KEYS = {"log.mark"}
