from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.dag.parse import parse_definition
from orchestrator.dag.yaml_source import Limits, read_documents
from orchestrator.registry import task_types
from tests.support.rules import form, problems, spec
from triggers.rules.spec import CONTRACT_FIELDS, RuleSpec, own_job_definition, read_rule

RULES = """
taskTriggerRules:
  - ruleId: order-created-trigger
    ruleName: 订单创建触发数据同步
    eventType: order.created
    condition: "payload.amount > 1000"
    taskName: high-value-order-processing
    taskType: shell
    parameters:
      script: /scripts/process-high-value-order.sh
      timeout: 3600
    priority: HIGH
    enabled: true
    description: 处理高价值订单的后续流程
  - ruleId: payment-completed-trigger
    ruleName: 支付完成触发库存更新
    eventType: payment.completed
    condition: "payload.status == 'SUCCESS'"
    taskName: inventory-update
    taskType: http
    parameters:
      url: http://inventory-service/api/update
      method: POST
      timeout: 300
    priority: MEDIUM
    enabled: true
    description: 支付成功后更新库存信息
"""
EVERYTHING: dict[str, Any] = {
    "ruleId": "every-field",
    "ruleName": "每个字段",
    "eventType": ["order.created", "order.paid.#"],
    "match": {"source": ["order-service"], "channel": ["kafka:business-events"], "headers": {"X-Tenant": "a"}},
    "condition": "payload.amount > 1000",
    "taskName": "sync",
    "parameters": {"orderId": "${payload.orderId}", "note": "order ${payload.orderId:-none} at ${timestamp}"},
    "priority": "P0",
    "enabled": False,
    "description": "all of it",
    "dedupe": {"key": "payload.orderId", "window": "10m"},
    "throttle": {"limit": 100, "per": "1m", "onExceed": "drop", "key": "payload.shop"},
    "debounce": {"key": "payload.tableName", "quiet": "30s", "maxWait": "5m"},
    "concurrency": {"key": "payload.customerId", "max": 1, "onExceed": "queue"},
    "delay": "5m",
    "window": {"tz": "Asia/Shanghai", "allow": "* 22-23,0-5 * * *", "onClosed": "hold"},
    "expiresAfter": "24h",
    "whenJobPaused": "drop",
}


def contract_rules() -> list[dict[str, Any]]:
    (document,) = read_documents(RULES, Limits())
    assert document.root is not None
    rules: list[dict[str, Any]] = document.root.plain()["taskTriggerRules"]
    return rules


@pytest.mark.parametrize("index", [0, 1])
def test_both_rules_of_the_contract_are_read_and_written_back_as_they_were(index: int):
    given = contract_rules()[index]

    read = read_rule(given)

    assert isinstance(read, RuleSpec)
    assert read.to_form() == given
    assert set(CONTRACT_FIELDS) == set(given)


def test_a_rule_with_every_field_survives_every_way_of_writing_it():
    read = read_rule(EVERYTHING)

    assert isinstance(read, RuleSpec)
    assert read_rule(read.to_form()) == read
    assert RuleSpec.from_canonical(json.loads(json.dumps(read.canonical()))) == read
    assert read.to_form()["eventType"] == ["order.created", "order.paid.#"]
    assert read.to_form()["match"]["headers"] == {"x-tenant": "a"}
    assert read.to_form()["expiresAfter"] == "1d"


def test_what_get_gives_may_be_put_and_changes_nothing():
    stored = spec(condition="payload.amount > 1", parameters={"a": 1, "timeout": "5m"})

    assert read_rule(stored.to_form()) == stored
    assert read_rule(stored.to_form()).canonical() == stored.canonical()  # type: ignore[union-attr]


def test_the_form_of_the_model_and_the_flat_form_of_the_contract_are_one_rule():
    nested = read_rule(
        {
            "ruleId": "a-rule",
            "match": {"eventType": "order.created", "source": "shop"},
            "target": {"taskName": "sync", "taskType": "shell"},
            "parameters": {"command": "true"},
        }
    )

    assert nested == spec(taskType="shell", match={"source": ["shop"]}, parameters={"command": "true"})


