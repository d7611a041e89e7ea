from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from orchestrator.management.definitions import DefinitionCommand
from orchestrator.services.tokens import DEFAULT_SCOPES, SCOPES, create_token

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Command(DefinitionCommand):
    help = "Make an API token and print it, once: only its digest is stored."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", metavar="NAME", help="Whose token it is; tells tokens apart.")
        parser.add_argument(
            "--scope",
            action="append",
            choices=SCOPES,
            help=f"What it may do, may be repeated; default: {', '.join(DEFAULT_SCOPES)}.",
        )
        parser.add_argument(
            "--job",
            action="append",
            default=[],
            metavar="J",
            help="A job it is good for, may be repeated; default: all.",
        )
        parser.add_argument(
            "--expires", metavar="90d", help="How long it is good: 30m, 12h, 90d, 4w; default: for ever."
        )
        super().add_arguments(parser)

    def run(self, **options: Any) -> None:
        expires_at = timezone.now() + _lifetime(options["expires"]) if options["expires"] else None
        token, plaintext = create_token(
            tenant=self.tenant(options["tenant"]),
            name=options["name"],
            scopes=options["scope"] or DEFAULT_SCOPES,
            job_names=options["job"],
            expires_at=expires_at,
        )
        if not options["json"]:
            self.stdout.write(plaintext)
            return
        self.print_json(
            {
                "token": plaintext,
                "id": token.pk,
                "name": token.name,
                "scopes": token.scopes,
                "jobs": token.job_names,
                "expires_at": expires_at.isoformat() if expires_at else None,
            }
        )


def _lifetime(text: str) -> timedelta:
    match = re.fullmatch(r"([1-9][0-9]{0,4})([mhdw])", text)
    if match is None:
        raise CommandError(f"--expires: {text!r} is not a number with m, h, d or w, such as 90d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
