"""Probes and metrics, for machines; in plain Django, since neither takes part in the API's document."""

from __future__ import annotations

from ipaddress import ip_address

from django.http import HttpRequest, HttpResponse

from orchestrator.api.answers import answer
from orchestrator.api.authentication import token_of
from orchestrator.api.exceptions import answer_error, error_answer
from orchestrator.api.health import LedgerCollector, readiness
from orchestrator.metrics import exposition
from orchestrator.registry import collectors
from orchestrator.roles import Action
from orchestrator.services.tokens import check_action


def healthz(request: HttpRequest) -> HttpResponse:
    """This process lives; says nothing about what it depends on."""
    return answer({"status": "ok"})


def readyz(request: HttpRequest) -> HttpResponse:
    """Each dependency, and 503 when one is down. What is wrong is said in a word; `doctor` says more."""
    if request.method not in ("GET", "HEAD"):
        return _only_get()
    findings = readiness()
    ready = all(finding.ok for finding in findings)
    return answer(
        {
            "status": "ok" if ready else "unavailable",
            "dependencies": {finding.name: "ok" if finding.ok else "down" for finding in findings},
        },
        status=200 if ready else 503,
    )


def metrics(request: HttpRequest) -> HttpResponse:
    """All metrics of this host, for a token that may read or a caller on this machine."""
    if request.method not in ("GET", "HEAD"):
        return _only_get()
    try:
        if not is_loopback(request):
            check_action(token_of(request), Action.VIEW)
        found = exposition([LedgerCollector(), *(make() for make in collectors)])
        return HttpResponse(found, content_type="text/plain; version=0.0.4; charset=utf-8")
    except Exception as error:
        return answer_error(error)


def is_loopback(request: HttpRequest) -> bool:
    """True if the call comes from this machine itself, and not through a proxy on it."""
    if "HTTP_X_FORWARDED_FOR" in request.META or "HTTP_FORWARDED" in request.META:
        return False
    try:
        peer = ip_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError:
        return False
    return (getattr(peer, "ipv4_mapped", None) or peer).is_loopback


def _only_get() -> HttpResponse:
    answered = error_answer(405, "method_not_allowed", "Only GET is answered here.")
    answered["Allow"] = "GET, HEAD"
    return answered
