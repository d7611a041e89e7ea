"""Rules, under the paths and with the fields of the contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import PolymorphicProxySerializer
from rest_framework.request import Request

from orchestrator.api.bases import (
    CURSOR,
    ReasonCall,
    TenantWideView,
    answer,
    base_url,
    bodies,
    choices,
    describe,
    example,
    limit,
    number_cursor,
    page,
    page_answer,
    query,
)
from orchestrator.errors import Detail, InvalidRequest
from orchestrator.roles import Action
from triggers.api.preconditions import IF_MATCH, version_wanted, with_etag
from triggers.api.serializers.events import FiringAnswer, firing_answer
from triggers.api.serializers.rules import (
    RollbackCall,
    RuleAnswer,
    RuleCall,
    RulePageAnswer,
    RuleTestAnswer,
    RuleTestCall,
    RuleVersionAnswer,
    rule_answer,
    rule_url,
    rule_version_answer,
)
from triggers.models import TriggerRule
from triggers.models.events import OUTCOMES
from triggers.selectors import firings as firing_selectors
from triggers.selectors import rules as selectors
from triggers.selectors.firings import FiringFilter
from triggers.selectors.rules import NumberedPage
from triggers.services import rules as services
from triggers.services.rule_tests import try_rule
from triggers.services.rule_warnings import warnings_of

_EXAMPLE: Final = {
    "ruleId": "order-created-trigger",
    "ruleName": "Follow up high-value orders",
    "eventType": "order.created",
    "condition": "payload.amount > 1000",
    "taskName": "high-value-order-processing",
    "taskType": "shell",
    "parameters": {"script": "/scripts/process-high-value-order.sh", "orderId": "${payload.orderId}", "timeout": 3600},
    "priority": "HIGH",
    "enabled": True,
}
EXAMPLES: Final = [example("rule", _EXAMPLE)]
_COMMENT: Final = query("comment", "Kept with the new version, at most 500 characters.")
LARGEST_SIZE: Final = 200
_MOST_PAGES: Final = 10**6


class RuleView(TenantWideView):
    """Base of what is about rules: they belong to the tenant."""

    def rule(self, rule_id: str) -> TriggerRule:
        return selectors.rule_of(self.tenant_id, rule_id)

    def shown(self, request: Request, rule: TriggerRule, *, status: int = 200, warned: bool = False) -> HttpResponse:
        warnings = warnings_of(self.token.tenant, services.spec_of_rule(rule)) if warned else None
        answered = answer(rule_answer(rule, base_url(request), warnings=warnings), status=status)
        return with_etag(answered, rule.version)

    def comment(self, request: Request) -> str:
        comment = bodies.check_query(request, ("comment",)).get("comment", "")
        if len(comment) > 500:
            raise InvalidRequest(
                "The query has problems.",
                details=(Detail("comment", bodies.quoted(comment), "a text of at most 500 characters"),),
            )
        return comment


class RuleList(RuleView):
    """Rules, by id: a bare array, as the contract has it."""

    actions = {"POST": Action.DEFINE}

    @describe(
        "list_rules",
        "List rules, a page by its number",
        PolymorphicProxySerializer("RuleListAnswer", [RuleAnswer(many=True), RulePageAnswer], None, many=False),
        parameters=[
            query("page", "Number of the page, counted from 0.", OpenApiTypes.INT, default=0),
            query("size", f"Rules of a page, at most {LARGEST_SIZE}.", OpenApiTypes.INT, default=20),
            query("view", "`page`: an object with content, page, size, totalElements and totalPages.", enum=["page"]),
            query("enabled", "Only enabled rules, or only others.", OpenApiTypes.BOOL),
            query("q", "Part of the id, the name or the description."),
        ],
        tag="rules",
    )
    def get(self, request: Request) -> HttpResponse:
        asked = bodies.check_query(request, ("page", "size", "view", "enabled", "q"))
        enabled = choices(asked.get("enabled"), "enabled", ("true", "false"))
        as_page = bool(choices(asked.get("view"), "view", ("page",)))
        found = selectors.rules_of(
            self.tenant_id,
            page=bodies.whole_number(asked, "page", default=0, least=0, most=_MOST_PAGES),
            size=bodies.whole_number(asked, "size", default=20, least=1, most=LARGEST_SIZE),
            enabled=("true" in enabled) if enabled else None,
            search=asked.get("q"),
        )
        base = base_url(request)
        rules = [rule_answer(rule, base) for rule in found.rules]
        answered = answer(_page_object(found, rules) if as_page else rules)
        answered["X-Total-Count"] = str(found.total)
        answered["Link"] = _links(found, f"{base}/api/v1/task-trigger-rules", asked)
        return answered

    @describe(
        "create_rule",
        "Create a rule",
        RuleAnswer,
        status=201,
        call=RuleCall,
        parameters=[_COMMENT],
        refusals=(409, 413, 422),
        examples=EXAMPLES,
        tag="rules",
    )
    def post(self, request: Request) -> HttpResponse:
        comment = self.comment(request)
        spec = services.spec_of(bodies.read_object(request))
        rule = services.create_rule(tenant=self.token.tenant, spec=spec, by=self.by, comment=comment)
        answered = self.shown(request, rule, status=201, warned=True)
        answered["Location"] = rule_url(rule.slug, base_url(request))
        return answered


class RuleDetail(RuleView):
    """One rule."""

    actions = {"PUT": Action.DEFINE, "DELETE": Action.DEFINE}

    @describe("get_rule", "Read a rule", RuleAnswer, tag="rules")
    def get(self, request: Request, rule_id: str) -> HttpResponse:
        bodies.check_query(request, ())
        return self.shown(request, self.rule(rule_id))

    @describe(
        "replace_rule",
        "Replace a rule; the same content changes nothing",
        RuleAnswer,
        call=RuleCall,
        parameters=[IF_MATCH, _COMMENT],
        refusals=(409, 412, 413, 422),
        examples=EXAMPLES,
        tag="rules",
    )
    def put(self, request: Request, rule_id: str) -> HttpResponse:
        comment, version = self.comment(request), version_wanted(request)
        # Before the body is looked at: a rule that is not there has no problems.
        self.rule(rule_id)
        form = {"ruleId": rule_id, **bodies.read_object(request)}
        if form["ruleId"] != rule_id:
            raise InvalidRequest(
                "The body has problems.",
                details=(Detail("ruleId", bodies.quoted(form["ruleId"]), f"{rule_id}, the rule of this path"),),
            )
        rule = services.replace_rule(
            tenant=self.token.tenant, spec=services.spec_of(form), by=self.by, comment=comment, if_version=version
        )
        return self.shown(request, rule, warned=True)

    @describe(
        "delete_rule",
        "Delete a rule: its pending runs are cancelled, its history stays",
        None,
        status=204,
        parameters=[IF_MATCH],
        refusals=(412,),
        tag="rules",
    )
    def delete(self, request: Request, rule_id: str) -> HttpResponse:
        bodies.check_query(request, ())
        services.delete_rule(tenant=self.token.tenant, slug=rule_id, by=self.by, if_version=version_wanted(request))
        return HttpResponse(status=204)


class RuleEnable(RuleView):
    """Let a rule fire."""

    action = Action.STEER

    @describe(
        "enable_rule", "Let a rule fire again", RuleAnswer, call=ReasonCall, parameters=[IF_MATCH],
        refusals=(412, 413), tag="rules",
    )  # fmt: skip
    def post(self, request: Request, rule_id: str) -> HttpResponse:
        reason = bodies.read_body(request, {"reason": bodies.text()})["reason"]
        rule = services.enable_rule(
            tenant=self.token.tenant, slug=rule_id, by=self.by, reason=reason, if_version=version_wanted(request)
        )
        return self.shown(request, rule)


class RuleDisable(RuleView):
    """Let a rule fire no more."""

    action = Action.STEER

    @describe(
        "disable_rule", "Let a rule fire no more", RuleAnswer, call=ReasonCall, parameters=[IF_MATCH],
        refusals=(412, 413), tag="rules",
    )  # fmt: skip
    def post(self, request: Request, rule_id: str) -> HttpResponse:
        reason = bodies.read_body(request, {"reason": bodies.text()})["reason"]
        rule = services.disable_rule(
            tenant=self.token.tenant, slug=rule_id, by=self.by, reason=reason, if_version=version_wanted(request)
        )
        return self.shown(request, rule)


class RuleTest(RuleView):
    """What a rule would do with an event; nothing is stored."""

    action = Action.VIEW

    @describe(
        "test_rule",
        "Say step by step what a rule would do with an event",
        RuleTestAnswer,
        call=RuleTestCall,
        refusals=(413, 422),
        examples=[
            example(
                "rule",
                {
                    "rule": _EXAMPLE,
                    "eventMessage": {
                        "messageId": "msg-1",
                        "eventType": "order.created",
                        "payload": {"orderId": "order-12345", "amount": 1999.99},
                    },
                },
            )
        ],
        tag="rules",
    )
    def post(self, request: Request) -> HttpResponse:
        bodies.check_query(request, ())
        asked = bodies.read_body(
            request,
            {
                "rule": bodies.Field(
                    "a rule, or the id of one", lambda value: isinstance(value, (dict, str)), required=True
                ),
                "eventMessage": bodies.Field("an event", lambda value: isinstance(value, dict), required=True),
                "channel": bodies.text(300),
                "headers": bodies.Field(
                    "an object of texts",
                    lambda value: isinstance(value, dict) and all(isinstance(each, str) for each in value.values()),
                    default={},
                ),
            },
        )
        rule = asked["rule"]
        return answer(
            try_rule(
                tenant=self.token.tenant,
                rule=self.rule(rule) if isinstance(rule, str) else services.spec_of(rule),
                event=asked["eventMessage"],
                channel=asked["channel"] or "api",
                headers=asked["headers"],
            )
        )


class RuleVersions(RuleView):
    """The versions of a rule, newest first."""

    @describe(
        "list_rule_versions",
        "List the versions of a rule, newest first",
        page(RuleVersionAnswer, "RuleVersionPage"),
        parameters=[limit(50, 200), CURSOR],
        tag="rules",
    )
    def get(self, request: Request, rule_id: str) -> HttpResponse:
        asked = bodies.check_query(request, ("limit", "cursor"))
        found = selectors.versions_of(
            self.rule(rule_id),
            before=number_cursor(asked.get("cursor")),
            limit=bodies.whole_number(asked, "limit", default=50, least=1, most=200),
        )
        return page_answer(found, lambda row: rule_version_answer(row, services.form_of(row.spec)))


class RuleRollback(RuleView):
    """Go back to an earlier version, by a new one."""

    action = Action.DEFINE

    @describe(
        "roll_back_rule",
        "Make what an earlier version said the latest version",
        RuleAnswer,
        call=RollbackCall,
        parameters=[IF_MATCH],
        refusals=(409, 412, 413, 422),
        examples=[example("back", {"version": 3, "comment": "4 fired twice"})],
        tag="rules",
    )
    def post(self, request: Request, rule_id: str) -> HttpResponse:
        bodies.check_query(request, ())
        number = bodies.Field(
            "the number of a version",
            lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31,
            required=True,
        )
        asked = bodies.read_body(request, {"version": number, "comment": bodies.text()})
        rule = services.roll_back_rule(
            tenant=self.token.tenant,
            slug=rule_id,
            number=asked["version"],
            by=self.by,
            comment=asked["comment"],
            if_version=version_wanted(request),
        )
        return self.shown(request, rule, warned=True)


class RuleFirings(RuleView):
    """What became of a rule on events, newest first."""

    @describe(
        "list_firings_of_rule",
        "List the firings of a rule, newest first",
        page(FiringAnswer, "FiringPage"),
        parameters=[query("outcome", "One of " + ", ".join(OUTCOMES) + ", or several."), limit(50, 200), CURSOR],
        tag="rules",
    )
    def get(self, request: Request, rule_id: str) -> HttpResponse:
        asked = bodies.check_query(request, ("outcome", "limit", "cursor"))
        found = firing_selectors.firings_of(
            self.tenant_id,
            FiringFilter(
                rule_ids=(self.rule(rule_id).pk,), outcomes=choices(asked.get("outcome"), "outcome", OUTCOMES)
            ),
            before=number_cursor(asked.get("cursor")),
            limit=bodies.whole_number(asked, "limit", default=50, least=1, most=200),
        )
        base = base_url(request)
        return page_answer(found, lambda row: firing_answer(row, base))


def _page_object(found: NumberedPage, rules: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "content": rules,
        "page": found.page,
        "size": found.size,
        "totalElements": found.total,
        "totalPages": found.pages,
    }


def _links(found: NumberedPage, path: str, asked: Mapping[str, str]) -> str:
    """Return the pages around one, as RFC 8288 writes them."""
    last = max(found.pages - 1, 0)
    pages = {"first": 0, "prev": found.page - 1, "next": found.page + 1, "last": last}
    kept = {key: value for key, value in asked.items() if key not in ("page", "size")}
    return ", ".join(
        f'<{path}?{urlencode({"page": number, "size": found.size, **kept})}>; rel="{name}"'
        for name, number in pages.items()
        if 0 <= number <= last and not (name == "prev" and number < 0)
    )
