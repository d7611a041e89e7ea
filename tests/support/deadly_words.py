"""What a message says to hurt a process whose settings are `deadly`."""

from __future__ import annotations

from typing import Final

#: SIGSEGV.
DEADLY: Final = b"-kills-its-reader-"
#: Never ends.
ENDLESS: Final = b"-never-ends-"
#: Takes memory until there is no more.
GREEDY: Final = b"-takes-all-memory-"