def test_null_is_a_field_that_is_not_given():
    assert spec(taskType=None, priority=None, dedupe=None, condition=None, parameters=None) == spec()


def test_all_problems_are_found_at_once_and_named():
    found = read_rule(
        {
            "ruleId": "Not An Id",
            "contition": "x",
            "eventType": "or*er.created",
            "condition": "payload.a > ",
            "taskName": "x",
            "parameters": {"note": "${payloat.x}"},
            "priority": "URGENT",
            "enabled": "yes",
            "dedupe": {"window": "soon"},
            "throttle": {"limit": 0, "per": "1m", "onExceed": "wait"},
            "batch": {"key": "payloat.x", "maxEvents": 10**9, "maxWait": "1m"},
            "window": {"tz": "Mars/Base", "allow": "* * 30 2 *"},
            "delay": -1,
        }
    )

    assert not isinstance(found, RuleSpec)
    assert {problem.path for problem in found} == {
        "contition", "ruleId", "enabled", "priority", "eventType", "condition", "parameters.note", "dedupe.key",
        "dedupe.window", "throttle.limit", "throttle.onExceed", "batch.key", "batch.maxEvents", "delay", "window.tz",
        "window.allow",
    }  # fmt: skip
    assert all(problem.expected and problem.message for problem in found)
    assert next(problem for problem in found if problem.path == "contition").expected == "condition?"


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"gates": ["approval:release-managers"]}, "gates"),
        ({"all": ["a", "b"]}, "all"),
        ({"includeSnapshot": True}, "includeSnapshot"),
        ({"unknown": 1}, "unknown"),
        ({"ruleId": "a" * 59}, "ruleId"),
        ({"ruleId": "-a"}, "ruleId"),
        ({"ruleId": 7}, "ruleId"),
        ({"eventType": ""}, "eventType"),
        ({"eventType": []}, "eventType"),
        ({"eventType": "a.#.b"}, "eventType"),
        ({"eventType": "order created"}, "eventType"),
        ({"eventType": "x" * 201}, "eventType"),
        ({"eventType": "a", "match": {"eventType": "b"}}, "eventType"),
        ({"match": {"sauce": "x"}}, "match.sauce"),
        ({"match": {"headers": {"x": 1}}}, "match.headers.x"),
        ({"match": "order.created"}, "match"),
        ({"condition": "payload.amount + 1"}, "condition"),
        ({"condition": "'text'"}, "condition"),
        ({"condition": "nothing.known"}, "condition"),
        ({"condition": "true && " * 1000 + "true"}, "condition"),
        ({"condition": "payload == " + "'x'" * 4_000}, "condition"),
        ({"condition": "(" * 40 + "true" + ")" * 40}, "condition"),
        ({"condition": 5}, "condition"),
        ({"taskName": ""}, "taskName"),
        ({"taskName": None}, "taskName"),
        ({"timeout": 60}, "timeout"),
        ({"taskType": "shell", "parameters": {"command": "true", "timeout": 60}, "timeout": 61}, "timeout"),
        ({"taskType": "shell", "parameters": {"command": "true", "timeout": "soon"}}, "parameters.timeout"),
        ({"taskType": "shell", "parameters": {}}, "parameters.script"),
        ({"taskType": "shell", "parameters": {"script": "a", "command": "b"}}, "parameters.command"),
        ({"taskType": "shell", "parameters": {"command": ["ls"]}}, "parameters.command"),
        ({"taskType": "shell", "parameters": {"command": "a", "x-y": 1, "x_y": 2}}, "parameters.x_y"),
        ({"taskType": "shell", "parameters": {"command": "a", "名": 1}}, 'parameters.名'),
        ({"taskType": "shell", "parameters": {"command": "a", "x": {"y": "${payload.z}"}}}, "parameters.x"),
        ({"taskType": "http", "parameters": {"url": "http://a", "body": "x", "other": 1}}, "parameters.body"),
        ({"taskType": "http", "parameters": {"url": "http://a", "json": [1], "other": 1}}, "parameters.json"),
        ({"taskType": "http", "parameters": {"url": "http://a", "json": {"a": 1}, "a": 1}}, "parameters.a"),
        ({"taskType": "http", "parameters": {"url": "x", "expect": {"body": "${payload.x}"}}}, "parameters.expect.body"),
        ({"taskType": "noop", "parameters": {"depends_on": ["x"]}}, "parameters.depends_on"),
        ({"parameters": {"a": "${payload.x"}}, "parameters.a"),
        ({"parameters": {"a": ["${biz_date}"]}}, "parameters.a[0]"),
        ({"parameters": {"a": {"b": "${params.x}"}}}, "parameters.a.b"),
        ({"parameters": {"a": "${runId}"}}, "parameters.a"),
        ({"parameters": {"a": "${eventIds}"}}, "parameters.a"),
        ({"parameters": {"a": "x\0"}}, "parameters.a"),
        ({"parameters": {"a": "\ud800"}}, "parameters.a"),
        ({"parameters": {"a": 2**70}}, "parameters.a"),
        ({"parameters": {"a": float("nan")}}, "parameters.a"),
        ({"parameters": {str(n): n for n in range(201)}}, "parameters"),
        ({"parameters": [1]}, "parameters"),
        ({"description": "x" * 5000}, "description"),
        ({"debounce": {"key": "payload.a", "quiet": "1m", "maxWait": "30s"}}, "debounce.maxWait"),
        ({"debounce": {"key": "payload.a", "quiet": "2d"}, "expiresAfter": "1d"}, "debounce"),
        ({"delay": "8d"}, "delay"),
        ({"concurrency": {"max": 0}}, "concurrency.max"),
        ({"concurrency": {"max": True}}, "concurrency.max"),
        ({"dedupe": {"key": "", "window": "1m"}}, "dedupe.key"),
        ({"window": {"allow": "* 22-25 * * *"}}, "window.allow"),
        ({"whenJobPaused": "wait"}, "whenJobPaused"),
        ({"expiresAfter": "1000d"}, "expiresAfter"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_where_it_stands(fields: dict[str, Any], path: str):
    assert path in [problem.path for problem in problems(**fields)]


def test_debounce_with_batch_is_refused():
    found = problems(
        debounce={"key": "payload.a", "quiet": "10s"}, batch={"key": "payload.a", "maxEvents": 5, "maxWait": "10s"}
    )

    assert [(problem.path, problem.message) for problem in found] == [("batch", "debounce and batch together")]


def test_a_rule_that_is_too_large_or_too_deep_is_refused_before_it_is_read():
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]

    assert "levels deep" in problems(parameters={"a": deep})[0].message
    assert "at most 65536 bytes" in problems(parameters={"a": "x" * 70_000})[0].expected
    assert not isinstance(read_rule([1]), RuleSpec)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "process ${payload.file}",
        "echo ${eventType}",
        "echo ${payload['any key']}",
        "echo ${headers.x-tenant:-none}",
        "echo ${ruleId}",
    ],
)
@pytest.mark.parametrize("task_type", ["shell", "script"])
def test_an_event_never_becomes_part_of_a_command(task_type: str, text: str):
    found = problems(taskType=task_type, parameters={"script": text})

    assert [problem.path for problem in found] == ["parameters.script"]
    assert "PARAM_<NAME>" in found[0].expected


