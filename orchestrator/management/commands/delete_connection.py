from __future__ import annotations

from typing import Any

from orchestrator.management.caller import by_cli
from orchestrator.management.hidden import StoredCommand
from orchestrator.services.connections import delete_connection


class Command(StoredCommand):
    help = "Delete a connection that nothing names."

    def run(self, **options: Any) -> None:
        delete_connection(
            tenant=self.tenant(options["tenant"]), name=options["name"], by=by_cli(), reason=options["reason"]
        )
        if options["json"]:
            self.print_json({"name": options["name"], "tenant": options["tenant"]})
        else:
            self.stdout.write(f"{options['name']} deleted")
