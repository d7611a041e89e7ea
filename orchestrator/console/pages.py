"""The base of every page of the console: permission, title, the theme's layout, and a refresh that sends little.

A page is a subclass with a `template_name` that extends `console/base.html`. What changes while somebody looks stands
in `live_template`, which the page includes by `{% live_region %}`; htmx asks the same address again and gets that part
alone, or nothing at all (204) when it is as before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, ClassVar, Final

from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.template.loader import render_to_string
from django.urls import URLPattern, path
from django.views.generic import View

#: What the browser holds of the live part: sent along by `refresh.js`, compared here.
SEEN: Final = "X-Seen"
#: htmx stops asking when it gets this.
STOP_POLLING: Final = 286


class ConsolePage(View):
    """A page inside the admin: its login, menu and theme.

    `permission` is asked of Django's `has_perm`, with the object of the page where it has one (`subject`), so that who
    may see a record in the admin may see its page, and nobody else.
    """

    title: ClassVar[str] = ""
    permission: ClassVar[str] = ""
    template_name: ClassVar[str] = ""
    #: The part that is refreshed; empty for a page that does not change.
    live_template: ClassVar[str] = ""
    #: Seconds between two looks.
    every: ClassVar[float] = 5.0

    site: ClassVar[AdminSite]

    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        super().setup(request, *args, **kwargs)
        # Reverse of `admin:` finds this very site.
        request.current_app = self.site.name

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not self.may_see(request):
            raise PermissionDenied
        return super().dispatch(request, *args, **kwargs)

    # --- what a page says of itself

    def subject(self) -> Model | None:
        """Return the record that the page is about; raises Http404."""
        return None

    def may_see(self, request: HttpRequest) -> bool:
        return not self.permission or may(request, self.permission, self.subject())

    def page_title(self) -> str:
        return self.title

    def context(self) -> dict[str, Any]:
        """Return what the templates show; of the live part alone too."""
        return {}

    def is_over(self, context: dict[str, Any]) -> bool:
        """Say that nothing will change any more, so that browsers stop asking."""
        return False

    # --- answers

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        context = {"page": self, **self.context()}
        if is_refresh(request) and self.live_template:
            return self.refreshed(context)
        return self.rendered(context)

    def rendered(self, context: dict[str, Any]) -> HttpResponse:
        """Answer with the whole page."""
        whole = {**self.site.each_context(self.request), "title": self.page_title(), **context}
        if self.live_template:
            whole["live_html"] = render_to_string(self.live_template, whole, self.request)
            whole["live_seen"] = digest(whole["live_html"])
            whole["live_over"] = self.is_over(context)
        answer = render(self.request, self.template_name, whole)
        # The same address answers a refresh with something else.
        answer["Vary"] = "HX-Request, Cookie"
        answer["Cache-Control"] = "no-store"
        return answer

    def news(self, context: dict[str, Any]) -> str:
        """Return what a refresh brings beside the live part, such as data for a drawing; empty if nothing is new."""
        return ""

    def refreshed(self, context: dict[str, Any]) -> HttpResponse:
        """Answer with the live part and the news, or with nothing when the browser has both."""
        html = render_to_string(self.live_template, context, self.request)
        news = self.news(context)
        seen = digest(html)
        if self.request.headers.get(SEEN) != seen:
            answer = HttpResponse(html + news)
        elif news:
            answer = HttpResponse(news)
            answer["HX-Reswap"] = "none"
        else:
            answer = HttpResponse(status=204)
        if self.is_over(context):
            answer.status_code = STOP_POLLING
            if not answer.content:
                answer["HX-Reswap"] = "none"
        answer[SEEN] = seen
        answer["Vary"] = "HX-Request, Cookie"
        answer["Cache-Control"] = "no-store"
        return answer


def may(request: HttpRequest, permission: str, subject: Model | None = None) -> bool:
    """Say whether who asks has a permission, for this record where there is one."""
    user = request.user
    return user.is_authenticated and user.has_perm(permission, subject)


def is_refresh(request: HttpRequest) -> bool:
    """Say whether htmx asks for a part of the page."""
    return request.headers.get("HX-Request") == "true"


def digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


#: Pages by the name of their address, in the order in which they were registered.
_registered: dict[str, tuple[str, type[View]]] = {}


def register_page(route: str, page: type[View], *, name: str) -> None:
    """Add a page at `/admin/<route>`, to be reversed as `admin:<name>`. Called in `AppConfig.ready()`; safe twice."""
    _registered[name] = (route, page)


def page_urls(
    site: AdminSite, wrap: Callable[[Callable[..., HttpResponseBase]], Callable[..., HttpResponseBase]]
) -> list[URLPattern]:
    """Return the addresses of all registered pages, each behind the site's login."""
    return [
        path(route, wrap(page.as_view() if not issubclass(page, ConsolePage) else _on(site, page)), name=name)
        for name, (route, page) in _registered.items()
    ]


def _on(site: AdminSite, page: type[ConsolePage]) -> Callable[..., HttpResponseBase]:
    # A class of its own for each site: pages read `self.site`.
    own: type[ConsolePage] = type(
        page.__name__, (page,), {"site": site, "__module__": page.__module__, "__doc__": page.__doc__}
    )
    return own.as_view()
