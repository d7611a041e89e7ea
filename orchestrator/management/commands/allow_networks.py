from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from orchestrator.management.caller import by_cli
from orchestrator.management.definitions import DefinitionCommand
from orchestrator.services.tenants import allow_networks, allowed_networks


class Command(DefinitionCommand):
    help = "Show or replace the private networks that a tenant's http tasks may reach."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("networks", nargs="*", metavar="NETWORK", help="Such as 10.1.0.0/16; these and no others.")
        parser.add_argument("--none", action="store_true", help="Allow none.")
        parser.add_argument("--reason", default="", metavar="TEXT", help="Why; it is recorded.")
        super().add_arguments(parser)

    def run(self, **options: Any) -> None:
        tenant = self.tenant(options["tenant"])
        if options["networks"] and options["none"]:
            raise CommandError("give networks or --none, not both")
        if options["networks"] or options["none"]:
            networks = allow_networks(tenant, networks=options["networks"], by=by_cli(), reason=options["reason"])
        else:
            networks = list(allowed_networks(tenant.pk))
        if options["json"]:
            self.print_json({"tenant": tenant.slug, "allowed_networks": networks})
        else:
            for network in networks:
                self.stdout.write(network)
