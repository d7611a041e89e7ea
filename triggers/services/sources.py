"""Event sources: created, replaced, enabled, disabled, deleted. Every change is a fact, and a new version.

Changes are made one at a time, under the lock of the epoch's row: what must be unique over all sources of all tenants
(who reads a topic with which group) is then seen by each of them.
"""

from __future__ import annotations

import re
import secrets as randomness
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from django.db import transaction

from orchestrator.errors import Detail
from orchestrator.models import Secret, Tenant
from orchestrator.services.audit import changed, record_audit
from orchestrator.services.transactions import in_transaction
from orchestrator.services.transitions import record_transition
from triggers.errors import InvalidSource, SourceExists, SourceInUse, StaleVersion, UnknownSource
from triggers.models import EventSource
from triggers.models.sources import ID_POLICIES
from triggers.rules_cache import bump_epoch
from triggers.sources import kafka
from triggers.sources.base import SourceKind
from triggers.sources.registry import source_kinds

#: `api` is built in; the others are ours, and refused from outside.
RESERVED: Final = ("api", "platform", "schedule", "rule")
SLUG: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
FIELDS: Final = ("slug", "type", "config", "secrets", "id_policy", "enabled")


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A source as it is defined: `kind: EventSource`, or the body of a call."""

    slug: str
    kind: str
    config: Mapping[str, Any] = field(default_factory=dict)
    #: What a secret is for → the name of a stored one.
    secrets: Mapping[str, str] = field(default_factory=dict)
    #: Empty: that of its kind.
    id_policy: str = ""
    enabled: bool = True

    @property
    def name(self) -> str:
        return self.slug


@dataclass(frozen=True, slots=True)
class StoredSource:
    """A source, and what storing it did."""

    source: EventSource
    outcome: Literal["created", "updated", "unchanged"]


def problems_of(spec: SourceSpec) -> list[Detail]:
    """Return what is wrong with a source; asks no database."""
    problems = []
    if not SLUG.fullmatch(spec.slug) or spec.slug in RESERVED:
        problems.append(
            Detail("slug", spec.slug[:200], f"a text that matches {SLUG.pattern}, none of {', '.join(RESERVED)}")
        )
    kind = source_kinds.get(spec.kind)
    if kind is None:
        return [*problems, Detail("type", spec.kind[:200], "one of " + ", ".join(source_kinds.names()))]
    if spec.id_policy and spec.id_policy not in ID_POLICIES:
        problems.append(Detail("id_policy", spec.id_policy[:200], "one of " + ", ".join(ID_POLICIES)))
    return problems + kind.problems(spec.config, spec.secrets)


def create_source(*, tenant: Tenant, spec: SourceSpec, by: str, reason: str = "") -> EventSource:
    """Make a source; a webhook gets its endpoint. Raises SourceExists, InvalidSource."""
    return _committed(lambda: _create(tenant, spec, by=by, reason=reason))


def replace_source(
    *, tenant: Tenant, spec: SourceSpec, by: str, reason: str = "", if_version: int | None = None
) -> EventSource:
    """Store a source anew; its listeners begin anew too. The same content changes nothing.

    Raises UnknownSource, StaleVersion, InvalidSource; a source cannot become one of another kind.
    """

    return _committed(lambda: _replace(_locked(tenant, spec.slug, if_version), spec, by=by, reason=reason))


def set_source_within(tenant: Tenant, spec: SourceSpec, *, by: str, reason: str = "") -> StoredSource:
    """Create or replace a source inside the caller's transaction. Safe to call twice. Raises InvalidSource."""
    bump_epoch()
    row = EventSource.objects.select_for_update().filter(tenant=tenant, slug=spec.slug).first()
    if row is None:
        return _create(tenant, spec, by=by, reason=reason)
    return _replace(row, spec, by=by, reason=reason)


def switch_source(
    *, tenant: Tenant, slug: str, enabled: bool, by: str, reason: str = "", if_version: int | None = None
) -> EventSource:
    """Let a source be read, or no longer. Safe to call twice. Raises UnknownSource, StaleVersion, InvalidSource."""

    def work() -> StoredSource:
        row = _locked(tenant, slug, if_version)
        if row.enabled == enabled:
            return StoredSource(row, "unchanged")
        was, before = state_of(row), _shown(row)
        row.enabled = enabled
        _save(row, was, by=by, reason=reason or ("enabled" if enabled else "disabled"))
        _audit(row, "source.enable" if enabled else "source.disable", before, by=by, reason=reason)
        return StoredSource(row, "updated")

    return _committed(work)


