"""Split a stream of bytes into JSON objects, one per line: the protocol of caller, supervisor and load processes.

Imported by every shard and worker: it imports `json` and nothing else.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class JsonLines:
    """The reading end of such a stream; a line may arrive in parts.

    Attributes:
        rejected: lines that are not a JSON object; the caller may log them and clear the list.
    """

    def __init__(self) -> None:
        self._rest = b""
        self.rejected: list[str] = []

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Take bytes as they were read and return the objects that are complete now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        found = []
        for line in lines:
            try:
                value = json.loads(line)
            except ValueError:
                value = None
            if isinstance(value, dict):
                found.append(value)
            elif line.strip():
                self.rejected.append(line.decode(errors="replace"))
        return found
