from __future__ import annotations

from typing import Any

from orchestrator.management.caller import by_cli
from orchestrator.management.hidden import HiddenValueCommand
from orchestrator.services.secrets import set_secret


class Command(HiddenValueCommand):
    help = "Store a secret, read from standard input or a file, never from an argument that others could see."

    def run(self, **options: Any) -> None:
        secret = set_secret(
            tenant=self.tenant(options["tenant"]),
            name=options["name"],
            value=self.hidden_value(options),
            by=by_cli(),
            reason=options["reason"],
        )
        if options["json"]:
            self.print_json({"name": secret.name, "tenant": options["tenant"]})
        else:
            self.stdout.write(f"{secret.name} stored")
