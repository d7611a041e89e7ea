"""Who may sign in, what each sees, and that the page of a run can be used with the keyboard alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Browser, Page, expect

from orchestrator.models import JobRun, RoleGrant, Tenant
from orchestrator.roles import Role
from tests.support.browsing import settle, unusable, watched
from tests.support.factories import default_tenant
from tests.support.large_runs import large_run
from tests.support.sites import Site, own_database, site

PASSWORD = "a-horse-and-a-staple"
PATIENCE = 30_000


@pytest.fixture(scope="module")
def people(migrated: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Olga operates, Vera looks, Nobody has no role; a run of each of two tenants."""
    with own_database("people", like=migrated):
        for name, role in (("olga", Role.OPERATOR), ("vera", Role.VIEWER), ("nobody", None)):
            person = User.objects.create_user(name, password=PASSWORD, is_staff=True)
            if role:
                RoleGrant.objects.create(user=person, tenant=default_tenant(), role=role)
        large_run(Tenant.objects.create(slug="others"), 3, name="theirs")
        large_run(default_tenant(), 60, name="ours")
        with site(tmp_path_factory.mktemp("people")) as found:
            yield found


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


def signed_in(page: Page, site: Site, name: str) -> Page:
    page.context.add_cookies([site.cookie(name)])  # type: ignore[list-item]  # of the form that it documents
    return page


def run_of(job: str) -> JobRun:
    return JobRun.objects.get(job__name=job)


def sign_in(page: Page, name: str, password: str) -> None:
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


def test_the_login_refuses_says_so_and_leads_only_to_this_site(people: Site, browser: Browser) -> None:
    context = browser.new_context()
    page, watch = watched(context, people.url)
    page.goto(f"{people.url}/admin/login/?next=//markup.invalid/admin/")
    settle(page)
    assert unusable(page) == []

    sign_in(page, "olga", "wrong")
    expect(page.locator("body")).to_contain_text("Please enter the correct username and password")
    assert not [cookie for cookie in context.cookies() if cookie["name"] == "sessionid"]

    sign_in(page, "olga", PASSWORD)
    page.wait_for_url(f"{people.url}/admin/**")
    assert not page.url.startswith(f"{people.url}/admin/login")
    (signed,) = [cookie for cookie in context.cookies() if cookie["name"] == "sessionid"]
    assert signed["httpOnly"]
    assert signed["sameSite"] == "Lax"

    # Out again by the keyboard: the theme's menu of the account opens with a key.
    page.get_by_role("button", name="olga").press("Enter")
    page.get_by_role("button", name="Log out").press("Enter")
    expect(page.locator("body")).to_contain_text("logged out", ignore_case=True)
    page.goto(f"{people.url}/admin/")
    assert "/admin/login/" in page.url
    assert not watch.take()
    context.close()


def test_who_may_only_look_is_offered_no_command_and_gets_none_by_its_address(people: Site, page: Page) -> None:
    ours = run_of("ours")

    signed_in(page, people, "vera").goto(f"{people.url}/admin/runs/{ours.pk}/")
    expect(page.get_by_label("State of the run")).to_contain_text("running")
    assert page.get_by_role("link", name="Cancel the run").count() == 0
    answer = page.goto(f"{people.url}/admin/runs/{ours.pk}/cancel/")
    assert answer is not None
    assert answer.status == 403

    signed_in(page, people, "olga").goto(f"{people.url}/admin/runs/{ours.pk}/")
    expect(page.get_by_role("link", name="Cancel the run")).to_be_visible()


def test_a_run_of_another_tenant_is_not_there(people: Site, page: Page) -> None:
    answer = signed_in(page, people, "olga").goto(f"{people.url}/admin/runs/{run_of('theirs').pk}/")

    assert answer is not None
    assert answer.status in (403, 404)
    assert "theirs" not in page.content()


def test_who_has_no_role_is_told_whom_to_ask(people: Site, page: Page) -> None:
    signed_in(page, people, "nobody").goto(f"{people.url}/admin/")

    expect(page.locator("body")).to_contain_text("role")
    assert "ours" not in page.content()


def test_a_command_needs_the_token_of_its_form(people: Site) -> None:
    cookie = people.cookie("olga")
    forged = httpx.post(
        f"{people.url}/admin/runs/{run_of('ours').pk}/cancel/",
        cookies={"sessionid": cookie["value"]},
        headers={"Origin": "http://markup.invalid"},
        data={"reason": "forged"},
    )

    assert forged.status_code == 403
    assert run_of("ours").stop_requested_at is None


def test_the_page_of_a_run_can_be_used_by_keyboard_alone(people: Site, page: Page) -> None:
    signed_in(page, people, "olga").goto(f"{people.url}/admin/runs/{run_of('ours').pk}/")
    page.wait_for_selector("#dag[data-drawn]")
    settle(page)

    reached, unseen = _tab_through(page)
    for wanted in ("Pause", "Cancel the run", "Zoom in", "dag", "tasks-search", "tasks-order", "Next failure"):
        assert wanted in reached, reached
    assert not unseen, "no mark shows where the focus is"

    page.locator("#dag").focus()
    page.keyboard.press("ArrowRight")
    told = page.locator("#dag-told").inner_text()
    assert told
    page.keyboard.press("Enter")
    expect(page.locator("#task")).to_be_visible()
    expect(page.locator("#task h2")).to_have_text(told.split(",")[0])
    expect(page.locator("#task")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#task")).to_be_hidden()
    expect(page.locator("#dag")).to_be_focused()
    page.screenshot(path=Path("build/screenshots/people/keyboard.jpg"), type="jpeg", quality=70)


def _tab_through(page: Page) -> tuple[set[str], list[str]]:
    """Press Tab until the focus comes round; return what it stood on, and where nothing showed it."""
    reached: set[str] = set()
    unseen: list[str] = []
    page.locator("body").focus()
    for _ in range(200):
        page.keyboard.press("Tab")
        name, seen, outside = page.evaluate(
            """() => {
              const at = document.activeElement, style = getComputedStyle(at), box = at.closest("div");
              const ring = one => one && (getComputedStyle(one).outlineStyle !== "none" || getComputedStyle(one).boxShadow !== "none");
              const text = [...at.childNodes].filter(node => node.nodeType === 3).map(node => node.textContent).join("").trim();
              return [at.getAttribute("aria-label") && at.id !== "dag" && !at.matches("input, select") ? at.getAttribute("aria-label")
                : at.id || text, Boolean(ring(at) || ring(box) || style.outlineStyle === "auto"), at === document.body];
            }"""
        )
        if outside and reached:
            break
        reached.add(name)
        if not seen:
            unseen.append(name)
    else:
        pytest.fail(f"the focus never comes round: {sorted(reached)}")
    return reached, unseen
