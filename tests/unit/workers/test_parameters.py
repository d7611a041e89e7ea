"""What an attempt is given, and which secrets are revealed for it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store import KeptResult, LocalStore
from workers.runtime.parameters import CannotRender, Inputs, Rendered, render_inputs, secrets_needed


def inputs_with(config: dict[str, Any], **overrides: Any) -> Inputs:
    values: dict[str, Any] = {
        "run_id": 7,
        "task_run_id": 70,
        "attempt_id": 700,
        "attempt_number": 2,
        "job_name": "nightly",
        "task_name": "load",
        "task_type": "shell",
        "config": config,
        "timeout": 20.0,
        "logical_date": datetime(2026, 11, 20, 18, 30, tzinfo=UTC),
    }
    return Inputs(**{**values, **overrides})


def rendered(inputs: Inputs, tmp_path: Path, *, secrets: dict[str, str] | None = None) -> Rendered:
    workdir = tmp_path / "workdir"
    workdir.mkdir()
    store = LocalStore(tmp_path / "store")
    return render_inputs(inputs, secrets=secrets or {}, store=store, workdir=workdir, fixed_text=("command",))


def test_placeholders_are_filled_in_and_fixed_text_is_left_to_the_shell(tmp_path: Path) -> None:
    inputs = inputs_with(
        {
            "command": "echo ${HOME} ${params.region}",
            "args": ["${params.region}", "${params.shops}", "${results.count.n}", "${event.id}"],
            "env": {"RUN": "${run.id}", "DAY": "${biz_date}", "IN": "${env}", "AT": "${run.logical_date}"},
        },
        parameters={"region": "cn", "shops": [1, 2]},
        results={"count": KeptResult(inline={"n": 4})},
        event={"id": "e1"},
        env="test",
    )

    config = rendered(inputs, tmp_path).config

    assert config["command"] == "echo ${HOME} ${params.region}"
    assert config["args"] == ["cn", [1, 2], 4, "e1"]
    assert config["env"] == {"RUN": 7, "DAY": "2026-11-19", "IN": "test", "AT": "2026-11-20T18:30:00+00:00"}


def test_the_execution_date_is_that_of_the_schedules_zone(tmp_path: Path) -> None:
    inputs = inputs_with({"env": {"DAY": "${execution_date}"}}, time_zone="Asia/Shanghai")

    assert rendered(inputs, tmp_path).config["env"]["DAY"] == "2026-11-21"


def test_only_the_secrets_that_the_task_names_are_asked_for() -> None:
    inputs = inputs_with(
        {"command": "${params.other}", "env": {"KEY": "x ${params.api_key}"}},
        parameters={"api_key": {"secret": "reports-api"}, "other": {"secret": "root-password"}},
        secret_parameters=["api_key", "other"],
    )

    assert secrets_needed(inputs, ("command",)) == {"api_key": "reports-api"}


def test_an_ordinary_parameter_cannot_have_a_secret_revealed(tmp_path: Path) -> None:
    """Whoever triggers a run writes the value of an object parameter, and must learn no secret by it."""
    inputs = inputs_with({"args": ["${params.options}"]}, parameters={"options": {"secret": "root-password"}})

    assert secrets_needed(inputs) == {}
    assert rendered(inputs, tmp_path).config["args"] == [{"secret": "root-password"}]


def test_revealed_secrets_are_filled_in_and_listed_for_masking(tmp_path: Path) -> None:
    inputs = inputs_with(
        {"env": {"KEY": "Bearer ${params.api_key}"}},
        parameters={"api_key": {"secret": "reports-api"}},
        secret_parameters=["api_key"],
    )

    filled = rendered(inputs, tmp_path, secrets={"api_key": "hunter2"})

    assert (filled.config["env"], filled.secrets) == ({"KEY": "Bearer hunter2"}, ("hunter2",))


@pytest.mark.parametrize(
    ("config", "overrides", "reason"),
    [
        ({"env": {"A": "${params.nope}"}}, {}, r"env: \$\{params.nope\}"),
        ({"env": {"A": "${event.id}"}}, {}, "event"),
        (
            {"env": {"A": "${params.api_key}"}},
            {"parameters": {"api_key": {"secret": "gone"}}, "secret_parameters": ["api_key"]},
            "the secret of the parameter 'api_key' does not exist",
        ),
        (
            {"args": ["${results.count.n}"]},
            {"results": {"count": KeptResult(ref="results/7/abc")}},
            "larger than 16 KiB: read it from the file in \\$UPBEAT_RESULT_COUNT",
        ),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, config: Any, overrides: Any, reason: str) -> None:
    with pytest.raises(CannotRender, match=reason):
        rendered(inputs_with(config, **overrides), tmp_path)


def test_large_results_become_files_named_in_the_environment(tmp_path: Path) -> None:
    ref = LocalStore(tmp_path / "store").put(6, b'{"rows": [1]}')
    inputs = inputs_with({}, results={"count": KeptResult(ref=ref), "small": KeptResult(inline=1)})

    environment = rendered(inputs, tmp_path).environment

    path = Path(environment["UPBEAT_RESULT_COUNT"])
    assert json.loads(path.read_text()) == {"rows": [1]}
    assert path.stat().st_mode & 0o777 == 0o600
    assert "UPBEAT_RESULT_SMALL" not in environment
    assert environment["UPBEAT_RUN_ID"] == "7"
    assert environment["UPBEAT_ATTEMPT"] == "2"
