"""What the pages of the admin show in tests: no rows, ten of each kind, or a thousand, and a run of so many tasks."""

from __future__ import annotations

from tests.support.admin_rows import fill
from tests.support.many_rows import copy_rows


def fill_pages(rows: int) -> None:
    """Give every table of an empty database `rows` rows, and make a run of as many tasks."""
    if rows:
        made = min(rows, 10)
        fill(0, made)
        copy_rows(rows // made - 1)
