"""How long lists are read: pages without a count, a bound to what is looked through, and a way back from nowhere."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from django.contrib import admin, messages
from django.contrib.admin.views.main import PAGE_VAR
from django.core.paginator import Page
from django.db import connection
from django.db.models import Max, Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from unfold import paginator
from unfold.admin import ModelAdmin

#: Each page reads what is before it, too. Who wants to see further back names a time or a job.
MOST_PAGES: Final = 100
#: Rows that a filter without an index looks through.
LOOKED_AT: Final = 200_000


class InfinitePaginator(paginator.InfinitePaginator):
    """Pages of a list that was never counted; each knows from one row more whether there is another.

    By this very name of the class the theme knows not to show a count.
    """

    #: Of the template `unfold/helpers/pagination_infinite.html`.
    more = False
    most_pages = MOST_PAGES

    def page(self, number: int | str) -> Page[Any]:
        number = int(self.validate_number(number))
        first = (number - 1) * self.per_page
        rows = list(self.object_list[first : first + self.per_page + 1])
        self.more = len(rows) > self.per_page
        return self._get_page(rows[: self.per_page], number, self)


class LongList(ModelAdmin):
    """A list of any length, in pages that were not counted."""

    paginator = InfinitePaginator
    show_full_result_count = False
    # Numbers beside the choices of a filter would be one count each.
    show_facets = admin.ShowFacets.NEVER
    # Of more rows the drawing alone would take what a page may take.
    list_per_page = 50
    #: What would be in the list, and how one is made: said where it is empty.
    empty_says = ""

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        asked = request.GET.get(PAGE_VAR, "")
        if asked.isdecimal() and int(asked) > MOST_PAGES:
            return _to_page(request, MOST_PAGES)
        answer: HttpResponse = super().changelist_view(request, extra_context)
        changelist = (getattr(answer, "context_data", None) or {}).get("cl")
        if changelist is not None and changelist.page_num > 1 and not changelist.result_list:
            # A filter was set while a later page was open, or rows are gone.
            return _to_page(request, None)
        return answer


class LooksAtTheNewest(LongList):
    """A list whose filters are not all served by an index: those look through the newest rows alone, and it says so.

    Without a bound, a filter for something rare would read every row that is kept.
    """

    #: Names of such filters, as they stand in an address.
    unindexed: tuple[str, ...] = ()
    looked_at = LOOKED_AT
    looked_through = "rows"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        return self.newest(request, rows) if self._is_bounded(request) else rows

    def newest(self, request: HttpRequest, rows: QuerySet[Any]) -> QuerySet[Any]:
        """Leave what is looked through."""
        newest = self.model._default_manager.aggregate(newest=Max("pk"))["newest"] or 0
        return rows.filter(pk__gt=newest - self.looked_at)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        if self._is_bounded(request):
            said = f"Only the newest {self.looked_at:,} {self.looked_through} are looked through for this filter."
            self.message_user(request, said, messages.INFO)
        return super().changelist_view(request, extra_context)

    def _is_bounded(self, request: HttpRequest) -> bool:
        return is_list(request) and any(request.GET.get(name) for name in self.unindexed)


def first_id_since(model: type[Model], column: str, moment: datetime) -> int:
    """Return an id before which no row is as late as a moment, where ids and moments grow together.

    One statement of some twenty look-ups by the primary key, however many rows there are; no index of the moments is
    needed. What was written by a transaction that was open for less than an hour is not passed over.
    """
    quoted = connection.ops.quote_name
    fields: list[Any] = [model._meta.pk, model._meta.get_field(column)]
    table, pk, at = (quoted(name) for name in (model._meta.db_table, *(field.column for field in fields)))
    middle = f"(select {at} from {table} where {pk} >= (lo + hi) / 2 order by {pk} limit 1)"
    since = connection.ops.adapt_datetimefield_value(moment - timedelta(hours=1))
    with connection.cursor() as cursor:
        cursor.execute(
            f"with recursive half (lo, hi) as ("
            f"select coalesce(min({pk}), 1), coalesce(max({pk}), 0) + 1 from {table} union all "
            f"select case when {middle} < %s then (lo + hi) / 2 + 1 else lo end,"
            f" case when {middle} < %s then hi else (lo + hi) / 2 end from half where lo < hi"
            f") select max(lo) from half",
            [since, since],
        )
        return int(cursor.fetchone()[0])


def is_list(request: HttpRequest) -> bool:
    """Whether the page is the list, not one record's."""
    match = request.resolver_match
    return match is not None and (match.url_name or "").endswith("changelist")


def numbers_in(term: str) -> list[int]:
    """Return the number that a search may mean, such as `#41`."""
    digits = term.strip().removeprefix("#")
    return [int(digits)] if digits.isascii() and digits.isdigit() and len(digits) < 19 else []


def _to_page(request: HttpRequest, number: int | None) -> HttpResponse:
    query = request.GET.copy()
    query.pop(PAGE_VAR, None)
    if number is not None:
        query[PAGE_VAR] = str(number)
    return HttpResponseRedirect(f"{request.path}?{query.urlencode()}" if query else request.path)
