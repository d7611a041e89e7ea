"""The web process: liveness without Django, the API on its own threads, all else by Django."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.core.asgi import get_asgi_application

from orchestrator import privacy
from orchestrator.settings import use_profile

use_profile()
# Files of the admin are small and read at once; that they are served from an iterator is no news to an operator.
warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous iterators")
# WhiteNoise looks for collected files even where none are, and says so at every start.
Path(settings.STATIC_ROOT).mkdir(parents=True, exist_ok=True)
_django = get_asgi_application()

from orchestrator.api.server import ApiServer, Receive, Send  # noqa: E402  imports models, so not before Django is set up
from orchestrator.celery import app as _celery  # noqa: E402  as above
from orchestrator.checks import refuse_unsafe_settings  # noqa: E402  as above

# A worker imports the tasks by itself; who only publishes must be told, and here before the first call waits for it.
_celery.loader.import_default_modules()

privacy.keep_to_itself()
# Servers do not run Django's checks: an unsafe web process must not come up unnoticed.
refuse_unsafe_settings()
_api = ApiServer()

#: What people open in a browser is under the API's path, but lives on the admin's sign-in.
_BROWSER_PATHS: Final = ("/api/v1/schema", "/api/v1/docs")
_API_PREFIXES: Final = ("/api/", "/v1/")
_API_PATHS: Final = frozenset({"/api", "/v1", "/readyz", "/metrics"})


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _live(receive, send)
    elif scope["type"] == "http" and scope["path"] == "/healthz":
        await _answer_alive(send)
    elif scope["type"] == "http" and _is_api(scope["path"]):
        await _api(scope, receive, send)
    else:
        await _django(scope, receive, send)  # type: ignore[arg-type]  # the stubs ask for more than ASGI does


def _is_api(path: str) -> bool:
    if path.startswith(_BROWSER_PATHS):
        return False
    return path.startswith(_API_PREFIXES) or path in _API_PATHS


async def _answer_alive(send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"15"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"status":"ok"}'})


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            _api.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
