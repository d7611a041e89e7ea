from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.dag.forms import JOB_FIELDS, PARAMETER_FIELDS, RETRY_FIELDS, TASK_FIELDS
from tests.support.definitions import problems_of

PAGE = (Path(__file__).parents[3] / "docs" / "write-jobs.md").read_text()


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_a_documented_definition_is_valid(block: str):
    assert problems_of(block, stem="example") == []


@pytest.mark.parametrize("field", sorted({*JOB_FIELDS, *TASK_FIELDS, *RETRY_FIELDS, *PARAMETER_FIELDS}))
def test_every_field_is_documented(field: str):
    assert f"`{field}`" in PAGE
