"""Points at which a test may kill this process: signals that production code raises and nobody hears."""

from __future__ import annotations

from typing import Final

from django.dispatch import Signal

#: Messages are there, nothing has looked at them.
after_poll: Final = Signal()
#: Decoded and matched, nothing is written.
decoded: Final = Signal()
#: All rows are written, the transaction is open.
in_transaction: Final = Signal()
#: Committed, the transport knows nothing of it.
after_transaction: Final = Signal()
#: The transport forgot the messages, no run is launched.
after_acknowledge: Final = Signal()
#: Some of a batch's runs may be launched.
during_launch: Final = Signal()


def reached(point: Signal) -> None:
    """Say that this process is at `point`. Costs nothing while nobody listens."""
    if point.receivers:
        point.send(sender=None)
