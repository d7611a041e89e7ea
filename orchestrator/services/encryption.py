"""What is kept secret at rest: Fernet under the keys of UPBEAT_ENCRYPTION_KEYS; the first encrypts, all decrypt."""

from __future__ import annotations

from functools import cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from orchestrator.conf import options
from orchestrator.errors import Misconfigured


def encrypt(value: str) -> bytes:
    """Encrypt under the first key. Raises Misconfigured without a key."""
    return MultiFernet(_keys(options().encryption_keys)).encrypt(value.encode())


def decrypt(what: str, ciphertext: bytes) -> str:
    """Decrypt under whichever key fits; `what` names it in the error. Raises Misconfigured if none does."""
    try:
        return MultiFernet(_keys(options().encryption_keys)).decrypt(ciphertext).decode()
    except InvalidToken:
        raise Misconfigured(
            f"The {what} was encrypted under a key that UPBEAT_ENCRYPTION_KEYS no longer has; add the key "
            "again, or store it anew."
        ) from None


def is_under_first_key(ciphertext: bytes) -> bool:
    """Whether the other keys may go as far as this text is concerned."""
    try:
        _keys(options().encryption_keys)[0].decrypt(ciphertext)
    except InvalidToken:
        return False
    return True


@cache
def _keys(keys: tuple[str, ...]) -> list[Fernet]:
    if not keys:
        raise Misconfigured(
            "UPBEAT_ENCRYPTION_KEYS is not set, so secrets can be neither stored nor read; make a key with "
            "`python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'`."
        )
    try:
        return [Fernet(key) for key in keys]
    except ValueError:
        raise Misconfigured(
            "UPBEAT_ENCRYPTION_KEYS: a key is not 32 bytes in URL-safe base64, as Fernet.generate_key() makes them."
        ) from None
