"""Secrets: stored encrypted under a name, revealed to attempts alone. Every change is a fact of the ledger."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from django.db import transaction

from orchestrator.errors import Detail, InvalidRequest, NotFound, Refused
from orchestrator.models import Secret, Tenant
from orchestrator.selectors.secrets import users_of_secret
from orchestrator.services.audit import record_audit
from orchestrator.services.encryption import decrypt, encrypt
from orchestrator.services.transitions import record_transition

# `encrypt` is what `doctor` and the system checks try a key with.
__all__ = ["check_secret", "delete_secret", "encrypt", "reveal_secrets", "set_secret"]

LARGEST_SECRET: Final = 64 * 1024
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
NAMES: Final = "1 to 100 letters, digits, `_`, `.` or `-`, the first a letter or digit"


class UnknownSecret(NotFound):
    """There is no such secret."""

    code = "unknown_secret"


class SecretInUse(Refused):
    """A job or a run that has not ended names this secret."""

    code = "secret_in_use"


def check_secret(name: str, value: str) -> None:
    """Raise InvalidRequest, which never quotes the value, unless a secret could be stored so."""
    problems = []
    if not NAME.fullmatch(name):
        problems.append(Detail("name", name, NAMES))
    size = len(value.encode(errors="replace"))
    if not 0 < size <= LARGEST_SECRET:
        problems.append(Detail("value", f"{size} bytes", f"1 to {LARGEST_SECRET} bytes"))
    elif not _is_unicode(value):
        problems.append(Detail("value", None, "text that can be encoded as UTF-8"))
    if problems:
        raise InvalidRequest("The secret cannot be stored.", details=tuple(problems))


def set_secret(*, tenant: Tenant, name: str, value: str, by: str, reason: str = "") -> Secret:
    """Store a secret under its name, replacing what was there. Safe to call twice. The value is never logged.

    Raises InvalidRequest, and Misconfigured without a key.
    """
    check_secret(name, value)
    ciphertext = encrypt(value)
    with transaction.atomic():
        secret, created = Secret.objects.update_or_create(
            tenant=tenant, name=name, defaults={"ciphertext": ciphertext, "updated_by": by[:200]}
        )
        record_transition(
            subject="secret",
            subject_id=secret.pk,
            from_state="" if created else "stored",
            to_state="stored",
            reason=reason or f"{name} {'stored' if created else 'replaced'}",
            cause="secret set",
            by=by,
        )
        # That it was replaced, by whom and when; of the value nothing at all.
        record_audit(
            action="secret.create" if created else "secret.replace", subject="secret", subject_id=secret.pk,
            subject_name=name, tenant_id=tenant.pk, by=by, reason=reason,
        )  # fmt: skip
    return secret


def delete_secret(*, tenant: Tenant, name: str, by: str, reason: str = "") -> None:
    """Remove a secret for good.

    Raises UnknownSecret, and SecretInUse while the latest version of a job, the tenant's parameters or a run that has
    not ended names it.
    """
    with transaction.atomic():
        secret = Secret.objects.select_for_update().filter(tenant=tenant, name=name).first()
        if secret is None:
            raise UnknownSecret(f"There is no secret {name}.")
        if users := users_of_secret(tenant, name):
            raise SecretInUse(
                f"The secret {name} is in use by {', '.join(users)}.",
                details=(Detail("name", name, "a secret that nothing names"),),
            )
        subject_id = secret.pk
        secret.delete()
        record_transition(
            subject="secret",
            subject_id=subject_id,
            from_state="stored",
            to_state="deleted",
            reason=reason or f"{name} deleted",
            cause="secret deleted",
            by=by,
        )
        record_audit(
            action="secret.delete", subject="secret", subject_id=subject_id, subject_name=name, tenant_id=tenant.pk,
            by=by, reason=reason,
        )  # fmt: skip


def reveal_secrets(tenant_id: int, names: Iterable[str]) -> dict[str, str]:
    """Return the values by name, in one query; raises UnknownSecret naming what is missing."""
    wanted = sorted(set(names))
    if not wanted:
        return {}
    stored = dict(Secret.objects.filter(tenant_id=tenant_id, name__in=wanted).values_list("name", "ciphertext"))
    if missing := [name for name in wanted if name not in stored]:
        raise UnknownSecret(
            "No such secret: " + ", ".join(missing) + ".",
            details=tuple(Detail("secret", name, "the name of a stored secret") for name in missing),
        )
    return {name: decrypt(f"secret {name!r}", bytes(stored[name])) for name in wanted}


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