def test_a_variable_of_the_shell_itself_is_no_placeholder():
    assert spec(taskType="shell", parameters={"command": 'echo "${HOME}" "${data}" "$${eventId}"'})


# --- the hidden job of a rule that carries its task


def definition_of(rule: RuleSpec) -> dict[str, Any]:
    definition = own_job_definition(rule)
    (parsed,) = parse_definition(json.dumps(definition), task_types=task_types.as_mapping(), pools=("default",))
    assert parsed.spec is not None, parsed.problems
    return definition


def test_the_rules_of_the_contract_own_a_job_of_one_task():
    first, second = (read_rule(each) for each in contract_rules())
    assert isinstance(first, RuleSpec)
    assert isinstance(second, RuleSpec)

    assert definition_of(first) == {
        "kind": "Job",
        "name": "rule-order-created-trigger",
        "description": "high-value-order-processing: 订单创建触发数据同步",
        "tasks": [
            {"name": "main", "type": "shell", "command": "/scripts/process-high-value-order.sh", "timeout": 3600}
        ],
    }
    assert definition_of(second)["tasks"] == [
        {
            "name": "main",
            "type": "http",
            "url": "http://inventory-service/api/update",
            "method": "POST",
            "timeout": 300,
        }
    ]


def test_a_rule_without_a_task_type_names_a_job_and_owns_none():
    assert spec().job_name == "sync"
    assert spec().own_job_name is None
    assert spec(taskType="noop").job_name is None
    assert spec(taskType="noop").own_job_name == "rule-a-rule"


