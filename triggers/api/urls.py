from __future__ import annotations

from django.urls import path, register_converter

from orchestrator.api.bases import NameConverter
from triggers.api.views import events, hooks, replays, rules, sources
from triggers.services.sources import SLUG


class RuleConverter(NameConverter):
    """A rule's id; `test` is reserved."""

    regex = "(?!test$)[a-z0-9][a-z0-9-]{0,57}"


class SourceConverter(NameConverter):
    """A source's name."""

    regex = SLUG.pattern


class HookConverter(NameConverter):
    """A webhook's endpoint: random, of the characters of base64 for addresses."""

    regex = "[A-Za-z0-9_-]{1,63}"


register_converter(RuleConverter, "rule")
register_converter(HookConverter, "hook")
register_converter(SourceConverter, "source")

_RULES = "api/v1/task-trigger-rules"

urlpatterns = [
    path(_RULES, rules.RuleList.as_view()),
    path(f"{_RULES}/test", rules.RuleTest.as_view()),
    path(f"{_RULES}/<rule:rule_id>", rules.RuleDetail.as_view()),
    path(f"{_RULES}/<rule:rule_id>/enable", rules.RuleEnable.as_view()),
    path(f"{_RULES}/<rule:rule_id>/disable", rules.RuleDisable.as_view()),
    path(f"{_RULES}/<rule:rule_id>/versions", rules.RuleVersions.as_view()),
    path(f"{_RULES}/<rule:rule_id>/rollback", rules.RuleRollback.as_view()),
    path(f"{_RULES}/<rule:rule_id>/firings", rules.RuleFirings.as_view()),
    path("api/v1/events", events.EventList.as_view()),
    path("api/v1/events/<id:event_id>", events.EventDetail.as_view()),
    path("api/v1/hooks/<hook:endpoint>", hooks.Hook.as_view()),
    path("api/v1/firings", events.FiringList.as_view()),
    path("api/v1/firings/<id:firing_id>", events.FiringDetail.as_view()),
    path("api/v1/dead-letters", events.DeadLetterList.as_view()),
    path("api/v1/dead-letters/<id:letter_id>", events.DeadLetterDetail.as_view()),
    path("api/v1/dead-letters/<id:letter_id>/discard", events.DeadLetterDiscard.as_view()),
    path("api/v1/replays", replays.ReplayList.as_view()),
    path("api/v1/replays/<id:replay_id>", replays.ReplayDetail.as_view()),
    path("api/v1/event-sources", sources.SourceList.as_view()),
    path("api/v1/event-sources/<source:slug>", sources.SourceDetail.as_view()),
    path("api/v1/event-sources/<source:slug>/enable", sources.SourceEnable.as_view()),
    path("api/v1/event-sources/<source:slug>/disable", sources.SourceDisable.as_view()),
]
