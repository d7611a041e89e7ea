"""What the commands on definition files share: reading files, reporting problems, finding the tenant."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from orchestrator.conf import options
from orchestrator.dag.kinds import NamedSpec
from orchestrator.dag.parse import Definition, parse_definition
from orchestrator.dag.yaml_source import Limits
from orchestrator.errors import UpbeatError
from orchestrator.models import Tenant
from orchestrator.registry import DefinitionKind, definition_kinds, task_types


@dataclass(frozen=True, slots=True)
class FileDefinition:
    """A definition and the file that it stands in."""

    file: str
    definition: Definition

    @property
    def content(self) -> NamedSpec:
        """What a valid definition comes to."""
        assert self.definition.content is not None, "only valid definitions are asked for it"
        return self.definition.content

    @property
    def kind(self) -> DefinitionKind:
        kind = definition_kinds.get(self.definition.kind)
        assert kind is not None, "the parser knows no other"
        return kind

    @property
    def title(self) -> str:
        """How commands name it: `job nightly-etl`."""
        return f"{self.kind.word or self.kind.name.lower()} {self.content.name}"

    @property
    def short_title(self) -> str:
        """A job's name alone, since most definitions are jobs; anything else with its kind."""
        return self.content.name if self.definition.kind == "Job" else self.title

    @property
    def identity(self) -> dict[str, str]:
        """How JSON names it: `{"job": name}`, and for any other kind `{"kind", "name"}`."""
        if self.definition.kind == "Job":
            return {"job": self.content.name}
        return {"kind": self.definition.kind, "name": self.content.name}

    @property
    def lines(self) -> list[str]:
        """Its problems as `file:line:column: path: …`, one line each."""
        return [
            f"{self.file}:{problem}" if problem.line is not None else f"{self.file}: {problem}"
            for problem in self.definition.problems
        ]

    def as_dict(self) -> dict[str, Any]:
        content = self.definition.content
        return {
            "file": self.file,
            "kind": self.definition.kind,
            "name": content.name if content is not None else None,
            "problems": [problem.as_dict() for problem in self.definition.problems],
        }


class DefinitionCommand(BaseCommand):
    """A command of the definition family. Refusals of the domain become one line on standard error, exit code 1."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print JSON.")
        parser.add_argument("--tenant", default="default", metavar="SLUG", help="Tenant; default: %(default)s.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self.run(**options)
        except UpbeatError as error:
            for detail in error.details:
                self.stderr.write(f"{detail.path}: {detail.value!r}: expected {detail.expected}")
            raise CommandError(error.message) from error

    def run(self, **options: Any) -> None:
        raise NotImplementedError

    def print_json(self, value: Any) -> None:
        self.stdout.write(json.dumps(value, ensure_ascii=False, indent=2))

    def tenant(self, slug: str) -> Tenant:
        tenant = Tenant.objects.filter(slug=slug).first()
        if tenant is None:
            raise CommandError(f"There is no tenant {slug!r}.")
        return tenant

    def valid_definitions(self, files: Iterable[str]) -> list[FileDefinition]:
        """Read files whose definitions must all be valid; else report the problems and end with exit code 1."""
        found = read_files(files)
        problems = [line for each in found for line in each.lines]
        if problems:
            for line in problems:
                self.stderr.write(line)
            raise CommandError(f"{_counted(len(problems), 'problem')}; nothing was changed.")
        return found


def read_files(files: Iterable[str]) -> list[FileDefinition]:
    """Read and parse definition files; no database is asked. Raises CommandError for a file that cannot be read."""
    limits = Limits()
    found: list[FileDefinition] = []
    for name in files:
        try:
            with Path(name).open("rb") as file:
                # One byte more than allowed is enough to be refused.
                text = file.read(limits.size + 1)
        except OSError as error:
            raise CommandError(f"{name}: {error.strerror or error}") from error
        definitions = parse_definition(
            text,
            task_types=task_types.as_mapping(),
            pools=options().pools,
            limits=limits,
            stem=Path(name).name.partition(".")[0],
            kinds={kind.name: kind.read for kind in definition_kinds if kind.read is not None},
            lists={kind.list_field: kind.name for kind in definition_kinds if kind.list_field},
        )
        found += [FileDefinition(name, definition) for definition in definitions]
    return found


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
