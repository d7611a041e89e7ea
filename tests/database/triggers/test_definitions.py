"""Files of rules and event sources: checked with path and line, planned, applied, exported; the same again is nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import CommandError, call_command

from orchestrator.models import Job, Secret
from tests.support.contract_events import RULES_FILE, contract_rules
from tests.support.records import default_tenant, new_job
from triggers.models import EventSource, RuleVersion, TriggerRule

pytestmark = pytest.mark.django_db
SOURCE = """\
kind: EventSource
slug: deployments
type: webhook
config:
  provider: github
secrets:
  current: github-webhook
"""


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(text: str, name: str = "rules.yaml") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    code = 0
    try:
        call_command(*arguments)
    except SystemExit as left:
        code = int(str(left.code))
    except CommandError as error:
        return 1, capsys.readouterr().out, str(error)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_file_of_the_contract_is_valid_planned_applied_and_then_unchanged(file: Any, capsys: Any):
    name = file(RULES_FILE)

    assert run(capsys, "validate", name)[0] == 0
    code, planned, _ = run(capsys, "plan", name)
    assert code == 3
    assert "create rule order-created-trigger" in planned
    _, applied, _ = run(capsys, "apply", name, "--comment", "first")
    assert applied.splitlines() == [
        "rule order-created-trigger version 1 created",
        "rule payment-completed-trigger version 1 created",
    ]
    assert run(capsys, "plan", name)[0] == 0
    _, again, _ = run(capsys, "apply", name)

    assert [line.rsplit(" ", 1)[1] for line in again.splitlines()] == ["unchanged", "unchanged"]
    assert (TriggerRule.objects.count(), RuleVersion.objects.count(), Job.objects.count()) == (2, 2, 2)
    assert RuleVersion.objects.first().comment == "first"


def test_what_was_exported_is_applied_unchanged(file: Any, capsys: Any):
    run(capsys, "apply", file(RULES_FILE))

    _, exported, _ = run(capsys, "export", "order-created-trigger", "--kind", "TriggerRule")
    _, same, _ = run(capsys, "export", "order-created-trigger", "--kind", "taskTriggerRules")
    _, applied, _ = run(capsys, "apply", file(exported, "again.yaml"))

    assert same == exported
    assert yaml.safe_load(exported)["taskTriggerRules"][0] == contract_rules()[0]
    assert applied.strip() == "rule order-created-trigger version 1 unchanged"


def test_a_change_is_planned_in_words(file: Any, capsys: Any):
    run(capsys, "apply", file(RULES_FILE))
    changed = RULES_FILE.replace("payload.amount > 1000", "payload.amount > 5000").replace(
        "timeout: 3600", "timeout: 60"
    )

    code, planned, _ = run(capsys, "plan", file(changed))

    assert code == 3
    assert 'change condition from "payload.amount > 1000" to "payload.amount > 5000"' in planned
    assert "change parameters.timeout from 3600 to 60" in planned
    assert "rule payment-completed-trigger: no changes" in planned


def test_problems_come_with_path_and_line_of_each_rule(file: Any, capsys: Any):
    wrong = RULES_FILE.replace("payload.amount > 1000", "payload.amount >").replace("method: POST", "method: SHOUT")

    code, out, _ = run(capsys, "validate", file(wrong), "--json")

    assert code == 1
    found = json.loads(out)["definitions"]
    assert [[(each["path"], each["line"]) for each in one["problems"]] for one in found] == [
        [("taskTriggerRules[0].condition", 5)],
        [("taskTriggerRules[1].parameters.method", 22)],
    ]
    refused, _, error = run(capsys, "apply", file(wrong))
    assert (refused, TriggerRule.objects.count()) == (1, 0)
    assert "2 problems" in error


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("taskTriggerRules: []\n", "taskTriggerRules"),
        ("taskTriggerRules: {ruleId: x}\n", "taskTriggerRules"),
        ("taskTriggerRules: [3]\n", "taskTriggerRules[0]"),
        ("taskTriggerRules:\n- {ruleId: a, eventType: t, taskName: j}\nversion: 1\n", "version"),
        ("kind: EventSource\nslug: x\ntype: file\n", "type"),
        ("kind: EventSource\nslug: X\ntype: kafka\nconfig: {topics: [a]}\n", "slug"),
        ("kind: EventSource\nslug: x\ntype: kafka\nconfig: {topics: [a], plugin.library.paths: x}\n", "config.plugin.library.paths"),
        ("kind: EventSource\nslug: x\ntype: webhook\nconfig: {provider: github}\nsecrets: {current: 3}\n", "secrets.current"),
    ],
)  # fmt: skip
def test_wrong_forms_are_problems_of_their_place(file: Any, capsys: Any, text: str, path: str):
    code, out, _ = run(capsys, "validate", file(text), "--json")

    assert code == 1
    problems = [each for one in json.loads(out)["definitions"] for each in one["problems"]]
    assert path in [each["path"] for each in problems], problems
    assert all(each["line"] for each in problems)


def test_the_same_rule_twice_in_a_file_is_a_problem(file: Any, capsys: Any):
    rule = "- {ruleId: a, eventType: t, taskName: j}\n"

    code, out, _ = run(capsys, "validate", file(f"taskTriggerRules:\n{rule}{rule}"))

    assert code == 1
    assert "duplicate" in out


def test_a_file_of_all_kinds_is_applied_as_a_whole_or_not_at_all(file: Any, capsys: Any):
    rules = "taskTriggerRules:\n- {ruleId: sync, eventType: order.created, taskName: nightly}\n"
    job = "kind: Job\nname: nightly\ntasks:\n- {name: one, type: noop}\n"
    together = file("---\n".join([rules, SOURCE, job]))

    refused, _, error = run(capsys, "apply", together)
    assert refused == 1
    assert (Job.objects.count(), TriggerRule.objects.count(), EventSource.objects.count()) == (0, 0, 0)
    assert "event source" in error
    Secret.objects.create(tenant=default_tenant(), name="github-webhook", ciphertext=b"x")
    _, applied, _ = run(capsys, "apply", together)

    assert applied.splitlines() == [
        "rule sync version 1 created", "event source deployments created", "nightly version 1 created",
    ]  # fmt: skip
    assert run(capsys, "plan", together)[0] == 0


def test_a_source_is_exported_as_it_is_applied(file: Any, capsys: Any):
    Secret.objects.create(tenant=default_tenant(), name="github-webhook", ciphertext=b"x")
    run(capsys, "apply", file(SOURCE))

    _, exported, _ = run(capsys, "export", "deployments", "--kind", "EventSource")

    assert yaml.safe_load(exported) == {**yaml.safe_load(SOURCE), "id_policy": "transport", "enabled": True}
    assert run(capsys, "plan", file(exported, "again.yaml"))[0] == 0
    kafka = "kind: EventSource\nslug: business\ntype: kafka\nconfig: {topics: [business-events]}\n"
    assert run(capsys, "apply", file(kafka))[0] == 0
    # The group that it was given when it was made is no change of the file.
    assert run(capsys, "plan", file(kafka))[0] == 0
    assert EventSource.objects.get(slug="business").config["group_id"] == "schedule-trigger-group"


def test_a_rule_of_a_job_that_is_not_there_is_refused(file: Any, capsys: Any):
    rules = file("taskTriggerRules:\n- {ruleId: sync, eventType: order.created, taskName: nightly}\n")

    code, _, error = run(capsys, "apply", rules)

    assert code == 1
    assert "There is no job 'nightly'" in error
    new_job("nightly")
    assert run(capsys, "apply", rules)[0] == 0
