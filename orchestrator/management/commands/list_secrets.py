from __future__ import annotations

from typing import Any

from orchestrator.management.definitions import DefinitionCommand
from orchestrator.models import Secret


class Command(DefinitionCommand):
    help = "List secrets: names and who changed them, never values."

    def run(self, **options: Any) -> None:
        rows = Secret.objects.filter(tenant=self.tenant(options["tenant"])).defer("ciphertext").order_by("name")
        if options["json"]:
            self.print_json(
                [
                    {"name": row.name, "updated_at": row.updated_at.isoformat(), "updated_by": row.updated_by}
                    for row in rows
                ]
            )
            return
        for row in rows:
            self.stdout.write(f"{row.name}  {row.updated_at:%Y-%m-%d %H:%M:%S %Z}  {row.updated_by}")
