"""The example jobs: valid, shown as they are, and able to run anywhere."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from orchestrator.contracts import BUILT_IN_POOLS
from orchestrator.dag.parse import parse_definition
from orchestrator.dag.spec import JobSpec
from orchestrator.registry import task_types

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


def spec_of(file: Path) -> JobSpec:
    [definition] = parse_definition(
        file.read_text(), task_types=task_types.as_mapping(), pools=BUILT_IN_POOLS, stem=file.stem
    )
    assert not definition.problems, "\n".join(str(problem) for problem in definition.problems)
    assert definition.spec is not None
    return definition.spec


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_is_valid_and_called_as_its_file(file: Path) -> None:
    assert spec_of(file).name == file.stem


def test_the_readme_shows_the_word_count_job_as_it_is() -> None:
    shown = (ROOT / "README.md").read_text()

    assert (ROOT / "examples" / "word-count.yaml").read_text().strip() in shown


def test_the_deployment_example_takes_what_the_readme_sends() -> None:
    parameters = {
        parameter.name for parameter in spec_of(ROOT / "examples" / "data-sync-after-deployment.yaml").parameters
    }

    assert parameters == {"environment", "version", "deploy_time"}


@pytest.mark.parametrize(
    ("job", "task", "arguments", "environ", "last_line"),
    [
        ("word-count", "count", [], {"TEXT": "to be or not to be"}, {"words": 6}),
        (
            "data-sync-after-deployment",
            "check_release",
            [],
            {"VERSION": "v1.2.3", "ENVIRONMENT": "staging"},
            {"tag": "staging-v1.2.3"},
        ),
        ("data-sync-after-deployment", "sync_orders", ["orders", "4800"], {"TAG": "t"}, None),
        ("data-sync-after-deployment", "compare", ["1200", "4800", "350"], {}, {"rows": 6350, "missing": 0}),
        ("import-with-a-bad-line", "import_what_is_good", [], {}, {"rows": 2, "sum": 40}),
    ],
)
def test_a_command_of_an_example_prints_the_result_it_promises(
    job: str, task: str, arguments: list[str], environ: dict[str, str], last_line: object, tmp_path: Path
) -> None:
    spec = next(one for one in spec_of(ROOT / "examples" / f"{job}.yaml").tasks if one.name == task)
    done = subprocess.run(
        ["/bin/sh", "-c", spec.config["command"], "sh", *arguments],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        check=True,
    )

    result = json.loads(done.stdout.splitlines()[-1])

    assert result == last_line if last_line is not None else result["rows"] == 4800
