"""One command that runs the embedded profile: prepares UPBEAT_HOME, starts or adopts the processes, ends them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connections

from orchestrator.conf import Options
from orchestrator.contracts import CONTROL_LANE
from orchestrator.embedded import trees
from orchestrator.embedded.home import Home, keep, random_password, write_private
from orchestrator.embedded.provider import Provider, choose_provider, port_is_free
from orchestrator.embedded.supervisor import Child, Supervisor
from orchestrator.models import JobVersion, Tenant
from orchestrator.services.secrets import set_secret
from orchestrator.services.tokens import authenticate, create_token

ROOT = Path(settings.BASE_DIR)
EXAMPLES = ROOT / "examples"
ADMIN = "admin"
#: The source of the example that is started by a webhook.
WEBHOOK = "shop"
READY_SECONDS = 90.0
BROKER = "broker"

Say = Callable[[str], None]


class CannotStart(Exception):
    """The embedded profile cannot start; the message says what to do."""


def run(say: Say) -> None:
    """Run everything until Ctrl-C, SIGTERM or SIGHUP. Raises CannotStart before anything was started."""
    home = Home.of(os.environ)
    home.prepare()
    with only_one(home):
        try:
            provider = choose_provider(os.environ, home)
        except LookupError as error:
            raise CannotStart(str(error)) from error
        _complete_environment(home)
        options = Options(os.environ)
        supervisor = Supervisor(home, children(home, options, provider), say=_dated(say), code=_code_fingerprint())
        survivors = supervisor.survivors()
        check_ports(options, survivors)
        if not survivors:
            _forget_metrics(home)
        stop = _stop_on_signals(say)
        try:
            _launch(home, options, provider, supervisor, stop, say)
            stop.wait()
        finally:
            supervisor.stop()
    say(f"Stopped. The data stays in {home.path}")


def _launch(
    home: Home, options: Options, provider: Provider, supervisor: Supervisor, stop: threading.Event, say: Say
) -> None:
    if provider.command() is not None:
        supervisor.start(BROKER)
    prepare_data(home, say, url=_web_url(options))
    if stop.is_set():
        return
    supervisor.start()
    deadline = time.monotonic() + READY_SECONDS
    while (waiting := supervisor.waiting_for()) and not stop.wait(0.1):
        if time.monotonic() > deadline:
            say(f"Not ready after {READY_SECONDS:.0f} s: {', '.join(waiting)}. See {home.logs}; still trying.")
            deadline = float("inf")
    if not stop.is_set():
        say(banner(home, options))


def children(home: Home, options: Options, provider: Provider) -> list[Child]:
    """Return the processes of the embedded profile, the broker among them if it is ours."""
    environ = {
        **os.environ,
        "UPBEAT_PROFILE": "embedded",
        "UPBEAT_METRICS_DIR": os.environ.get("UPBEAT_METRICS_DIR") or str(home.metrics),
        "PYTHONUNBUFFERED": "1",
    }
    # Flower shows nothing without them.
    celery_environ = {**environ, "UPBEAT_WORKER_EVENTS": os.environ.get("UPBEAT_WORKER_EVENTS") or "1"}
    python = (sys.executable, "-m")
    celery = (*python, "celery", "--app", "orchestrator", "--workdir", str(ROOT))
    worker = (*celery, "worker", "--without-gossip", "--without-mingle", "--loglevel", options.log_level)
    slots = max(4, os.cpu_count() or 4)
    broker_command = provider.command()

    def lanes(*queues: str) -> Callable[[], int]:
        return partial(provider.backlog, queues)

    found = [
        Child(
            "web",
            (
                *(*python, "uvicorn", "orchestrator.asgi:application", "--app-dir", str(ROOT), "--no-access-log"),
                *("--host", options.host, "--port", str(options.port), "--timeout-graceful-shutdown", "5"),
            ),
            environ,
            answers=partial(answers_http, f"{_web_url(options)}/healthz"),
        ),
        Child(
            "worker",
            (
                *(*worker, "--hostname", "worker@%h", "--queues", ",".join(options.pools)),
                # Tasks run in processes of their own below the worker: its slots only start and watch them, and threads do
                # that for a tenth less CPU than forked children.
                *("--pool", "threads", "--concurrency", str(slots)),
            ),
            celery_environ,
            reports=True,
            judged_while=provider.answers,
            backlog=lanes(*options.pools),
        ),
        Child(
            "control",
            # Slots of their own for what moves runs on: long tasks must not starve it.
            (*worker, "--hostname", "control@%h", "--queues", CONTROL_LANE, "--pool", "threads", "--concurrency", "4"),
            celery_environ,
            reports=True,
            judged_while=provider.answers,
            backlog=lanes(CONTROL_LANE),
        ),
        Child(
            "beat",
            (
                *(*celery, "beat", "--scheduler", "triggers.scheduler:LedgerScheduler", "--pidfile="),
                *("--loglevel", options.log_level),
            ),
            celery_environ,
            reports=True,
            judged_while=provider.answers,
        ),
        # Event sources may be added at any time, and what rules hold has to be released.
        Child("triggers", (sys.executable, str(ROOT / "manage.py"), "run_triggers"), environ, reports=True),
        Child(
            "flower",
            (
                *(*celery, "flower", "--address=127.0.0.1", f"--port={options.flower_port}", "--max-tasks=10000"),
                *(f"--conf={ROOT / 'orchestrator' / 'flowerconfig.py'}", f"--logging={options.log_level.lower()}"),
            ),
            # In the environment, not in an argument list that every user of the machine can read.
            {**celery_environ, "FLOWER_BASIC_AUTH": f"{ADMIN}:{keep(home.admin_password, random_password)}"},
            answers=partial(answers_http, f"http://127.0.0.1:{options.flower_port}/healthcheck"),
            judged_while=provider.answers,
        ),
    ]
    if broker_command is not None:
        own = {"PATH": os.environ.get("PATH", os.defpath)}
        found.insert(
            0, Child(BROKER, broker_command, own, answers=provider.answers, stop_seconds=3, ours=False, last=True)
        )
    return found


def prepare_data(home: Home, say: Say, *, url: str) -> None:
    """Bring the database up to date and make what the first start needs. Safe to call at every start."""
    call_command("migrate", interactive=False, verbosity=0)
    if not get_user_model().objects.filter(username=ADMIN).exists():
        password = keep(home.admin_password, random_password)
        get_user_model().objects.create_superuser(username=ADMIN, email="", password=password)
    if not JobVersion.objects.exists():
        examples = [str(file) for file in sorted(EXAMPLES.glob("*.yaml"))]
        call_command("apply", *examples, comment="examples of the first start", stdout=io.StringIO())
        say(f"{len(examples)} example jobs are loaded")
    tenant = Tenant.objects.get(slug="default")
    token = home.token.read_text().strip() if home.token.exists() else ""
    if not token or authenticate(token) is None:
        # Also when the database was removed and the file was not.
        _, token = create_token(tenant=tenant, name="first token", scopes=("read", "trigger", "operate"), by="cli:demo")
        write_private(home.token, token)
    write_private(home.token_header, f"Authorization: Bearer {token}")
    _prepare_webhook(home, tenant, url)
    # From here on the supervisor only waits: it must not hold the database.
    connections.close_all()


def _prepare_webhook(home: Home, tenant: Tenant, url: str) -> None:
    """Load the example that is started by a webhook, once; whoever deletes it has deleted it."""
    sources = apps.get_model("triggers", "EventSource").objects.filter(tenant=tenant, slug=WEBHOOK)
    if not home.webhook_secret.exists() or not JobVersion.objects.filter(job__name="ship-order").exists():
        # The database may have been removed, and the file not.
        secret = keep(home.webhook_secret, random_password)
        set_secret(tenant=tenant, name=f"{WEBHOOK}-webhook", value=secret, by="first start", reason="example")
        examples = [str(file) for file in sorted((EXAMPLES / "events").glob("*.yaml"))]
        call_command("apply", *examples, comment="example of the first start", stdout=io.StringIO())
    if (endpoint := sources.values_list("endpoint", flat=True).first()) is not None:
        # At every start: the port may be another one.
        write_private(home.webhook_url, f"{url}/api/v1/hooks/{endpoint}")
    else:
        home.webhook_url.unlink(missing_ok=True)


def banner(home: Home, options: Options) -> str:
    """Return what a person needs to know once everything runs."""
    web = _web_url(options)
    header = _shown(home.token_header)
    return f"""
