"""Every page that the admin site has, found from its URLs: a page that is added is found by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from django.contrib import admin
from django.contrib.auth.models import User
from django.db.models import Model
from django.test import RequestFactory
from django.urls import URLPattern, URLResolver, reverse

#: No pages: what answers data, does something, or leads elsewhere.
NOT_PAGES = {
    *("logout", "jsi18n", "autocomplete", "view_on_site", "login", "search"),
    *("console_drawing", "console_log", "console_transitions"),
}

#: A parameter that takes a few words only.
WORDS = r"[a-z-]+(\|[a-z-]+)+"


@dataclass(frozen=True, slots=True)
class Target:
    """A page by the name of its URL; `model` is whose row its parameters come from."""

    name: str
    parameters: tuple[str, ...] = ()
    model: type[Model] | None = None
    #: Parameters that are one of a few words, each of which is a page.
    words: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join((self.name, *self.words.values()))

    def url(self, values: Mapping[str, Any]) -> str | None:
        """Return the address, or nothing where there is no row to show; raises KeyError for an unknown parameter."""
        given = {**values, **self.words}
        if any(given[parameter] is None for parameter in self.parameters):
            return None
        return reverse(f"admin:{self.name}", kwargs={name: given[name] for name in self.parameters})


def targets() -> list[Target]:
    """Return every page of the admin site that a superuser may open."""
    # Of two addresses with one name the first is the one that answers.
    found: dict[str, Target] = {}
    for target in _targets():
        found.setdefault(str(target), target)
    return [found[name] for name in sorted(found)]


def _targets() -> Iterator[Target]:
    request = RequestFactory().get("/admin/")
    request.user = User(username="anyone", is_superuser=True, is_staff=True, is_active=True)
    owners = {f"{model._meta.app_label}_{model._meta.model_name}": model for model in admin.site._registry}
    for pattern in _named(admin.site.get_urls()):
        name = str(pattern.name)
        # The pages of histories are one template: one of them is enough.
        if name in NOT_PAGES or (name.endswith("_history") and name != "auth_user_history"):
            continue
        model = next((owners[key] for key in sorted(owners, key=len, reverse=True) if name.startswith(f"{key}_")), None)
        if model is not None and not _allowed(model, name, request):
            continue
        converters = pattern.pattern.converters
        parameters = tuple(converters) or tuple(pattern.pattern.regex.groupindex)
        choices = {key: one.regex.split("|") for key, one in converters.items() if re.fullmatch(WORDS, one.regex)}
        for words in product(*choices.values()):
            yield Target(name, parameters, model, dict(zip(choices, words, strict=True)))


def _allowed(model: type[Model], name: str, request: Any) -> bool:
    page = admin.site._registry[model]
    if name.endswith("_add"):
        return page.has_add_permission(request)
    if name.endswith("_delete"):
        return page.has_delete_permission(request)
    return True


def _named(patterns: list[Any]) -> Iterator[URLPattern]:
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            yield from _named(pattern.url_patterns)
        elif isinstance(pattern, URLPattern) and pattern.name:
            yield pattern
