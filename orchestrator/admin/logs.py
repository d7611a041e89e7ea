"""What task runs and attempts show of their logs: the end of it at once, the whole of it and the live one by a link."""

from __future__ import annotations

from typing import Any, Final

from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from orchestrator.admin.mixins import as_text, clipped, duration, moment, state_word
from orchestrator.console.statuses import status_of
from orchestrator.models import Attempt, TaskRun
from orchestrator.states import ATTEMPT_FINAL
from orchestrator.store import StoreError, log_key, store_of_process

#: Bytes of a log's end: what went wrong stands there.
SHOWN_LOG: Final = 64 * 1024
#: Attempts that the page of a task run names, the newest first.
SHOWN_ATTEMPTS: Final = 50

_LINK: Final = "text-primary-600 dark:text-primary-500"


class ShowsAttempts:
    """Of a task run: its attempts and the log of the newest one."""

    @admin.display(description="Attempts")
    def attempts_shown(self, row: TaskRun) -> SafeString | str:
        attempts = list(Attempt.objects.filter(task_run=row).order_by("-number")[:SHOWN_ATTEMPTS])
        if not attempts:
            return "No worker has tried it yet."
        body = format_html_join(
            "",
            '<tr class="border-t border-base-200 dark:border-base-800"><td class="py-1 pr-4"><a class="{}" href="{}">{}</a>'
            '</td><td class="py-1 pr-4 whitespace-nowrap" title="{}">{} {}</td><td class="py-1 pr-4">{}</td>'
            '<td class="py-1 pr-4">{}</td><td class="py-1 pr-4">{}</td><td class="py-1">{}</td></tr>',
            (
                (
                    _LINK,
                    reverse("admin:orchestrator_attempt_change", args=[attempt.pk]),
                    f"attempt {attempt.number}",
                    status_of("attempt", attempt.state).help,
                    status_of("attempt", attempt.state).sign,
                    state_word(attempt.state),
                    moment(attempt.started_at),
                    duration(attempt.started_at, attempt.ended_at),
                    attempt.worker or "–",
                    clipped(attempt.reason),
                )
                for attempt in attempts
            ),
        )
        head = format_html_join(
            "", '<th scope="col" class="pr-4 text-left font-semibold">{}</th>',
            ((word,) for word in ("Attempt", "State", "Started", "Took", "Worker", "Reason")),
        )  # fmt: skip
        return format_html(
            '<div tabindex="0" role="region" aria-label="Attempts" style="overflow-x:auto;max-width:calc(100vw - 5rem)">'
            "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>",
            head,
            body,
        )

    @admin.display(description="Log of the newest attempt")
    def newest_log(self, row: TaskRun) -> SafeString | str:
        attempt = Attempt.objects.filter(task_run=row).order_by("-number").first()
        return log_of(attempt, run_id=row.run_id, task=row.task.name) if attempt is not None else "–"

    @admin.display(description="On the run's page")
    def run_page(self, row: TaskRun) -> SafeString:
        return page_link(row.run_id, row.task.name)


class ShowsLog:
    """Of an attempt: its log."""

    @admin.display(description="Log")
    def log_shown(self, row: Attempt) -> SafeString:
        return log_of(row, run_id=row.task_run.run_id, task=row.task_run.task.name)

    @admin.display(description="On the run's page")
    def run_page(self, row: Attempt) -> SafeString:
        return page_link(row.task_run.run_id, row.task_run.task.name)


def page_link(run_id: int, task: str) -> SafeString:
    """Lead to the task on the page of its run, where its log is followed while it grows."""
    url = reverse("admin:console_run", args=[run_id])
    return format_html(
        '<a class="{}" href="{}?{}">{} in run #{}</a>', _LINK, url, urlencode({"task": task}), task, run_id
    )


def log_of(attempt: Attempt, *, run_id: int, task: str) -> SafeString:
    """Show the end of an attempt's log, and the ways to all of it. Says so where there is none, or no store."""
    key = log_key(run_id, attempt.pk)
    running = attempt.state not in ATTEMPT_FINAL
    try:
        store = store_of_process()
        size = store.size(key)
        data = store.read(key, max(0, size - SHOWN_LOG), SHOWN_LOG) if size else b""
    except StoreError as error:
        return format_html("<span>The log cannot be read now: {}</span>", error.message)
    if not data:
        text: Any = "It has written nothing yet." if running else "It wrote nothing."
    else:
        if size > len(data):
            # From the start of a line, and so of a character.
            data = data[data.find(b"\n") + 1 :]
        text = as_text(data.decode(errors="replace"))
    whole = reverse("admin:console_log", args=[run_id, attempt.pk])
    left_out = format_html("<p>The last {} of {} KiB:</p>", len(data) // 1024, size // 1024) if size > SHOWN_LOG else ""
    follow = format_html("<p>It still runs: {} follows the log.</p>", page_link(run_id, task)) if running else ""
    download = format_html('<p><a class="{}" href="{}?download">Download the log</a></p>', _LINK, whole) if size else ""
    return format_html("{}{}{}{}", follow, left_out, text, download)
