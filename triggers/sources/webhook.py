"""A source that is called: an endpoint of our own, and how its calls prove who sent them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any, Final

from orchestrator.registry import FieldProblem
from triggers.sources.base import SourceKind, object_schema
from triggers.sources.providers import PROVIDERS
from triggers.sources.providers import generic as generic_provider
from triggers.sources.providers.ci import RAW_BYTES

LARGEST: Final = 25 * 2**20
#: What a secret is for: the one in use, and the one that calls may still be signed with while it is replaced.
CURRENT: Final = "current"
PREVIOUS: Final = "previous"

_HEADER: Final = {"type": "string", "pattern": "^[A-Za-z0-9-]{1,100}$"}
_EXPRESSION: Final = {"type": "string", "minLength": 1, "maxLength": 4096}
_GLOBS: Final = {
    "type": "array",
    "items": {"type": "string", "minLength": 1, "maxLength": 200},
    "maxItems": 100,
}

SCHEMA: Final = object_schema(
    {
        "provider": {
            "enum": list(PROVIDERS),
            "description": "Who calls. It says what is verified and which events a body is; no header can change it.",
        },
        "max_bytes": {
            "type": "integer",
            "minimum": 1,
            "maximum": LARGEST,
            "description": "Bytes of one call at most, up to 25 MiB; 1 MiB unless given.",
        },
        "allowed_networks": {
            "type": "array",
            "items": {"type": "string", "maxLength": 64},
            "maxItems": 200,
            "description": "Networks that may call, such as 192.0.2.0/24; empty: all.",
        },
        "tolerance_seconds": {
            "type": "integer",
            "minimum": 1,
            "maximum": 3600,
            "description": "How far a signed timestamp may be from now; 300 unless given.",
        },
        "keep_headers": {
            "type": "array",
            "items": _HEADER,
            "maxItems": 50,
            "description": "Further headers that events are stored with; what tells secrets never is.",
        },
        "raw_max_bytes": {
            "type": "integer",
            "minimum": 0,
            "maximum": 2**20,
            "description": f"CI events carry the provider's own body as payload.raw up to this size; {RAW_BYTES} unless "
            "given, 0 never.",
        },
        "paths": {
            "type": "object",
            "properties": dict.fromkeys(("schema_changed", "config_changed"), _GLOBS),
            "additionalProperties": False,
            "description": "Which files of a push make it schema_changed or config_changed, as globs.",
        },
        "auth": {
            "enum": list(generic_provider.AUTHENTICATIONS),
            "description": "Of the generic provider: hmac (default), bearer, or basic, whose secret is user:password.",
        },
        "hmac": {
            "type": "object",
            "properties": {
                "header": {**_HEADER, "description": "Where the signature is; X-Signature-256 unless given."},
                "algorithm": {"enum": ["sha256", "sha384", "sha512", "sha1"]},
                "encoding": {"enum": ["hex", "base64"]},
                "prefix": {"type": "string", "maxLength": 20, "description": "What stands before the signature."},
                "signed": {
                    "type": "string",
                    "maxLength": 200,
                    "pattern": r"^[^{}]*(\{(id|timestamp)\}[^{}]*)*\{body\}([^{}]*\{(id|timestamp)\})*[^{}]*$",
                    "description": "What is signed, such as {timestamp}.{body}; {body} unless given.",
                },
                "timestamp_header": {**_HEADER, "description": "Where {timestamp} is, as Unix time in seconds."},
                "id_header": {**_HEADER, "description": "Where {id} is, which is then the event's id as well."},
            },
            "additionalProperties": False,
            "description": "Of the generic provider: where the signature is, and what is signed.",
        },
        "mapping": {
            "type": "object",
            "properties": dict.fromkeys(("each", *generic_provider.FIELDS), _EXPRESSION),
            "required": ["eventType"],
            "additionalProperties": False,
            "description": "Of the generic provider: CEL over payload, headers and item for each field of the event; "
            "each: a list of which every item becomes an event.",
        },
        "allowed_origins": {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": 200},
            "maxItems": 50,
            "description": "Of the cloudevents provider: who may ask by OPTIONS whether it may send; empty: all.",
        },
    },
    required=["provider"],
)  # fmt: skip

#: Fields that one provider alone reads; given for another they would be silently without effect.
_OF_PROVIDER: Final[Mapping[str, tuple[str, ...]]] = {
    "auth": ("generic",),
    "hmac": ("generic",),
    "mapping": ("generic",),
    "allowed_origins": ("cloudevents", "generic"),
    "paths": ("github", "gitlab", "gitea"),
    "raw_max_bytes": ("github", "gitlab", "gitea", "jenkins"),
    "tolerance_seconds": ("gitlab", "jenkins", "standard_webhooks", "generic"),
}


def check(config: Mapping[str, Any], secrets: Mapping[str, str]) -> Iterable[FieldProblem]:
    provider = config["provider"]
    if CURRENT not in secrets:
        yield FieldProblem(("secrets", CURRENT), "missing", "the name of the secret that calls are verified with")
    for name, providers in _OF_PROVIDER.items():
        if name in config and provider not in providers:
            yield FieldProblem(("config", name), f"not of {provider}", "only with provider " + " or ".join(providers))
    for index, network in enumerate(config.get("allowed_networks", ())):
        try:
            ipaddress.ip_network(network)
        except ValueError:
            expected = "a network such as 192.0.2.0/24 or 2001:db8::/32, without bits beyond its mask"
            yield FieldProblem(("config", "allowed_networks", index), "no network", expected, network)
    for field, source in config.get("mapping", {}).items():
        if (problem := generic_provider.mapping_problem(source)) is not None:
            yield FieldProblem(
                ("config", "mapping", field), problem, "a CEL expression over payload, headers, item", source
            )
    yield from _hmac_problems(config.get("hmac", {}), config.get("auth", "hmac"))


def _hmac_problems(hmac: Mapping[str, Any], auth: str) -> Iterable[FieldProblem]:
    if hmac and auth != "hmac":
        yield FieldProblem(("config", "hmac"), f"without effect: auth is {auth}", "only with auth hmac")
    signed = hmac.get("signed", "{body}")
    for name in ("timestamp", "id"):
        if (f"{{{name}}}" in signed) != (f"{name}_header" in hmac):
            # One that is not signed could be anybody's.
            expected = f"{{{name}}} in hmac.signed and hmac.{name}_header, or neither"
            yield FieldProblem(("config", "hmac", "signed"), "does not fit", expected, signed)


KIND: Final = SourceKind(
    "webhook",
    "Webhook",
    SCHEMA,
    secret_names=(CURRENT, PREVIOUS),
    default_id_policy="transport",
    check=check,
    listens=False,
)
