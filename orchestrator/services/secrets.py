"""Secrets at rest: Fernet under the keys of UPBEAT_ENCRYPTION_KEYS; the first encrypts, all decrypt."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.utils import timezone

from orchestrator.conf import options
from orchestrator.errors import Detail, InvalidRequest, Misconfigured, NotFound
from orchestrator.models import Secret, Tenant

LARGEST_SECRET: Final = 64 * 1024
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class UnknownSecret(NotFound):
    """There is no such secret."""

    code = "unknown_secret"


def set_secret(*, tenant: Tenant, name: str, value: str, by: str) -> Secret:
    """Store a secret under its name, replacing what was there. The value is never logged."""
    if not NAME.fullmatch(name):
        raise InvalidRequest(
            "The secret cannot be stored.",
            details=(Detail("name", name, "1 to 100 letters, digits, `_`, `.` or `-`, the first a letter or digit"),),
        )
    if not value or len(value.encode()) > LARGEST_SECRET:
        raise InvalidRequest(
            "The secret cannot be stored.",
            details=(Detail("value", f"{len(value.encode())} bytes", f"1 to {LARGEST_SECRET} bytes"),),
        )
    ciphertext = encrypt(value)
    secret, _ = Secret.objects.update_or_create(
        tenant=tenant, name=name, defaults={"ciphertext": ciphertext, "updated_by": by, "updated_at": timezone.now()}
    )
    return secret


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
    return {name: _decrypt(name, bytes(stored[name])) for name in wanted}


def encrypt(value: str) -> bytes:
    return _fernet(options().encryption_keys).encrypt(value.encode())


def _decrypt(name: str, ciphertext: bytes) -> str:
    try:
        return _fernet(options().encryption_keys).decrypt(ciphertext).decode()
    except InvalidToken:
        raise Misconfigured(
            f"The secret {name!r} was encrypted under a key that UPBEAT_ENCRYPTION_KEYS no longer has; add the key "
            "again, or store the secret anew."
        ) from None


@cache
def _fernet(keys: tuple[str, ...]) -> MultiFernet:
    if not keys:
        raise Misconfigured(
            "UPBEAT_ENCRYPTION_KEYS is not set, so secrets can be neither stored nor read; make a key with "
            "`python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'`."
        )
    try:
        return MultiFernet([Fernet(key) for key in keys])
    except ValueError:
        raise Misconfigured(
            "UPBEAT_ENCRYPTION_KEYS: a key is not 32 bytes in URL-safe base64, as Fernet.generate_key() makes them."
        ) from None
