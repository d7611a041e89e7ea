"""Two who would lead: one is killed or frozen, the other leads within five seconds, and nothing happens twice."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.concurrency.kill_load import Cluster
from tests.support.processes import python
from tests.support.waiting import eventually, stays

# The five seconds are of a machine that nobody else keeps busy: these run one after the other.
pytestmark = pytest.mark.kill


def test_a_standby_beat_leads_within_5_seconds_of_a_kill_and_a_freeze(cluster: Cluster) -> None:
    first, second = cluster.beats
    first.start()
    eventually(lambda: cluster.leader("reconciler")[1], within=30)
    second.start()
    eventually(lambda: cluster.reconciler_ticks(1), within=30, saying="the standby runs")
    _, epoch = cluster.leader("reconciler")

    first.kill_tree()
    killed_at = time.monotonic()

    eventually(lambda: cluster.leader("reconciler")[1] == epoch + 1, within=5.5, saying="the standby leads")
    assert time.monotonic() - killed_at <= 5.5
    cluster.progress[0].with_name(f"{cluster.progress[0].name}.reconciler").unlink()
    first.start()
    eventually(lambda: cluster.reconciler_ticks(0), within=30, saying="the other stands by")
    second.pause()
    eventually(lambda: cluster.leader("reconciler")[1] == epoch + 2, within=5.5, saying="the other leads")
    second.resume()
    stays(lambda: cluster.leader("reconciler")[1] == epoch + 2, during=2, saying="the thawed leader takes nothing back")


FROZEN = """
import django; django.setup()
import os, signal, sys, time
from orchestrator.ledger.leadership import Leadership
from orchestrator.ledger.transactions import in_transaction
from orchestrator.services.transitions import record_transition
lead = Leadership("reconciler")
assert lead.seek()
print("leads", flush=True)
while not os.path.exists(sys.argv[1]):
    assert lead.seek()
    time.sleep(0.2)
def work():
    assert lead.still_leads()
    record_transition(subject="run", subject_id=1, to_state="frozen")
    print("inside", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
try:
    in_transaction(work)
except Exception as error:
    print("refused", type(error).__name__, flush=True)
"""


def test_a_leader_frozen_inside_a_transaction_is_replaced_within_5_seconds_and_writes_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    frozen = python("frozen", "-c", FROZEN, str(go), environ=cluster.environ, log=tmp_path / "frozen.log")
    with frozen:
        frozen.wait_for_output("leads")
        cluster.beats[0].start()
        eventually(lambda: cluster.reconciler_ticks(0), within=30, saying="a standby runs")
        _, epoch = cluster.leader("reconciler")

        go.touch()
        frozen.wait_for_output("inside")

        eventually(lambda: cluster.leader("reconciler")[1] == epoch + 1, within=5.5, saying="the standby leads")
        frozen.resume()
        frozen.wait_for_output("refused")
        assert cluster.ask("select count(*) from orchestrator_transition where to_state = 'frozen'") == [(0,)]
