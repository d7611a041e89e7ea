"""S3, and what speaks like it, as a store: `s3://bucket/prefix?endpoint=https://…&region=…`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from orchestrator.conf import options
from orchestrator.errors import Misconfigured
from orchestrator.store.objects import ObjectStore

#: A server that does not answer costs a call so long, and every call is tried twice.
CONNECT_SECONDS = 5
READ_SECONDS = 20
TRIES = 2


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where objects lie. Never holds a credential, so it may be shown."""

    name: str
    prefix: str
    endpoint: str = ""
    region: str = ""

    def __str__(self) -> str:
        at = f" at {self.endpoint}" if self.endpoint else ""
        return f"s3://{self.root}{at}"

    @property
    def root(self) -> str:
        return f"{self.name}/{self.prefix}" if self.prefix else self.name


def read_bucket_url(url: str) -> Bucket:
    """Read an s3:// URL; raises Misconfigured, which says what is wrong with it but never shows a password."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise Misconfigured(
            "UPBEAT_STORE_URL: credentials do not belong in the URL; set UPBEAT_STORE_ACCESS_KEY_ID and "
            "UPBEAT_STORE_SECRET_ACCESS_KEY, or those of AWS"
        )
    if not parts.netloc:
        raise Misconfigured(f"UPBEAT_STORE_URL: {url!r} names no bucket: expected s3://bucket/prefix")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(given.keys() - {"endpoint", "region"}):
        raise Misconfigured(f"UPBEAT_STORE_URL: {unknown[0]!r} is not known: expected endpoint or region")
    endpoint = given.get("endpoint", "")
    if endpoint and (urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).hostname):
        raise Misconfigured(f"UPBEAT_STORE_URL: the endpoint {endpoint!r} is not an http:// or https:// URL")
    return Bucket(parts.netloc, unquote(parts.path).strip("/"), endpoint, given.get("region", ""))


def open_bucket(url: str) -> ObjectStore:
    """Open the store of an s3:// URL; touches nothing yet. Raises Misconfigured."""
    bucket = read_bucket_url(url)
    import s3fs

    arguments = _arguments(bucket)

    def connect() -> Any:
        client = s3fs.S3FileSystem(**arguments)
        # Its own tries come on top of ours, with growing pauses in between.
        client.retries = 1
        return client

    return ObjectStore(connect, bucket.root, shown=str(bucket))


def _arguments(bucket: Bucket) -> Mapping[str, Any]:
    config: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "retries": {"mode": "standard", "total_max_attempts": TRIES},
        # Servers that only speak like S3 may not know the checksums that AWS's own client has begun to send.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    if bucket.endpoint:
        # Buckets as host names need a wildcard in the server's DNS.
        config["s3"] = {"addressing_style": "path"}
    arguments: dict[str, Any] = {
        "config_kwargs": config,
        # What another process wrote since the last listing must be seen.
        "use_listings_cache": False,
        "skip_instance_cache": True,
    }
    if bucket.endpoint:
        arguments["endpoint_url"] = bucket.endpoint
    if bucket.region:
        arguments["client_kwargs"] = {"region_name": bucket.region}
    # Without these the client looks where AWS's tools look: environment, profile, role of the machine.
    if options().store_access_key_id:
        arguments["key"] = options().store_access_key_id
        arguments["secret"] = options().store_secret_access_key
    return arguments
