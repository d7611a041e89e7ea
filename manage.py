#!/usr/bin/env python3
"""Run one of Upbeat's commands; `python manage.py help` lists them."""

from __future__ import annotations

import sys

from django.core.management import execute_from_command_line

from orchestrator.errors import Misconfigured
from orchestrator.settings import use_profile

if __name__ == "__main__":
    use_profile()
    try:
        execute_from_command_line(sys.argv)
    except Misconfigured as error:
        sys.exit(str(error))
