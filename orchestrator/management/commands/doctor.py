from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from orchestrator.diagnosis import diagnose


class Command(BaseCommand):
    help = "Check everything that can be reached; exit 0, or 1 with what is wrong and what to do about it."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print JSON.")
        parser.add_argument("--tenant", default="default", metavar="SLUG", help="Tenant; default: %(default)s.")

    def handle(self, *args: Any, **options: Any) -> None:
        found = diagnose(options["tenant"])
        well = all(each.ok for each in found)
        if options["json"]:
            self.stdout.write(json.dumps({"ok": well, "checks": [asdict(each) for each in found]}, ensure_ascii=False))
        else:
            for each in found:
                out = self.stdout if each.ok else self.stderr
                out.write(f"{'ok   ' if each.ok else 'WRONG'} {each.name}{': ' + each.detail if each.detail else ''}")
                if each.hint and not each.ok:
                    out.write(f"      → {each.hint}")
        if not well:
            sys.exit(1)
