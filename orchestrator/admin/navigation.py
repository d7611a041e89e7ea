"""The menu of the admin: what operators look at first, then what they configure."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.urls import reverse


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """Return the groups of the menu; what the person may not see is left out."""
    return [
        _group(
            "Work",
            _page(request, "Runs", "play_circle", "orchestrator", "jobrun"),
            _page(request, "Jobs", "account_tree", "orchestrator", "job"),
            _page(request, "Versions", "history", "orchestrator", "jobversion"),
            _page(request, "Task runs", "task_alt", "orchestrator", "taskrun"),
            _page(request, "Attempts", "replay", "orchestrator", "attempt"),
            _page(request, "Transitions", "timeline", "orchestrator", "transition"),
            _page(request, "Lock holders", "lock_clock", "orchestrator", "lockrequest"),
        ),
        _group(
            "Events",
            _page(request, "Events", "bolt", "triggers", "event"),
            _page(request, "Firings", "rule", "triggers", "firing"),
            _page(request, "Dead letters", "report", "triggers", "deadletter"),
            _page(request, "Replays", "fast_rewind", "triggers", "replay"),
            _page(request, "Rules", "tune", "triggers", "triggerrule"),
            _page(request, "Event sources", "sensors", "triggers", "eventsource"),
            _page(request, "Listeners", "hearing", "triggers", "listener"),
        ),
        _group(
            "Configuration",
            _page(request, "Locks", "lock", "orchestrator", "lock"),
            _page(request, "Secrets", "key", "orchestrator", "secret"),
            _page(request, "Connections", "database", "orchestrator", "connection"),
            _page(request, "API tokens", "token", "orchestrator", "apitoken"),
            _page(request, "Templates", "library_books", "orchestrator", "template"),
            _page(request, "Tenants", "domain", "orchestrator", "tenant"),
            _page(request, "Periodic tasks", "schedule", "django_celery_beat", "periodictask"),
        ),
        _group(
            "System",
            _page(request, "Workers", "dns", "orchestrator", "laneworker"),
            _page(request, "Leases", "workspace_premium", "orchestrator", "lease"),
            _page(request, "Users", "person", "auth", "user"),
            _page(request, "Roles", "badge", "orchestrator", "rolegrant"),
            _page(request, "Groups", "group", "auth", "group"),
            _page(request, "Audit record", "fact_check", "orchestrator", "auditrecord"),
            {"title": "API", "icon": "api", "link": "/api/v1/docs"},
        ),
    ]


def _group(title: str, *pages: dict[str, Any]) -> dict[str, Any]:
    return {"title": title, "separator": True, "items": list(pages)}


def _page(request: HttpRequest, title: str, icon: str, app: str, model: str) -> dict[str, Any]:
    return {
        "title": title,
        "icon": icon,
        "link": reverse(f"admin:{app}_{model}_changelist"),
        "permission": lambda request: request.user.has_perm(f"{app}.view_{model}"),
    }
