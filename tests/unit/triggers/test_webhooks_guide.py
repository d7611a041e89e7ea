"""docs/webhooks.md: what it shows is valid, and what it names exists."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from triggers.rules.spec import RuleSpec, read_rule
from triggers.sources.providers import PROVIDERS
from triggers.sources.providers.ci import KINDS, CiEvent
from triggers.sources.webhook import KIND

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "webhooks.md").read_text()
BLOCKS = [yaml.safe_load(textwrap.dedent(block)) for block in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)]
SECRETS = {"current": "a"}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: next(iter(block)))
def test_every_block_is_valid(block: dict[str, Any]) -> None:
    match block:
        case {"taskTriggerRules": rules}:
            for rule in rules:
                assert isinstance(read_rule(rule), RuleSpec), read_rule(rule)
        case {"kind": "EventSource"}:
            assert not KIND.problems(block["config"], block["secrets"])
        case {"config": config}:
            assert not KIND.problems(config, SECRETS)
        case {"mapping": mapping}:
            assert not KIND.problems({"provider": "generic", "mapping": mapping}, SECRETS)
        case _:
            raise AssertionError(block)


def test_every_provider_field_and_kind_is_named() -> None:
    payload = CiEvent("github").payload(None, _delivery(), {})

    for name in (*PROVIDERS, *KINDS, *payload):
        assert f"`{name}`" in GUIDE, name
    for field in set(KIND.schema["properties"]) - {"tenant", "tenants", "trigger_calls"}:
        assert f"`{field}`" in GUIDE, field


def test_the_demos_files_are_what_the_readme_says() -> None:
    source = yaml.safe_load((ROOT / "examples" / "events" / "shop.yaml").read_text())
    (rule,) = yaml.safe_load((ROOT / "examples" / "events" / "shop-rules.yaml").read_text())["taskTriggerRules"]

    assert not KIND.problems(source["config"], source["secrets"])
    assert isinstance(read_rule(rule), RuleSpec)


def _delivery() -> Any:
    from triggers.sources.providers.base import Delivery

    return Delivery(b"", {})
