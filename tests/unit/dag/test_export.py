from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.dag.export import export_yaml
from orchestrator.dag.spec import (
    ConcurrencySpec,
    DependencySpec,
    JobSpec,
    ParameterSpec,
    RetrySpec,
    TaskSpec,
)
from tests.support.definitions import spec_of

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)
plain_texts = texts.filter(lambda text: "${" not in text)
ambiguous = st.sampled_from(["on", "no", "~", "null", "5", "0o17", "1e5", "2026-12-01", "12:30", "", " x ", "a\n", "\tb\n c", "- a", "#", "<<", "true"])  # fmt: skip
seconds = st.sampled_from([0.25, 1.0, 1.5, 59.0, 60.0, 90.0, 3600.0, 5400.0, 86400.0])
values = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | plain_texts | ambiguous,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain_texts | ambiguous, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
retries = st.builds(
    RetrySpec,
    max_attempts=st.integers(1, 5),
    delay=seconds,
    backoff=st.sampled_from(["none", "fixed", "exponential"]),
    max_delay=seconds,
    jitter=st.booleans(),
    on=st.sampled_from([("failed",), ("exit:75", "exit:100-110"), ("timeout", "lost")]),
)


edges = st.sampled_from([("success", None, False), ("done", "event.n > 0", False), ("failed", None, True)])


@st.composite
def tasks(draw: st.DrawFn) -> tuple[TaskSpec, ...]:
    made: list[TaskSpec] = []
    for number in range(draw(st.integers(1, 4))):
        shell = draw(st.booleans())
        config: dict[str, Any] = {}
        if shell:
            config["command"] = draw((plain_texts | ambiguous).filter(bool))
            config["env"] = draw(st.dictionaries(st.sampled_from(["A", "on", "N_1"]), plain_texts | ambiguous))
        upstream = draw(st.sets(st.integers(0, number - 1))) if number else set()
        made.append(
            TaskSpec(
                name=f"t{number}",
                type="shell" if shell else "noop",
                config=config,
                depends_on=tuple(DependencySpec(f"t{up}", *draw(edges)) for up in sorted(upstream)),
                join=draw(st.sampled_from(["all", "any"])),
                retry=draw(retries),
                timeout=draw(seconds),
                queue_timeout=draw(st.none() | seconds),
                allow_failure=draw(st.booleans()),
                idempotent=True,
                locks=draw(st.sampled_from([(), ("a", "b")])),
                pool=draw(st.sampled_from(["default", "bulk"])),
                priority=draw(st.sampled_from([None, "P0"])),
                resources=draw(st.sampled_from([{}, {"cpu": 0.5, "memory": 2**29, "class": "io"}, {"memory": 12345}])),
            )
        )
    return tuple(made)


jobs = st.builds(
    JobSpec,
    name=st.sampled_from(["a", "nightly-etl", "0", "on"]),
    description=plain_texts | ambiguous,
    owner=plain_texts,
    tags=st.lists((plain_texts | ambiguous).filter(lambda text: text.strip()), unique=True, max_size=3).map(tuple),
    priority=st.sampled_from(["P0", "P2"]),
    timeout=st.none() | seconds,
    concurrency=st.sampled_from([ConcurrencySpec(), ConcurrencySpec(2), ConcurrencySpec(1, "cancel_running")]),
    parameters=st.lists(
        st.builds(ParameterSpec, name=st.sampled_from(["x", "y", "on"]), type=st.just("object"), default=st.dictionaries(plain_texts, values, max_size=2), has_default=st.just(True), required=st.booleans(), description=plain_texts),
        unique_by=lambda spec: spec.name, max_size=2,
    ).map(tuple),
    schedules=st.sampled_from([(), ({"cron": "30 1 * * *", "timezone": "UTC"},), ({"cron": "0 2 * * *"}, {"cron": "0 3 * * *"})]),
    tasks=tasks(),
)  # fmt: skip


@given(jobs)
def test_an_exported_job_is_the_same_job(spec: JobSpec):
    assert spec_of(export_yaml(spec)).content_hash() == spec.content_hash()


@given(jobs)
def test_the_canonical_form_gives_the_spec_back(spec: JobSpec):
    again = JobSpec.from_canonical(spec.canonical())

    assert again == spec
    assert again.content_hash() == spec.content_hash()


def test_the_export_reads_like_a_written_definition():
    text = """\
kind: Job
name: nightly-etl
timeout: 2h
schedule:
  cron: 30 1 * * *
tasks:
  - name: extract
    type: shell
    command: |
      set -e
      ./extract.sh
    resources:
      memory: 512Mi
  - name: load
    type: noop
    depends_on:
      - extract
      - task: other
        status: done
  - name: other
    type: noop
"""

    assert export_yaml(spec_of(text)) == text