def delete_source(*, tenant: Tenant, slug: str, by: str, reason: str = "", if_version: int | None = None) -> None:
    """Forget a source; its events and dead letters stay. Raises UnknownSource, StaleVersion."""

    def work() -> None:
        with transaction.atomic():
            bump_epoch()
            row = _locked(tenant, slug, if_version)
            _record(row, state_of(row), "deleted", reason=reason or "deleted", by=by)
            _audit(row, "source.delete", _shown(row), by=by, reason=reason)
            row.delete()

    in_transaction(work)


def spec_of_source(row: EventSource) -> SourceSpec:
    """Return what a stored source says."""
    return SourceSpec(row.slug, row.kind, row.config, row.secrets, row.id_policy, row.enabled)


def state_of(row: EventSource) -> str:
    return "enabled" if row.enabled else "disabled"


def _create(tenant: Tenant, spec: SourceSpec, *, by: str, reason: str) -> StoredSource:
    kind = _checked(tenant, spec)
    if EventSource.objects.filter(tenant=tenant, slug=spec.slug).exists():
        raise SourceExists(
            f"There is already an event source {spec.slug}.",
            details=(Detail("slug", spec.slug, "a name that no source has"),),
        )
    spec = settled(spec, None, tenant)
    row = EventSource(
        tenant=tenant,
        slug=spec.slug,
        kind=spec.kind,
        config=dict(spec.config),
        secrets=dict(spec.secrets),
        id_policy=spec.id_policy,
        # 120 random bits: found by nobody, but what guards it is its signature.
        endpoint=None if kind.listens else randomness.token_urlsafe(15),
        enabled=spec.enabled,
        updated_by=by[:200],
    )
    _check_unique(row)
    row.save()
    _record(row, "", state_of(row), reason=reason or "created", by=by)
    _audit(row, "source.create", None, by=by, reason=reason)
    return StoredSource(row, "created")


def _replace(row: EventSource, spec: SourceSpec, *, by: str, reason: str) -> StoredSource:
    tenant: Tenant = row.tenant
    if spec.kind != row.kind:
        raise InvalidSource(
            details=(Detail("type", spec.kind[:200], f"{row.kind}: a source stays of its kind; make another"),)
        )
    _checked(tenant, spec)
    was, spec = state_of(row), settled(spec, row, tenant)
    columns: dict[str, Any] = {
        "config": dict(spec.config),
        "secrets": dict(spec.secrets),
        "id_policy": spec.id_policy,
        "enabled": spec.enabled,
    }
    if all(getattr(row, column) == value for column, value in columns.items()):
        return StoredSource(row, "unchanged")
    before = _shown(row)
    for column, value in columns.items():
        setattr(row, column, value)
    _check_unique(row)
    _audit(row, "source.update", before, by=by, reason=reason)
    _save(row, was, by=by, reason=reason or f"version {row.version + 1}")
    return StoredSource(row, "updated")


def _save(row: EventSource, was: str, *, by: str, reason: str) -> None:
    row.version += 1
    row.updated_by = by[:200]
    row.save()
    _record(row, was, state_of(row), reason=reason, by=by)


def _checked(tenant: Tenant, spec: SourceSpec) -> SourceKind:
    problems = problems_of(spec)
    kind = source_kinds.get(spec.kind)
    stored = set(
        Secret.objects.filter(tenant=tenant, name__in=list(spec.secrets.values())).values_list("name", flat=True)
    )
    problems += [
        Detail(f"secrets.{role}", name[:200], "the name of a stored secret")
        for role, name in spec.secrets.items()
        if name not in stored
    ]
    tenants = spec.config.get("tenants")
    if isinstance(tenants, list):
        known = set(Tenant.objects.filter(slug__in=[str(slug) for slug in tenants]).values_list("slug", flat=True))
        problems += [
            Detail(f"config.tenants[{index}]", str(slug)[:200], "the slug of a tenant")
            for index, slug in enumerate(tenants)
            if slug not in known
        ]
    if problems or kind is None:
        raise InvalidSource(details=tuple(problems))
    return kind


