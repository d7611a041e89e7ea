from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triggers.rules.window import WindowSpec


def at(text: str, zone: str = "UTC", *, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC)


@pytest.mark.parametrize(
    ("allow", "zone", "now", "opening"),
    [
        ("* 22-23,0-5 * * *", "Asia/Shanghai", "2027-03-01T12:00", "2027-03-01T22:00"),
        ("* 22-23,0-5 * * *", "Asia/Shanghai", "2027-03-01T23:59", "2027-03-01T23:59"),
        ("* 22-23,0-5 * * *", "Asia/Shanghai", "2027-03-02T05:59", "2027-03-02T05:59"),
        ("* 22-23,0-5 * * *", "Asia/Shanghai", "2027-03-02T06:00", "2027-03-02T22:00"),
        ("30-45 9 * * mon-fri", "UTC", "2027-03-05T09:46", "2027-03-08T09:30"),
        ("*/20 * * * *", "UTC", "2027-03-05T09:41", "2027-03-05T10:00"),
        ("0 0 29 2 *", "UTC", "2027-03-01T00:00", "2028-02-29T00:00"),
        ("* * 1 * sun", "UTC", "2027-03-02T00:00", "2027-03-07T00:00"),
        ("* * 31 * *", "UTC", "2027-04-01T00:00", "2027-05-31T00:00"),
        ("* * * jan *", "UTC", "2027-02-01T00:00", "2028-01-01T00:00"),
        ("* 8-9 * * *", "Asia/Kolkata", "2027-02-01T12:00", "2027-02-02T08:00"),
    ],
)
def test_a_window_opens_at_the_next_minute_that_it_allows(allow: str, zone: str, now: str, opening: str):
    window = WindowSpec(allow, zone)

    assert window.opening(at(now, zone)) == at(opening, zone)


def test_a_minute_that_the_clock_leaves_out_does_not_exist():
    # On 28 March 2027 at 02:00 the clocks of Berlin go to 03:00.
    window = WindowSpec("30 2 * * *", "Europe/Berlin")

    assert window.opening(at("2027-03-27T12:00", "Europe/Berlin")) == at("2027-03-29T02:30", "Europe/Berlin")
    spanning = WindowSpec("* 2-4 * * *", "Europe/Berlin")
    assert spanning.opening(at("2027-03-28T01:00", "Europe/Berlin")) == datetime(2027, 3, 28, 1, tzinfo=UTC)
    assert spanning.opening(at("2027-03-28T01:00", "Europe/Berlin")) == at("2027-03-28T03:00", "Europe/Berlin")


def test_a_minute_that_the_clock_repeats_is_open_twice():
    # On 31 October 2027 at 03:00 they go back to 02:00.
    window = WindowSpec("30 2 * * *", "Europe/Berlin")
    first, second = (at("2027-10-31T02:30", "Europe/Berlin", fold=fold) for fold in (0, 1))

    assert second - first == timedelta(hours=1)
    assert window.opening(at("2027-10-31T01:00", "Europe/Berlin")) == first
    assert window.is_open(first)
    assert window.is_open(second)
    assert window.opening(first + timedelta(minutes=1)) == second


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("America/Sao_Paulo", "2018-11-03"),  # midnight itself is left out
        ("Asia/Beirut", "2027-03-27"),
        ("Australia/Lord_Howe", "2027-10-02"),  # half an hour
        ("Pacific/Apia", "2011-12-29"),  # a whole day is left out
        ("Asia/Kathmandu", "2027-01-01"),
    ],
)
def test_the_next_opening_is_the_one_that_a_look_at_every_minute_finds(zone: str, day: str):
    for allow in ("0 0 * * *", "15 0-1 * * *", "* 2 * * *", "45 1,3 * * sun,mon", "0 12 31 * *"):
        window = WindowSpec(allow, zone)
        start = at(f"{day}T20:10", zone)

        naive = next(
            (moment for step in range(60 * 24 * 4) if window.is_open(moment := start + timedelta(minutes=step))), None
        )

        found = window.opening(start)
        assert naive is None or found == naive


@settings(max_examples=60)
@given(
    st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Shanghai", "Australia/Lord_Howe", "UTC"]),
    st.integers(0, 6 * 366 * 24 * 60),
    st.integers(0, 59),
    st.integers(0, 23),
)
def test_an_opening_is_open_and_nothing_before_it_is(zone: str, now: int, minute: int, hour: int):
    window = WindowSpec(f"{minute} {hour} * * *", zone)
    moment = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=now)

    found = window.opening(moment)

    assert found is not None
    assert found >= moment
    assert window.is_open(found)
    minutes = int((found - moment).total_seconds() // 60)
    for step in range(0, minutes, 7):
        assert not window.is_open(moment + timedelta(minutes=step))


def test_a_window_that_never_opens_is_known_as_such():
    assert not WindowSpec("* * 31 2 *").ever_opens()
    assert not WindowSpec("* * 31 4,6,9,11 *").ever_opens()
    assert WindowSpec("* * 29 2 *").ever_opens()
