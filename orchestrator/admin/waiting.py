"""Why something waits, as the pages of runs and task runs show it."""

from __future__ import annotations

from collections.abc import Iterable

from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from orchestrator.selectors.waiting import WaitReason


def reasons_shown(reasons: Iterable[WaitReason]) -> SafeString:
    """Return one line each, the most binding reason first."""
    return format_html_join("", '<div title="{}">{}</div>', ((reason.code, reason.text) for reason in reasons))
