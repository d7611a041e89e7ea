"""Encrypting anew, under the first key, what an older key encrypted: after it the older key may go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.db import transaction

from orchestrator.errors import Misconfigured
from orchestrator.models import Connection, Secret
from orchestrator.services.audit import record_audit
from orchestrator.services.encryption import decrypt, encrypt, is_under_first_key
from orchestrator.services.transitions import record_transition


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """What became of everything that is encrypted, over all tenants."""

    renewed: int
    already: int
    #: `secret default/name`: encrypted under a key that is no longer known.
    lost: tuple[str, ...]


def rekey(*, by: str, reason: str = "") -> Rekeyed:
    """Encrypt every secret and connection under the first key. Safe to call twice, and while both are being changed.

    Raises Misconfigured without a key.
    """
    renewed = already = 0
    lost: list[str] = []
    for model, kind, pk in _rows():
        with transaction.atomic():
            row = model.objects.select_related("tenant").select_for_update(of=("self",)).filter(pk=pk).first()
            if row is None:
                continue
            if is_under_first_key(bytes(row.ciphertext)):
                already += 1
                continue
            try:
                ciphertext = encrypt(decrypt(f"{kind} {row.name!r}", bytes(row.ciphertext)))
            except Misconfigured:
                lost.append(f"{kind} {row.tenant.slug}/{row.name}")
                continue
            # Not `save`: who set its value, and when, stays as it is.
            model.objects.filter(pk=pk).update(ciphertext=ciphertext)
            record_transition(
                subject=kind,
                subject_id=pk,
                from_state="stored",
                to_state="stored",
                reason=reason or f"{row.name} encrypted under the first key",
                cause="rekey",
                by=by,
            )
            record_audit(
                action=f"{kind}.rekey", subject=kind, subject_id=pk, subject_name=row.name, tenant_id=row.tenant_id,
                by=by, reason=reason,
            )  # fmt: skip
            renewed += 1
    return Rekeyed(renewed, already, tuple(lost))


def _rows() -> Iterator[tuple[type[Secret] | type[Connection], str, int]]:
    for secret in Secret.objects.order_by("pk").values_list("pk", flat=True):
        yield Secret, "secret", secret
    for connection in Connection.objects.order_by("pk").values_list("pk", flat=True):
        yield Connection, "connection", connection
