"""What a browser may do with our answers: one policy for pages, a stricter one for all that is no page.

Every page lives by it: scripts and styles are files of this host, values go into `json_script` or `data-` attributes,
and markup in a job's name or a log line can therefore not run, even if it were not escaped.
"""

from __future__ import annotations

from typing import Final

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.deprecation import MiddlewareMixin

#: `unsafe-eval`: the theme's Alpine compiles the expressions of its attributes. `unsafe-inline` of styles: the theme
#: writes style attributes and its colours; a style runs nothing.
PAGE: Final = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "object-src 'none'",
    )
)
#: JSON, logs, files: nothing in them is ever loaded, run or framed.
DATA: Final = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
FEATURES: Final = "camera=(), geolocation=(), microphone=(), payment=(), usb=()"


class SecurityHeadersMiddleware(MiddlewareMixin):
    """Sets the policy on every answer that passes Django's middleware; a view that set one of its own keeps it."""

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        is_page = response.headers.get("Content-Type", "").startswith("text/html")
        response.headers.setdefault("Content-Security-Policy", PAGE if is_page else DATA)
        response.headers.setdefault("Permissions-Policy", FEATURES)
        return response
