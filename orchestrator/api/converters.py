"""What the parts of a path are made of; anything else is no path of ours."""

from __future__ import annotations

from django.urls import register_converter

from orchestrator.dag.reading import LOCK_NAME
from orchestrator.dag.templates import TEMPLATE_NAME
from orchestrator.services.secrets import NAME


class IdConverter:
    """An id as the database can hold one; anything else is no path of ours."""

    regex = "[0-9]{1,18}"

    def to_python(self, value: str) -> int:
        return int(value)

    def to_url(self, value: int) -> str:
        return str(value)


class JobConverter:
    """A job's id or name; `trigger` is reserved."""

    regex = "(?!trigger(?:/|$))[a-z0-9][a-z0-9-]{0,62}"

    def to_python(self, value: str) -> str:
        # Longer than an id can be: no job has it, and the database need not see it.
        if value.isdigit() and len(value) > 18:
            raise ValueError
        return value

    def to_url(self, value: str) -> str:
        return value


class NameConverter:
    """Base of names that are taken as they are."""

    regex = ""

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


class LockConverter(NameConverter):
    """A lock's name."""

    regex = LOCK_NAME.pattern


class TemplateConverter(NameConverter):
    """A template's name."""

    regex = TEMPLATE_NAME.pattern


class StoredConverter:
    """The name of a secret or a connection."""

    regex = NAME.pattern

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


register_converter(IdConverter, "id")
register_converter(StoredConverter, "stored")
register_converter(TemplateConverter, "template")
register_converter(LockConverter, "lock")
register_converter(JobConverter, "job")
