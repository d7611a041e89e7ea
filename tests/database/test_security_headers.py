"""No page runs anything but files of this host, whatever text is shown on it."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from django.contrib import admin
from django.urls import reverse

from orchestrator.security_headers import DATA, PAGE

pytestmark = pytest.mark.django_db


class Scripts(HTMLParser):
    """Collects what the policy forbids: inline scripts, handlers in attributes, addresses of other hosts."""

    def __init__(self) -> None:
        super().__init__()
        self.forbidden: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "script" and "src" not in given and given.get("type") != "application/json":
            self.forbidden.append("inline script")
        self.forbidden += [f"{tag} {name}" for name in given if name.startswith("on")]
        self.forbidden += [
            f"{tag} {given[name]}"
            for name in ("href", "src", "action")
            if given.get(name, "").lstrip().startswith("javascript:")
        ]
        loaded = given.get("src") if tag != "link" else given.get("href")
        if (loaded or "").startswith(("http:", "https:", "//")):
            self.forbidden.append(f"{tag} {loaded}")


def forbidden_in(text: str) -> list[str]:
    parser = Scripts()
    parser.feed(text)
    return parser.forbidden


def test_every_page_of_the_admin_obeys_the_policy_that_it_is_sent_with(admin_client, admin_user, rf):
    request = rf.get("/")
    request.user = admin_user
    pages = [reverse("admin:index"), reverse("admin:password_change"), reverse("docs")]
    for model, registered in admin.site._registry.items():
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        pages.append(reverse(f"{name}_changelist"))
        if registered.has_add_permission(request):
            pages.append(reverse(f"{name}_add"))

    for page in pages:
        answer = admin_client.get(page)
        assert answer.status_code == 200, page
        assert answer.headers["Content-Security-Policy"] == PAGE, page
        assert forbidden_in(answer.content.decode()) == [], page


def test_the_login_page_obeys_it_too(client):
    answer = client.get("/admin/login/")

    assert answer.headers["Content-Security-Policy"] == PAGE
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert forbidden_in(answer.content.decode()) == []


def test_what_is_no_page_may_load_nothing_at_all(admin_client):
    answer = admin_client.get("/api/v1/docs?script=")

    assert answer.headers["Content-Type"].startswith("application/javascript")
    assert answer.headers["Content-Security-Policy"] == DATA
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
