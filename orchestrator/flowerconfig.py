"""Flower's configuration (`--conf`): it runs this file, and takes the names that are options of its own."""

from __future__ import annotations

from tornado.options import options as given

from orchestrator.flower_pages import COLUMNS, install, refuse_open

tasks_columns = COLUMNS
install()
refuse_open(given.basic_auth, given.auth)
