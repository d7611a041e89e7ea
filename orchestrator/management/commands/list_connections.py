from __future__ import annotations

from typing import Any

from orchestrator.management.definitions import DefinitionCommand
from orchestrator.models import Connection


class Command(DefinitionCommand):
    help = "List connections: names and URLs without passwords."

    def run(self, **options: Any) -> None:
        rows = Connection.objects.filter(tenant=self.tenant(options["tenant"])).defer("ciphertext").order_by("name")
        if options["json"]:
            self.print_json(
                [
                    {
                        "name": row.name,
                        "shown_url": row.shown_url,
                        "description": row.description,
                        "updated_at": row.updated_at.isoformat(),
                        "updated_by": row.updated_by,
                    }
                    for row in rows
                ]
            )
            return
        for row in rows:
            self.stdout.write(f"{row.name}  {row.shown_url}  {row.description}".rstrip())