def settled(spec: SourceSpec, row: EventSource | None, tenant: Tenant) -> SourceSpec:
    """Return a source with what it leaves open: the id policy of its kind, and the group of a Kafka source, which is
    chosen once, when the source is made.
    """
    kind = source_kinds.get(spec.kind)
    if not spec.id_policy and kind is not None:
        spec = replace(spec, id_policy=kind.default_id_policy)
    if spec.kind != "kafka" or "group_id" in spec.config:
        return spec
    if row is not None and "group_id" in row.config:
        return replace(spec, config={**spec.config, "group_id": row.config["group_id"]})
    taken = {other.config.get("group_id") for other in EventSource.objects.filter(kind="kafka")}
    group = kafka.default_group(spec.slug, first=kafka.FIRST_GROUP not in taken)
    # Tenants may each have a source of this name.
    group = f"{group}.{tenant.slug}" if group in taken else group
    return replace(spec, config={**spec.config, "group_id": group})


def _check_unique(row: EventSource) -> None:
    """Refuse a source that would read what another reads: each of them would miss half of it. Raises SourceInUse."""
    own = _claims(row)
    if not own:
        return
    for other in EventSource.objects.filter(kind=row.kind).exclude(pk=row.pk):
        if shared := sorted(own & _claims(other)):
            # The name of another tenant's source is not told.
            whose = f"the event source {other.slug}" if other.tenant_id == row.tenant_id else "another event source"
            raise SourceInUse(
                f"{', '.join(what[-1] for what in shared)}: {whose} reads the same in the same way.",
                details=(
                    Detail("config", " ".join(shared[0]), "what no other source reads, or another group_id on Kafka"),
                ),
            )


def _claims(row: EventSource) -> frozenset[tuple[str, ...]]:
    """Return what no two sources may share."""
    if row.kind == "kafka":
        read = kafka.claims(row.config, row.config.get("group_id", ""))
        return frozenset((brokers, group, topic) for brokers, topic, group in read)
    if row.kind == "rabbitmq":
        where = (str(row.config.get("host", "")), str(row.config.get("vhost", "/")))
        return frozenset((*where, queue) for queue in row.config.get("queues", ()))
    return frozenset()


def _locked(tenant: Tenant, slug: str, if_version: int | None) -> EventSource:
    row = (
        EventSource.objects.select_for_update(of=("self",))
        .select_related("tenant")
        .filter(tenant=tenant, slug=slug)
        .first()
    )
    if row is None:
        raise UnknownSource(f"There is no event source {slug}.")
    if if_version is not None and row.version != if_version:
        raise StaleVersion(
            f"The event source {slug} is at version {row.version}, not {if_version}: read it again.",
            details=(Detail("If-Match", f'"{if_version}"', f'"{row.version}"'),),
        )
    return row


def _committed(work: Callable[[], StoredSource]) -> EventSource:
    def whole() -> StoredSource:
        with transaction.atomic():
            # First, so that one change at a time looks at all sources.
            bump_epoch()
            return work()

    return in_transaction(whole).source


def _shown(row: EventSource) -> dict[str, Any]:
    """Return what a record says of a source; of its secrets the names."""
    return {
        "type": row.kind,
        "config": dict(row.config),
        "secrets": dict(row.secrets),
        "id_policy": row.id_policy,
        "enabled": row.enabled,
    }


def _audit(row: EventSource, action: str, before: dict[str, Any] | None, *, by: str, reason: str) -> None:
    is_deleted = action == "source.delete"
    old, new = changed(before or {}, {} if is_deleted else _shown(row))
    record_audit(
        action=action, subject="event_source", subject_id=row.pk, subject_name=row.slug, tenant_id=row.tenant_id, by=by,
        before=old if before is not None else None, after=None if is_deleted else new, reason=reason,
    )  # fmt: skip


def _record(row: EventSource, old: str, new: str, *, reason: str, by: str) -> None:
    record_transition(
        subject="event_source",
        subject_id=row.pk,
        from_state=old,
        to_state=new,
        reason=f"event source {row.slug}: {reason}"[:500],
        cause="event source",
        by=by[:200],
    )
