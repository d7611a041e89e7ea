"""The providers of webhooks that are known by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from triggers.sources.providers.base import Provider
from triggers.sources.providers.cloudevents import CLOUDEVENTS
from triggers.sources.providers.generic import GENERIC
from triggers.sources.providers.gitea import GITEA
from triggers.sources.providers.github import GITHUB
from triggers.sources.providers.gitlab import GITLAB
from triggers.sources.providers.jenkins import JENKINS
from triggers.sources.providers.standard_webhooks import STANDARD_WEBHOOKS

PROVIDERS: Final[Mapping[str, Provider]] = {
    provider.name: provider for provider in (GITHUB, GITLAB, GITEA, JENKINS, STANDARD_WEBHOOKS, CLOUDEVENTS, GENERIC)
}

__all__ = ["PROVIDERS", "Provider"]
