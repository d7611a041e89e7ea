"""The Prometheus rules: they parse, fire on what they should, and name metrics and runbooks that exist."""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.metrics import METRICS as ORCHESTRATOR_METRICS
from tests.support import packages
from triggers.collectors import GAUGES
from triggers.metrics import METRICS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy/prometheus"
RULES: dict[str, Any] = yaml.safe_load((FOLDER / "rules.yml").read_text())
EVERY = [rule for group in RULES["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in EVERY if "alert" in rule}


@pytest.fixture(scope="session")
def promtool() -> str:
    """Return Debian's promtool, installed if it is missing."""
    with open(Path(tempfile.gettempdir()) / "upbeat-promtool.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if shutil.which("promtool") is None and packages.may_install():
            packages.install(["prometheus"])
    found = shutil.which("promtool")
    assert found, "promtool is missing: install the package prometheus"
    return found


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_accepts_the_rules_and_the_example(promtool: str) -> None:
    run(promtool, "check", "rules", "rules.yml", cwd=FOLDER)
    run(promtool, "check", "config", "prometheus.yml", cwd=FOLDER)


def test_each_alert_fires_on_its_series_and_on_no_other(promtool: str, tmp_path: Path) -> None:
    cases = Path(__file__).with_name("prometheus_rules.test.yml")
    shutil.copy(FOLDER / "rules.yml", tmp_path)
    shutil.copy(cases, tmp_path)

    run(promtool, "test", "rules", cases.name, cwd=tmp_path)

    tried = {
        one["alertname"]
        for case in yaml.safe_load(cases.read_text())["tests"]
        for one in case.get("alert_rule_test", [])
        if one["exp_alerts"]
    }
    assert tried == set(ALERTS)


def test_the_contract_s_alerts_have_their_thresholds() -> None:
    fixed = {
        name: (ALERTS[name]["labels"]["severity"], ALERTS[name]["for"])
        for name in ("HighMessageErrorRate", "HighQueueBacklog", "LowProcessingRate", "HighProcessingLatency")
    }

    assert fixed == {
        "HighMessageErrorRate": ("warning", "2m"),
        "HighQueueBacklog": ("critical", "5m"),
        "LowProcessingRate": ("warning", "5m"),
        "HighProcessingLatency": ("warning", "2m"),
    }


def test_every_rule_names_metrics_that_the_code_has() -> None:
    known = {name for name, _, _ in GAUGES} | {rule["record"] for rule in EVERY if "record" in rule}
    for metric in (*METRICS, *ORCHESTRATOR_METRICS):
        for family in metric.describe():
            known |= {f"{family.name}{end}" for end in ("", "_total", "_count", "_sum", "_bucket")}
    words = {"max", "sum", "by", "on", "and", "or", "rate", "increase", "offset", "time", "vector", "clamp_min",
             "histogram_quantile"}  # fmt: skip

    for rule in EVERY:
        bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|on) *\([^)]*\)|\boffset \w+", "", rule["expr"])
        used = set(re.findall(r"\b[a-z_]{2,}\b", bare)) - words
        assert used <= known, rule
        assert used


def test_every_alert_has_a_runbook_that_exists() -> None:
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs/operate.md").read_text(), flags=re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}

    for rule in ALERTS.values():
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert page == "docs/operate.md"
        assert anchor in anchors, rule["alert"]
