"""Which versions of servers are old enough to do harm, and what the harm is. Pure."""

from __future__ import annotations

from typing import Final

LEAST_POSTGRESQL: Final = (14, 0)
LEAST_REDIS: Final = (6, 2)
LEAST_RABBITMQ: Final = (3, 12)

#: Product → least version, and what an older one does.
_LEAST: Final = {
    "PostgreSQL": (LEAST_POSTGRESQL, "Django does not know it any more"),
    "Redis": (LEAST_REDIS, "kombu asks it in a way that older ones do not know"),
    "RabbitMQ": (LEAST_RABBITMQ, "older ones close the channel of a task that runs for more than half an hour"),
}


def said_of(product: str, version: str) -> str:
    """Return a server's product and version, and what is to be known of it if it is old."""
    if product not in _LEAST:
        return f"{product} {version}".strip()
    least, why = _LEAST[product]
    found = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if found >= least:
        return f"{product} {version}"
    return f"{product} {version} is older than {'.'.join(map(str, least))}: {why}"
