"""What is wrong with an http task is said when the definition is, at its place in the file."""

from __future__ import annotations

import pytest

from tests.support.definitions import job, only_problem, problems_of

URL = "url: https://reports.example/"


def task(fields: str) -> str:
    return job(f"- {{name: call, type: http, {fields}}}", "parameters: [{name: day, type: date}]")


@pytest.mark.parametrize(
    "fields",
    [
        URL,
        f"{URL}, method: POST, json: null",
        f"{URL}, json: {{day: '${{params.day}}'}}, headers: {{Authorization: 'Bearer ${{params.day}}'}}",
        f"{URL}, expect: {{status: [200, 404], body: \"status == 404 || json.state in ['a', 'b']\"}}",
        f"{URL}, timeouts: {{connect: 500ms, read: 90}}, max_body: 64Mi, tls_verify: false, follow_redirects: 3",
        "url: '${params.day}', method: '${params.day}', follow_redirects: '${params.day}', json: '${params.day}'",
        f"{URL}, query: {{a: 1, b: [x, true], c: '${{params.day}}'}}, result: body",
        f"{URL}, timeouts: {{read: '${{params.day}}'}}, max_body: '${{params.day}}'",
    ],
)
def test_a_good_task_is_no_problem(fields: str) -> None:
    assert problems_of(task(fields)) == []


@pytest.mark.parametrize(
    ("fields", "path", "message", "expected"),
    [
        ("method: GET", "tasks[0].url", "missing", "a field of type http"),
        ("url: reports.example", "tasks[0].url", "not an address that can be called", "an http:// or https:// address"),
        ("url: 'ftp://u:p@a/'", "tasks[0].url", "not an address that can be called", "an http:// or https:// address"),
        (f"{URL}, method: FETCH", "tasks[0].method", "not a known value", "GET | HEAD | POST"),
        (f"{URL}, json: 1, form: {{a: b}}", "tasks[0].form", "a second body beside json", "only one of json, body and"),
        (f"{URL}, body: a, form: {{a: b}}", "tasks[0].form", "a second body beside body", "only one of json, body and"),
        (
            f"{URL}, headers: {{'X-A': \"b\\r\\nX-C: d\"}}",
            "tasks[0].headers.X-A",
            "has a line break, which would begin another header",
            "one line",
        ),
        (
            f"{URL}, headers: {{Content-Length: 3}}",
            "tasks[0].headers.Content-Length",
            "a header that is not the task",
            "",
        ),
        (f"{URL}, timeouts: {{read: 0}}", "tasks[0].timeouts.read", "duration out of range", "more than 0 to 366d"),
        (f"{URL}, timeouts: {{connect: soon}}", "tasks[0].timeouts.connect", "not a duration", "a duration such as"),
        (f"{URL}, max_body: 1Gi", "tasks[0].max_body", "size out of range", "more than 0 to 64Mi"),
        (f"{URL}, max_body: much", "tasks[0].max_body", "not a size", "a size such as"),
        (
            f"{URL}, expect: {{body: 'json.state =='}}",
            "tasks[0].expect.body",
            "condition: ",
            "a CEL expression that is",
        ),
        (
            f"{URL}, expect: {{body: 'body.state'}}",
            "tasks[0].expect.body",
            "condition: body.state is not known here",
            "status,",
        ),
        (
            f"{URL}, expect: {{body: '1 + 1'}}",
            "tasks[0].expect.body",
            "condition: is of type int, not a boolean",
            "a CEL",
        ),
        (
            f"{URL}, expect: {{body: \"json.day == '${{params.day}}'\"}}",
            "tasks[0].expect.body",
            "placeholder in the fixed text of expect",
            "a fixed text: this text is never a template",
        ),
        (f"{URL}, expect: {{status: [99]}}", "tasks[0].expect.status[0]", "does not fit the task type", "minimum 200"),
        (f"{URL}, expect: {{header: x}}", "tasks[0].expect.header", "unknown field", "status"),
        (f"{URL}, follow_redirect: 3", "tasks[0].follow_redirect", "unknown field", "follow_redirects?"),
    ],
)
def test_a_problem_is_named_at_its_place(fields: str, path: str, message: str, expected: str) -> None:
    problem = only_problem(task(fields))

    assert problem.path == path
    assert problem.message.startswith(message)
    assert expected in problem.expected
    assert problem.line is not None


def test_a_password_in_an_address_is_not_quoted() -> None:
    assert only_problem(task("url: 'ftp://robot:hunter2@a/'")).value == "ftp://***@a/"