Upbeat is ready.

  Admin    {web}/admin/    user {ADMIN}, password in {_shown(home.admin_password)}
  API      {web}/api/v1/   token in {_shown(home.token)}
  Flower   http://127.0.0.1:{options.flower_port}/          the admin's user and password
  Logs     {_shown(home.logs)}

Trigger the first run, exactly as a deployment pipeline would:

  curl -sS -H @{header} -H 'Content-Type: application/json' \\
    -d '{{"jobName": "data-sync-after-deployment", "parameters": {{"environment": "production", "version": "v1.2.3", "deployTime": "2025-09-06T10:30:00Z"}}}}' \\
    {web}/v1/jobs/trigger

and wait for its end, with the id of the answer in place of 1:

  curl -sS -H @{header} '{web}/api/v1/runs/1?wait=25'
{_webhook_shown(home)}
Ctrl-C stops everything and keeps the data.
"""


def _webhook_shown(home: Home) -> str:
    if not home.webhook_url.exists():
        return ""
    return f"""
Or let an event start one, by a webhook that is signed:

  body='{{"messageId": "order-1", "eventType": "order.created", "payload": {{"orderId": "o-1", "amount": 1999.99}}}}'
  signature=$(printf %s "$body" | openssl dgst -sha256 -hmac "$(cat {_shown(home.webhook_secret)})" | sed 's/.* //')
  curl -sS -H "X-Signature-256: sha256=$signature" -H 'Content-Type: application/json' \\
    -d "$body" "$(cat {_shown(home.webhook_url)})"
