from __future__ import annotations

import signal
from typing import Any

from django.core.management.base import BaseCommand

from orchestrator.services.recovery import Reconciler


class Command(BaseCommand):
    help = "Run the reconciler on its own, as every beat process also does. One leads, the others stand by."

    def handle(self, *args: Any, **options: Any) -> None:
        reconciler = Reconciler()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: reconciler.stop())
        reconciler.run()
