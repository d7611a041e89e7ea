from __future__ import annotations

from typing import Any

from orchestrator.management.caller import by_cli
from orchestrator.management.hidden import StoredCommand
from orchestrator.services.secrets import delete_secret


class Command(StoredCommand):
    help = "Delete a secret that nothing names."

    def run(self, **options: Any) -> None:
        delete_secret(
            tenant=self.tenant(options["tenant"]), name=options["name"], by=by_cli(), reason=options["reason"]
        )
        if options["json"]:
            self.print_json({"name": options["name"], "tenant": options["tenant"]})
        else:
            self.stdout.write(f"{options['name']} deleted")
