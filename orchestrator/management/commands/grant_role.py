from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from orchestrator.management.caller import by_cli
from orchestrator.management.definitions import DefinitionCommand
from orchestrator.roles import Role
from orchestrator.services.people import grant_role, person_named, revoke_role


class Command(DefinitionCommand):
    help = (
        "Give a person a role in a tenant or everywhere, or take it away; `createsuperuser` and the admin make people."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username", metavar="NAME", help="With which the person signs in.")
        parser.add_argument(
            "role", metavar="ROLE", choices=[*Role, "none"], help="viewer, operator, editor, admin; none."
        )
        parser.add_argument("--everywhere", action="store_true", help="In every tenant, also those still to come.")
        parser.add_argument("--reason", default="", metavar="TEXT", help="Why; it is kept with the record.")
        super().add_arguments(parser)

    def run(self, **options: Any) -> None:
        tenant = None if options["everywhere"] else self.tenant(options["tenant"])
        user = person_named(options["username"])
        where = tenant.slug if tenant else "every tenant"
        if options["role"] == "none":
            if not revoke_role(user=user, tenant=tenant, by=by_cli(), reason=options["reason"]):
                raise CommandError(f"{user.get_username()} has no role in {where}")
        else:
            grant_role(user=user, role=options["role"], tenant=tenant, by=by_cli(), reason=options["reason"])
        if options["json"]:
            self.print_json(
                {"username": user.get_username(), "tenant": tenant and tenant.slug, "role": options["role"]}
            )
        else:
            self.stdout.write(f"{user.get_username()}: {options['role']} in {where}")
