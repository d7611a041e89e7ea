"""Two versions of a job side by side: what changed, in words and as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from orchestrator.admin.mixins import TenantScoped
from orchestrator.dag.diff import describe_changes, text_diff
from orchestrator.dag.export import export_yaml
from orchestrator.dag.spec import JobSpec
from orchestrator.dag.text_diff import Pair, Side, side_by_side
from orchestrator.models import JobVersion

#: Rows of one page: a job of 10,000 tasks that was written anew has a hundred thousand.
MOST_ROWS: Final = 4_000
#: The same as one text, to copy; in characters.
LONGEST_TEXT: Final = 400_000
#: Versions that are offered to compare with.
MOST_VERSIONS: Final = 200
#: Beside the colour: the signs of a unified diff.
_SIGNS: Final[Mapping[str, tuple[str, str]]] = {
    "equal": ("", ""), "changed": ("−", "+"), "removed": ("−", ""), "added": ("", "+"),
}  # fmt: skip


class ComparesVersions(TenantScoped):
    """Adds the page to the admin of versions, and the ways to it."""

    def get_urls(self) -> list[URLPattern]:
        page = self.admin_site.admin_view(self.compare_view)
        return [path("compare/", page, name="orchestrator_jobversion_compare"), *super().get_urls()]

    @admin.action(description="Compare two chosen versions", permissions=["view"])
    def compare(self, request: HttpRequest, chosen: QuerySet[JobVersion]) -> HttpResponse | None:
        pair = list(chosen.order_by("job_id", "number").values_list("job_id", "pk")[:3])
        if len(pair) != 2 or pair[0][0] != pair[1][0]:
            self.message_user(request, "Choose exactly two versions of one job.", messages.WARNING)
            return None
        return HttpResponseRedirect(compare_url(pair[0][1], pair[1][1]))

    @admin.display(description="Compare")
    def compare_with_previous(self, row: JobVersion) -> SafeString | str:
        before = JobVersion.objects.filter(job_id=row.job_id, number__lt=row.number).order_by("-number")
        older = before.values_list("pk", "number").first()
        if older is None:
            return "– (the first version)"
        return format_html(
            '<a class="text-primary-600 dark:text-primary-500" href="{}">What changed since v{}</a>',
            compare_url(older[0], row.pk),
            older[1],
        )

    def compare_view(self, request: HttpRequest) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        old, new = self._version(request, "old"), self._version(request, "new")
        if old.job_id != new.job_id:
            raise Http404("The two versions are of different jobs.")
        before, after = JobSpec.from_canonical(old.spec), JobSpec.from_canonical(new.spec)
        labels = {"old_label": f"v{old.number}", "new_label": f"v{new.number}"}
        text = text_diff(before, after, **labels)
        pairs = side_by_side(export_yaml(before), export_yaml(after))
        versions = self.get_queryset(request).filter(job_id=new.job_id).order_by("-number")
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            "title": f"{new.job.name}: v{old.number} → v{new.number}",
            "opts": self.opts,
            "pair": (old, new),
            "old": old,
            "new": new,
            "changes": describe_changes(before, after),
            "rows": [_row(pair) for pair in pairs[:MOST_ROWS]],
            "unshown": max(0, len(pairs) - MOST_ROWS),
            "text": text if len(text) <= LONGEST_TEXT else "",
            "versions": versions.values_list("pk", "number")[:MOST_VERSIONS],
            "may_change": self.allows(request, "change", new),
        }
        return render(request, "orchestrator/compare_versions.html", context)

    def _version(self, request: HttpRequest, which: str) -> JobVersion:
        key = request.GET.get(which, "")
        usable = key.isascii() and key.isdigit() and len(key) < 19
        version = self.get_queryset(request).select_related("job").filter(pk=int(key)).first() if usable else None
        if version is None:
            raise Http404(f"There is no such version: {which}={key[:20]}")
        return version


def compare_url(old_id: int, new_id: int) -> str:
    return reverse("admin:orchestrator_jobversion_compare") + f"?old={old_id}&new={new_id}"


def _row(pair: Pair) -> dict[str, Any]:
    if pair.kind == "left_out":
        return {"kind": pair.kind, "count": pair.count}
    old_sign, new_sign = _SIGNS[pair.kind]
    return {"kind": pair.kind, "sides": [_side(pair.old, "old", old_sign), _side(pair.new, "new", new_sign)]}


def _side(side: Side | None, which: str, sign: str) -> dict[str, Any]:
    if side is None:
        return {"which": which, "is_gap": True}
    return {
        "which": which,
        "sign": sign,
        "number": side.number,
        "before": side.text[: side.low],
        "differs": side.text[side.low : side.high],
        "after": side.text[side.high :],
    }
