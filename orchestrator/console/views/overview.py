"""The overview: the first page of the admin. What is wrong now, how is today, who works, what waits?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import floor
from typing import Any, Final

from django.http import Http404, HttpRequest
from django.urls import reverse
from django.utils.http import urlencode

from orchestrator.console.flower import flower_url
from orchestrator.console.pages import ConsolePage
from orchestrator.console.statuses import Tone, worst_first
from orchestrator.contracts import CONTROL_LANE
from orchestrator.models import Tenant
from orchestrator.registry import SourceStanding
from orchestrator.selectors.standing import (
    FAILED,
    JUDGED,
    MOST_COUNTED,
    FailingJob,
    LaneStanding,
    RunsOfDay,
    Standing,
    standing,
    tenants_shown,
)
from orchestrator.services import access
from orchestrator.states import RunState, TaskState

#: Shares of success below which a day is told as not good, and as bad. The first is what operators are promised.
GOOD_FROM: Final = 0.995
BAD_BELOW: Final = 0.95

SOURCE_TONES: Final = {"ok": Tone.GOOD, "paused": Tone.WARN, "degraded": Tone.WARN}
SOURCE_ICONS: Final = {"ok": "check_circle", "paused": "pause_circle", "degraded": "warning"}


@dataclass(frozen=True, slots=True)
class Figure:
    """A number and the list of what it counts."""

    text: str
    url: str


@dataclass(frozen=True, slots=True)
class Tile:
    """One large number with its meaning."""

    title: str
    icon: str
    value: Figure
    #: Pairs of text and, for a number, its list.
    below: tuple[Figure | str, ...]
    tone: str = ""
    #: What it means, on hover.
    help: str = ""


class OverviewPage(ConsolePage):
    """What operators look at first, limited to the tenants in which the person may look."""

    title = "Overview"
    template_name = "console/overview.html"
    live_template = "console/overview/live.html"
    every = 5.0

    def context(self) -> dict[str, Any]:
        visible = access.tenants_by_permission(self.request.user, "orchestrator.view_jobrun")
        tenants, now = tenants_shown(visible)
        if not tenants:
            return {"admins": access.admins_to_ask(), "nothing_to_see": True}
        chosen = _chosen(self.request, tenants)
        found = standing([chosen] if chosen else tenants, all_tenants=visible is None and chosen is None, now=now)
        links = Links(chosen.slug if chosen else "")
        return {
            "standing": found,
            "tenants": tenants if len(tenants) > 1 else (),
            "chosen": chosen,
            "tiles": _tiles(found, links),
            "states": _states(found, links),
            "day_of_runs": _day_of_runs(found.runs),
            "failing": [_failing_row(job, found, links) for job in found.failing],
            "all_failing_url": links.runs(state=",".join(FAILED), created_from=_written(found.failing_since)),
            "lanes": [_lane_row(lane, links) for lane in found.lanes],
            "sources": [_source_row(source) for source in found.events.sources] if found.events else [],
            "flower": flower_url(self.request),
        }


class Links:
    """Addresses of lists in the admin, each limited to the chosen tenant."""

    def __init__(self, tenant: str) -> None:
        self._tenant = {"tenant": tenant} if tenant else {}

    def runs(self, **lookups: str) -> str:
        return self._list("orchestrator_jobrun", lookups)

    def tasks(self, **lookups: str) -> str:
        return self._list("orchestrator_taskrun", lookups)

    def dead_letters(self) -> str:
        return self._list("triggers_deadletter", {"state": "open"})

    def sources(self) -> str:
        return self._list("triggers_eventsource", {"enabled__exact": "1"})

    def _list(self, name: str, lookups: dict[str, str]) -> str:
        return f"{reverse(f'admin:{name}_changelist')}?{urlencode({**lookups, **self._tenant})}"


def _chosen(request: HttpRequest, tenants: Sequence[Tenant]) -> Tenant | None:
    slug = request.GET.get("tenant")
    if not slug:
        return None
    for tenant in tenants:
        if tenant.slug == slug:
            return tenant
    raise Http404


def _tiles(found: Standing, links: Links) -> list[Tile]:
    today = _written(found.day.start)
    runs = found.runs
    timed_out = runs.counts[RunState.TIMED_OUT]
    silent = [lane for lane in found.lanes if needs_a_worker(lane)]
    tiles = [
        Tile(
            "Success today",
            "percent",
            Figure(share_text(runs.success), links.runs(state=",".join(JUDGED), created_from=today)),
            (
                (f"{runs.counts[RunState.SUCCEEDED]:,} of {runs.judged:,} that ended",)
                if runs.judged
                else ("nothing ended yet",)
            ),
            share_tone(runs.success),
            "Of the runs created today that succeeded, failed or timed out; cancelled ones are left out.",
        ),
        Tile(
            "Failed today",
            "error",
            Figure(f"{runs.failed:,}", links.runs(state=",".join(FAILED), created_from=today)),
            (f"{timed_out:,} of them timed out" if timed_out else "by their tasks" if runs.failed else "none",),
            Tone.BAD if runs.failed else "",
        ),
        Tile(
            "Running",
            "play_circle",
            Figure(capped(found.running_runs), links.runs(state=RunState.RUNNING)),
            (
                _count(found.running_tasks, "task", links.tasks(state=TaskState.RUNNING)),
                "on workers",
            ),
        ),
        Tile(
            "Queued",
            "hourglass_empty",
            Figure(capped(found.pending_runs), links.runs(state=RunState.PENDING)),
            (_count(found.ready_tasks, "task", links.tasks(state=TaskState.READY)), "ready"),
        ),
        Tile(
            "Workers",
            "dns",
            Figure(f"{found.live_workers:,}", _workers_url()),
            (f"none for {', '.join(lane.name for lane in silent[:3])}" if silent else f"{found.slots:,} slots",),
            Tone.BAD if silent else "",
        ),
    ]
    if found.events is not None:
        troubled = [source for source in found.events.sources if source.state not in ("ok", "paused")]
        letters = found.events.dead_letters
        tiles.append(
            Tile(
                "Events unread",
                "bolt",
                Figure(f"{sum(source.lag or 0 for source in found.events.sources):,}", links.sources()),
                (_count(letters, "dead letter", links.dead_letters()),),
                Tone.BAD if troubled else Tone.WARN if letters else "",
                "Messages that wait in Kafka and RabbitMQ, as listeners last said; below, those that could not be used.",
            )
        )
    return tiles


def _states(found: Standing, links: Links) -> list[dict[str, Any]]:
    today = _written(found.day.start)
    return [
        {
            "status": status,
            "count": found.runs.counts[status.state],
            "figure": Figure(
                f"{found.runs.counts[status.state]:,}", links.runs(state=status.state, created_from=today)
            ),
        }
        for status in worst_first("run")
    ]


def _day_of_runs(runs: RunsOfDay) -> str:
    if runs.capped:
        return f"the newest {MOST_COUNTED:,} of today"
    return f"{runs.total:,} {'run' if runs.total == 1 else 'runs'}"


def _failing_row(job: FailingJob, found: Standing, links: Links) -> dict[str, Any]:
    lookups = {"job__id__exact": str(job.id), "state": ",".join(FAILED)}
    return {
        "job": job,
        "figure": Figure(f"{job.failures:,}", links.runs(**lookups, created_from=_written(found.failing_since))),
    }


def _lane_row(lane: LaneStanding, links: Links) -> dict[str, Any]:
    if not lane.is_silent:
        tone, icon, word = Tone.GOOD, "check_circle", "live"
        if lane.is_full:
            tone, icon, word = Tone.WARN, "hourglass_top", "full"
    elif needs_a_worker(lane):
        tone, icon, word = Tone.BAD, "error", "no worker"
    else:
        tone, icon, word = Tone.FAINT, "remove_circle", "no worker"
    return {
        "lane": lane,
        "tone": tone,
        "icon": icon,
        "word": word,
        "workers": Figure(f"{lane.workers:,}", _workers_url(lane=lane.name)),
        "running": Figure(capped(lane.running), links.tasks(state=TaskState.RUNNING, lane=lane.name)),
        "ready": Figure(capped(lane.ready), links.tasks(state=TaskState.READY, lane=lane.name)),
    }


def _workers_url(**lookups: str) -> str:
    return f"{reverse('admin:orchestrator_laneworker_changelist')}?{urlencode({'standing': 'live', **lookups})}"


def _source_row(source: SourceStanding) -> dict[str, Any]:
    return {
        "source": source,
        "url": reverse("admin:triggers_eventsource_change", args=[source.id]),
        "tone": SOURCE_TONES.get(source.state, Tone.BAD),
        "icon": SOURCE_ICONS.get(source.state, "error"),
        "lag": "–" if source.lag is None else f"{source.lag:,}",
    }


def needs_a_worker(lane: LaneStanding) -> bool:
    """Whether nobody works for a lane that has work, or without which no run moves on."""
    return lane.is_silent and (lane.ready > 0 or lane.name == CONTROL_LANE)


def capped(count: int) -> str:
    """Write a count that stops one above MOST_COUNTED."""
    return f"{MOST_COUNTED:,}+" if count > MOST_COUNTED else f"{count:,}"


def share_text(share: float | None) -> str:
    """Write a share in percent; never 100 for one that is less."""
    return "–" if share is None else f"{floor(share * 1000) / 10:g} %"


def share_tone(share: float | None) -> str:
    if share is None:
        return ""
    return Tone.GOOD if share >= GOOD_FROM else Tone.BAD if share < BAD_BELOW else Tone.WARN


def _count(count: int, word: str, url: str) -> Figure:
    return Figure(f"{capped(count)} {word}{'' if count == 1 else 's'}", url)


def _written(moment: datetime) -> str:
    """Write a moment as filters of lists read it."""
    return moment.astimezone(UTC).isoformat()
