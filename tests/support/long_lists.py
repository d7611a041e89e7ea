"""The addresses at which people look into the admin: every list with each choice of its filters, every page of a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.contrib import admin
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import HttpRequest, QueryDict
from django.test import RequestFactory
from django.urls import NoReverseMatch, ResolverMatch, URLPattern, URLResolver, reverse

from orchestrator.admin.filters import Chosen, Period, Typed
from orchestrator.console import drawing
from orchestrator.models import Attempt, JobRun, JobVersion, TaskRun

#: No pages: what answers with data of the browser's own, does something, or leads elsewhere.
NOT_PAGES = {"logout", "jsi18n", "view_on_site", "login", "app_list", "autocomplete", "password_change_done"}
PARTS = {"console_task"}
#: What is typed into a search: a number, something whole that is there, nothing that is there.
SEARCHES = ("7", "export-001-to-the-lake", "nothing-like-it")
#: What is typed into a filter, by its name; else something that is not there.
TYPED = {
    "worker": "w7@host-3",
    "by": "token:pipeline",
    "event_type": "order.kind-7",
    "rule": "on-order-7",
    "reason": "deduplicated",
}


@dataclass(frozen=True, slots=True)
class Address:
    """A page by its kind, such as `orchestrator_jobrun_changelist`, and one address of it."""

    page: str
    url: str
    #: Parts that another page fetches into itself.
    is_part: bool = False

    @property
    def headers(self) -> dict[str, str]:
        return {"HX-Request": "true"} if self.is_part else {}


def addresses(user: User) -> list[Address]:
    """Return the addresses of all pages that a person may open, with rows that this person may see."""
    found = dict.fromkeys(_addresses(user))
    return list(found)


def _addresses(user: User) -> Iterator[Address]:
    for model, page in sorted(admin.site._registry.items(), key=lambda item: item[0]._meta.label_lower):
        request = _request(user)
        name = f"{model._meta.app_label}_{model._meta.model_name}"
        if not page.has_view_permission(request):
            continue
        listed = reverse(f"admin:{name}_changelist")
        yield Address(f"{name}_changelist", listed)
        for query in _queries(page, request):
            yield Address(f"{name}_changelist", f"{listed}{query}")
        rows = list(page.get_queryset(request).order_by("-pk")[:1]) + list(
            page.get_queryset(request).order_by("pk")[:1]
        )
        for row in rows:
            yield Address(f"{name}_change", reverse(f"admin:{name}_change", args=[row.pk]))
        if page.has_add_permission(request):
            yield Address(f"{name}_add", reverse(f"admin:{name}_add"))
    yield from _other_pages(user)
    related = [("orchestrator", "jobrun", "job"), ("orchestrator", "jobrun", "version")]
    for app, model_name, field in related[:1]:
        url = reverse("admin:autocomplete")
        query = f"?app_label={app}&model_name={model_name}&field_name={field}&term="
        yield from (Address("autocomplete", f"{url}{query}{term}") for term in ("", "export-4", "nothing"))


def _request(user: User, path: str = "/admin/") -> HttpRequest:
    request = RequestFactory().get(path)
    request.user = user
    return request


def _queries(page: Any, request: HttpRequest) -> Iterator[str]:
    """Return what may follow the address of a list: pages, searches, each choice of each filter."""
    if page.show_full_result_count is False:
        yield from ("?p=2", "?p=100")
    if page.search_fields:
        yield from (f"?q={term}" for term in SEARCHES)
    request.GET = QueryDict()
    request.resolver_match = _as_list(page)
    changelist = page.get_changelist_instance(request)
    for spec in changelist.filter_specs:
        choices = list(spec.choices(changelist))
        yield from (choice["query_string"] for choice in choices[1:] if choice.get("query_string"))
        if isinstance(spec, Period):
            _, begin, end = spec.expected_parameters()
            # One day some weeks ago, and one long gone.
            for since, until in (_days_ago(20), _days_ago(400)):
                yield f"?{begin}={since}&{end}={until}"
        elif isinstance(spec, Typed):
            yield from (
                f"?{spec.parameter_name}={value}" for value in (TYPED.get(str(spec.parameter_name), "x"), "nobody")
            )
        elif isinstance(spec, Chosen):
            related = admin.site._registry[spec.field.remote_field.model].get_queryset(request).order_by("pk")
            chosen = [row.pk for row in (related.first(), related.last()) if row is not None]
            yield from (f"?{spec.lookup_kwarg}={pk}" for pk in chosen)


def _days_ago(days: int) -> tuple[str, str]:
    from datetime import timedelta

    from django.utils import timezone

    today = timezone.now().date()
    return f"{today - timedelta(days=days)}", f"{today - timedelta(days=days - 1)}"


def _as_list(page: Any) -> ResolverMatch:
    meta = page.model._meta
    return ResolverMatch(page.changelist_view, (), {}, url_name=f"{meta.app_label}_{meta.model_name}_changelist")


def _other_pages(user: User) -> Iterator[Address]:
    """Return pages that are no model's list or form: the console's, comparisons, tests."""
    request = _request(user)
    standard = ("_changelist", "_change", "_add", "_delete", "_history")
    for values in _samples(user, request):
        for pattern in _named(admin.site.get_urls()):
            name = str(pattern.name)
            if name in NOT_PAGES or name.endswith(standard) or name.startswith("auth_user_"):
                continue
            parameters = pattern.pattern.converters
            if any(parameter not in values for parameter in parameters):
                continue
            try:
                url = reverse(f"admin:{name}", kwargs={parameter: values[parameter] for parameter in parameters})
            except NoReverseMatch:
                continue
            if name == "orchestrator_jobversion_compare":
                url += f"?old={values['version_id']}&new={values['version_id']}"
            yield Address(name, url, is_part=name in PARTS)


def unsampled() -> list[str]:
    """Return the names of pages for which no sample is known here: none should be."""
    known = {"run_id", "task_run_id", "position", "attempt_id", "version_id", "rule_id", "object_id", "format", "command",
             "job_id", "app_label", "url", "content_type_id", "name", "other_id"}  # fmt: skip
    return sorted(
        str(pattern.name)
        for pattern in _named(admin.site.get_urls())
        if pattern.name not in NOT_PAGES and not set(pattern.pattern.converters) <= known
    )


def _samples(user: User, request: HttpRequest) -> Iterator[Mapping[str, Any]]:
    """Return what parameters of addresses may be: for the newest run that runs, and for an old one that failed."""
    from triggers.models import TriggerRule

    def rows(model: Any) -> QuerySet[Any]:
        found: QuerySet[Any] = admin.site._registry[model].get_queryset(request)
        return found

    for run in (
        rows(JobRun).filter(state="running").order_by("-pk").first(),
        rows(JobRun).filter(state="failed").order_by("pk").first(),
    ):
        if run is None:
            continue
        task_run = TaskRun.objects.filter(run=run, position=4).first() or TaskRun.objects.filter(run=run).first()
        attempt = Attempt.objects.filter(task_run=task_run).first() if task_run else None
        version = JobVersion.objects.only("pk").get(pk=run.version_id)
        rule = rows(TriggerRule).first()
        found = {
            "run_id": run.pk, "version_id": version.pk, "job_id": run.job_id, "format": drawing.FORMAT, "command": "cancel",
            "task_run_id": task_run and task_run.pk, "position": task_run and task_run.position,
            "attempt_id": attempt and attempt.pk, "rule_id": rule and rule.pk,
        }  # fmt: skip
        yield {name: value for name, value in found.items() if value is not None}


def _named(patterns: list[Any]) -> Iterator[URLPattern]:
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            yield from _named(pattern.url_patterns)
        elif isinstance(pattern, URLPattern) and pattern.name:
            yield pattern
