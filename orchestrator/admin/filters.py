"""Filters of the lists: each is a part of the address, none reads rows to learn what may be chosen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.contrib import admin
from django.contrib.admin import ListFilter
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.widgets import BASE_INPUT_CLASSES

from orchestrator.admin.lists import first_id_since

#: What is chosen without typing.
SPANS: Final[Mapping[str, tuple[str, timedelta]]] = {
    "1h": ("Last hour", timedelta(hours=1)),
    "24h": ("Last 24 hours", timedelta(hours=24)),
    "7d": ("Last 7 days", timedelta(days=7)),
    "30d": ("Last 30 days", timedelta(days=30)),
}


def words_filter(name: str, shown_as: str, words: Iterable[str]) -> type[admin.SimpleListFilter]:
    """Return a filter over known words. The framework's own would read every row to learn them.

    Several words, separated by commas, may stand in an address.
    """
    known = [str(word) for word in words]

    class Words(admin.SimpleListFilter):
        title = shown_as
        parameter_name = name

        def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
            return [(word, word.replace("_", " ")) for word in known]

        def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
            asked = [word for word in (self.value() or "").split(",") if word in known]
            if not asked:
                return queryset
            return queryset.filter(**({name: asked[0]} if len(asked) == 1 else {f"{name}__in": asked}))

    return Words


class Period(ListFilter):
    """A time: one of the usual spans up to now (`created=24h`), or from and to (`created_from`, `created_to`)."""

    template = "orchestrator/filters/period.html"
    #: The part of the address, and the column.
    parameter_name = ""
    path = ""
    #: Whose rows have the moments in the order of their ids, and the column that names such a row.
    rows_of: type[Model] | None = None
    key = "pk"

    def __init__(self, request: HttpRequest, params: dict[str, list[str]], model: Any, model_admin: Any) -> None:
        super().__init__(request, params, model, model_admin)
        for name in self.expected_parameters():
            if name in params:
                self.used_parameters[name] = params.pop(name)[-1]

    def expected_parameters(self) -> list[Any]:
        return [self.parameter_name, f"{self.parameter_name}_from", f"{self.parameter_name}_to"]

    def has_output(self) -> bool:
        return True

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        span, begin, end = map(self._given, self.expected_parameters())
        moments = {
            "gte": [timezone.now() - SPANS[span][1] if span is not None and span in SPANS else None, moment_of(begin)],
            "lt": [moment_of(end)],
        }
        for lookup, given in moments.items():
            for moment in filter(None, given):
                queryset = queryset.filter(**{f"{self.path}__{lookup}": moment})
                if not self.key:
                    continue
                # By the ids, too: the lists are read in their order.
                column = self.path.rpartition("__")[2]
                if lookup == "gte":
                    first = first_id_since(self.rows_of or queryset.model, column, moment)
                    queryset = queryset.filter(**{f"{self.key}__gte": first})
                else:
                    last = first_id_since(self.rows_of or queryset.model, column, moment + timedelta(hours=2))
                    queryset = queryset.filter(**{f"{self.key}__lt": last})
        return queryset

    def choices(self, changelist: Any) -> Iterator[Any]:
        span, begin, end = self.expected_parameters()
        given = self.used_parameters
        yield {
            "selected": not any(given.values()),
            "query_string": changelist.get_query_string(remove=[span, begin, end]),
            "display": "All",
        }
        for word, (shown, _) in SPANS.items():
            yield {
                "selected": given.get(span) == word,
                "query_string": changelist.get_query_string({span: word}, [begin, end]),
                "display": shown,
            }

    # --- of the template

    input_class = " ".join(BASE_INPUT_CLASSES)

    @property
    def span(self) -> str:
        return self._given(self.parameter_name) or ""

    def _given(self, name: str) -> str | None:
        found = self.used_parameters.get(name)
        return None if found is None else str(found)

    @property
    def bounds(self) -> list[dict[str, str]]:
        _, begin, end = self.expected_parameters()
        return [
            {
                "name": name,
                "label": f"{self.title} {word}".capitalize(),
                "value": _input(self._given(name)),
            }
            for name, word in ((begin, "from"), (end, "before"))
        ]

    @property
    def zone(self) -> str:
        return timezone.get_current_timezone_name()


def period(name: str, *, path: str, shown_as: str, rows_of: type[Model] | None = None, key: str = "pk") -> type[Period]:
    """Return a filter by a time, over a column that grows with the id: of the list's rows, or of those that `key` names.

    An empty `key` leaves the ids alone: where the column has an index that is better.
    """
    own = {"title": shown_as, "parameter_name": name, "path": path, "rows_of": rows_of, "key": key}
    return type("PeriodOf" + name.title(), (Period,), own)


def moment_of(text: str | None) -> datetime | None:
    """Read a day or a moment from an address; without a zone it is one of the site's. None for what is neither."""
    if not text:
        return None
    try:
        # A `+` in a query is a blank unless it was encoded.
        found = datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text else text.strip())
        found = timezone.make_aware(found) if timezone.is_naive(found) else found
        return found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _input(text: str | None) -> str:
    """Write a moment as the browser's field wants it, in the site's zone."""
    found = moment_of(text)
    return f"{timezone.localtime(found):%Y-%m-%dT%H:%M}" if found else ""


class Typed(admin.SimpleListFilter):
    """A value that is typed as it is, whole: the name of a job, a worker, who started something."""

    template = "orchestrator/filters/typed.html"
    #: Any of these columns has the value.
    paths: tuple[str, ...] = ()
    help_text = ""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        # Not shown; without one the framework leaves the filter out.
        return [("", "")]

    def choices(self, changelist: Any) -> Iterator[Any]:
        yield {"selected": not self.value(), "query_string": changelist.get_query_string(remove=[self.parameter_name])}

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = (self.value() or "").strip()
        if not value:
            return queryset
        chosen = Q()
        for path in self.paths:
            chosen |= Q(**{path: value})
        return queryset.filter(chosen)

    input_class = " ".join(BASE_INPUT_CLASSES)


def typed(name: str, *, paths: tuple[str, ...], shown_as: str, help_text: str = "") -> type[Typed]:
    """Return a filter by a whole value in any of some columns."""
    return type(
        "Typed" + name.title(), (Typed,),
        {"title": shown_as, "parameter_name": name, "paths": paths, "help_text": help_text},
    )  # fmt: skip


class Chosen(AutocompleteSelectFilter):
    """A record that is found while its name is typed: for what may be thousands. Nobody sees another tenant's."""

    def choices(self, changelist: Any) -> Iterator[Any]:
        related = self.field.remote_field.model
        page = self.model_admin.admin_site._registry.get(related)
        for choice in super().choices(changelist):
            for field in choice["form"].fields.values():
                if page is not None:
                    field.queryset = page.get_queryset(self.request)
            yield choice

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        value = self.value()
        if value and not (value.isascii() and value.isdigit() and len(value) < 19):
            return queryset.none()
        return super().queryset(request, queryset)


__all__ = ["SPANS", "Chosen", "Period", "Typed", "moment_of", "period", "typed", "words_filter"]
