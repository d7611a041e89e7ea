from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern
from unfold.sites import UnfoldAdminSite


class UpbeatAdminSite(UnfoldAdminSite):
    """The one admin site: theme, login, menu, and the console's pages inside it."""

    index_title = "Upbeat"
    # As our own columns write it.
    empty_value_display = "–"

    def extra_urls(self) -> list[URLPattern]:
        # The site is made before any model is loaded; its addresses are asked for later.
        from orchestrator.console.urls import console_urls

        return console_urls(self)

    def admin_view(self, view: Callable[..., HttpResponse], cacheable: bool = False) -> Callable[..., HttpResponse]:
        answer = super().admin_view(view, cacheable)

        @functools.wraps(answer)
        def planned(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            with _planned_anew():
                return answer(request, *args, **kwargs)

        return planned


@contextmanager
def _planned_anew() -> Iterator[None]:
    """Let the database plan each statement of a page for the very values that are asked for.

    A prepared statement has one plan for all of them after some uses: it knows neither that a state is rare, nor the
    index of the rare ones, nor that a tenant is small, and reads a million rows where a hundred are enough.
    """
    if connection.vendor != "postgresql":
        yield
        return
    connection.ensure_connection()
    own = connection.connection
    before, own.prepare_threshold = own.prepare_threshold, None
    try:
        yield
    finally:
        own.prepare_threshold = before