def test_other_parameters_of_a_shell_task_are_its_environment():
    rule = spec(
        taskType="shell",
        timeout="5m",
        parameters={
            "script": 'run.sh "$PARAM_ORDER_ID"',
            "order-id": "${payload.orderId}",
            "note": "of ${source} in $${HOME}",
            "flags": {"dry": True},
            "count": 3,
            "nothing": None,
            "who": "${payload['a \\'b'].name[0]:-nobody}",
            "tenant": "${headers.X-Tenant}",
            "rule": "${ruleId}/${runId}",
            "trace": "${traceId}",
        },
    )

    (task,) = definition_of(rule)["tasks"]

    assert task["timeout"] == 300
    assert task["env"] == {
        "PARAM_ORDER_ID": "${event.payload.orderId}",
        "PARAM_NOTE": "of ${event.source} in $${HOME}",
        "PARAM_FLAGS": '{"dry":true}',
        "PARAM_COUNT": 3,
        "PARAM_NOTHING": "",
        "PARAM_WHO": "${event.payload['a \\'b'].name.0:-nobody}",
        "PARAM_TENANT": "${event.headers.x-tenant}",
        "PARAM_RULE": "a-rule/${run.id}",
        "PARAM_TRACE": "${event.metadata.traceId}",
    }


def test_other_parameters_of_an_http_task_are_fields_of_its_json_body():
    rule = spec(
        taskType="http",
        parameters={
            "url": "https://shop.example/orders/${payload.orderId}",
            "method": "POST",
            "headers": {"X-Event": "${eventId}"},
            "json": {"order": "${payload}"},
            "expect": {"status": [200, 202]},
            "environment": "${payload.environment:-test}",
        },
    )

    (task,) = definition_of(rule)["tasks"]

    assert task["url"] == "https://shop.example/orders/${event.payload.orderId}"
    assert task["json"] == {"order": "${event.payload}", "environment": "${event.payload.environment:-test}"}
    assert task["headers"] == {"X-Event": "${event.messageId}"}


def test_a_group_hands_its_events_to_its_own_task():
    rule = spec(
        taskType="shell",
        batch={"key": "payload.shop", "maxEvents": 500, "maxWait": "60s"},
        parameters={"command": "true", "events": "${eventIds}"},
    )

    assert definition_of(rule)["tasks"][0]["env"] == {"PARAM_EVENTS": "${event.events}"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from([*EVERYTHING, "taskType", "timeout", "batch", "gates", "x"]), JSON))
def test_reading_never_raises_and_what_it_reads_it_writes_back(fields: dict[str, Any]):
    read = read_rule({**form(), **fields})

    if isinstance(read, RuleSpec):
        assert read_rule(read.to_form()) == read
        assert RuleSpec.from_canonical(orjson.loads(orjson.dumps(read.canonical()))) == read
    else:
        assert read
        assert all(isinstance(problem.path, str) and problem.expected for problem in read)