"""


def check_ports(options: Options, survivors: list[str]) -> None:
    """Raise CannotStart, naming the port and the variable, if somebody else listens where we would."""
    wanted = (
        ("web", options.host, options.port, "UPBEAT_PORT"),
        ("flower", "127.0.0.1", options.flower_port, "UPBEAT_FLOWER_PORT"),
    )
    for name, host, port, variable in wanted:
        if name in survivors or port_is_free(host, port):
            continue
        left = next((process for process in trees.marked(f"{options.home_path}:{name}")), None)
        if left is None:  # one of ours from other code or settings is replaced, not complained about
            raise CannotStart(f"Port {port} is in use{_holder(port)}. Set {variable} to a free one and start again.")


def _holder(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f" (by {psutil.Process(connection.pid).name()}, pid {connection.pid})"
    return ""


@contextlib.contextmanager
def only_one(home: Home) -> Iterator[None]:
    """Hold the installation's lock; two supervisors would restart each other's children."""
    with (home.run / "supervisor.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise CannotStart(
                f"{home.path} is already in use by pid {lock.read().strip()}. Stop that one, or set UPBEAT_HOME."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _complete_environment(home: Home) -> None:
    """Start this command anew if the settings were read before the keys and the broker's URL existed."""
    missing = {k: v for k, v in home.environment(os.environ).items() if os.environ.get(k) != v}
    if missing:
        # The lock is not inherited; the new program takes it again.
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **missing})


def _stop_on_signals(say: Say) -> threading.Event:
    stop = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        if not stop.is_set():
            stop.set()
            with contextlib.suppress(OSError):  # the terminal may be what went away
                say("\nStopping; this takes at most 20 s.")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    return stop


def answers_http(url: str) -> bool:
    """Say whether a GET is answered with 200 within three seconds."""
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _web_url(options: Options) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(options.host, options.host)
    return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{options.port}"


def _shown(path: Path) -> str:
    """Return a path as short as it can be typed from here."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def _code_fingerprint() -> str:
    """Tell whether a survivor runs today's code."""
    files = [
        file for package in ("orchestrator", "workers", "triggers", "alerts") for file in (ROOT / package).rglob("*.py")
    ]
    facts = sorted((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _forget_metrics(home: Home) -> None:
    """Counters begin anew with the installation: what an older version counted may have had other labels or buckets."""
    for file in home.metrics.glob("*.db"):
        file.unlink(missing_ok=True)


def _dated(say: Say) -> Say:
    def dated(message: str) -> None:
        with contextlib.suppress(OSError):
            say(f"{time.strftime('%H:%M:%S')} {message}")

    return dated
