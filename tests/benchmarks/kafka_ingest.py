"""Events per second that one listener process takes from Kafka into the ledger.

Events of 500 bytes and three rules, one of which starts a run for every second event: rows of runs, which nobody
executes. Beside it what costs less: events that no rule is interested in, events that three rules refuse, and the same
events delivered again. By Kafka's own account of what is committed, from the first commit on.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

from confluent_kafka import KafkaException
from django.utils import timezone

from orchestrator.models import JobRun
from tests.benchmarks.bench import Bench, per_task
from tests.benchmarks.figures import Figures, Required
from tests.benchmarks.ingest_load import BYTES, CONDITIONS, EVENTS, body
from tests.support.kafka import bootstrap_of
from tests.support.kafka_stage import Sent, Stage
from tests.support.waiting import eventually
from triggers.models import Event, EventSource

PARTITIONS = 12


def measure(bench: Bench) -> Figures:
    stage = Stage(
        bootstrap_of(os.environ["UPBEAT_TEST_KAFKA_URL"]),
        bench.directory,
        partitions=PARTITIONS,
        rule=False,
        # The cap on runs that wait for their launch is lifted: nobody executes them here.
        environ={"UPBEAT_UNLAUNCHED_LIMIT": "0"},
    )
    for condition in CONDITIONS:
        stage.add_rule(condition=condition)
    ingest, redelivered, no_candidate, not_fired = [], [], [], []
    for _ in range(bench.repeat):
        ingest.append(_rate(bench, _topic(stage, "order.created", fires=True)))
        redelivered.append(_rate(bench, stage))
        no_candidate.append(_rate(bench, _topic(stage, "order.seen", fires=False)))
        not_fired.append(_rate(bench, _topic(stage, "order.created", fires=False)))
    assert Event.objects.count() == 3 * EVENTS * bench.repeat
    assert JobRun.objects.count() == EVENTS // 2 * bench.repeat
    return Figures(
        "kafka_ingest",
        "events/s",
        [rate for rate, _ in ingest],
        [
            Required("value", at_least=10_000),
            Required("no_candidate", at_least=25_000),
            Required("not_fired", at_least=18_000),
            Required("redelivered_ratio", at_least=1),
        ],
        cpu_ms_per_task=statistics.median(cpu for _, cpu in ingest),
        settings=bench.settings
        | {"events": EVENTS, "bytes": BYTES, "partitions": PARTITIONS, "rules": 3, "workers": []},
        extra={
            "no_candidate": statistics.median(rate for rate, _ in no_candidate),
            "not_fired": statistics.median(rate for rate, _ in not_fired),
            "redelivered": statistics.median(rate for rate, _ in redelivered),
            "redelivered_ratio": statistics.median(
                again / once for (again, _), (once, _) in zip(redelivered, ingest, strict=True)
            ),
        },
    )


def _topic(stage: Stage, event_type: str, *, fires: bool) -> Stage:
    """Put the events into a topic of their own, which the stage's source reads from now on."""
    stage.topic = f"{stage.topic.partition('.')[0]}.{time.monotonic_ns()}"
    stage.make_topic()
    now = timezone.now().isoformat()
    stage.produce(Sent(body(stage.topic, number, event_type, fires, now)) for number in range(EVENTS))
    return stage


def _rate(bench: Bench, stage: Stage) -> tuple[float, float]:
    """Read the topic from its beginning with one new process: events per second, and CPU ms of the process for each."""
    config = stage.source.config | {"topics": [stage.topic], "group_id": f"g-{time.monotonic_ns()}"}
    config |= {"max_poll_records": 500}
    EventSource.objects.filter(pk=stage.source.pk).update(config=config)
    stage.source.config = config
    process = stage.listener()
    try:
        began, first = eventually(lambda: _committed(stage), within=60, every=0.02, ignoring=(KafkaException,))
        cpu = _cpu(process.pid)
        limit = time.monotonic() + 120
        while (found := _committed(stage)) is None or found[1] < EVENTS:
            assert process.running, process.output()[-3000:]
            assert time.monotonic() < limit, process.output()[-3000:]
            time.sleep(0.02)
        return (found[1] - first) / (found[0] - began), per_task(_cpu(process.pid) - cpu, found[1] - first)
    finally:
        process.stop()


def _committed(stage: Stage) -> tuple[float, int] | None:
    count = sum(max(0, committed) for committed, _ in stage.offsets().values())
    return (time.perf_counter(), count) if count else None


def _cpu(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
