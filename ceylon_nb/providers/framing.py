"""Where one piece of a stream ends and the next begins: lines, and server-sent events.

Both are fed chunks, and give what is whole by then. No generators: each would be one more to go through, twice for
every token that comes.
"""

from __future__ import annotations


class Lines:
    """Splits chunks at line ends, which are dropped."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that end in this chunk."""
        first, *others = chunk.split(b"\n")
        self._parts.append(first)
        if not others:
            return []
        lines = [b"".join(self._parts), *others]
        self._parts = [lines.pop()]
        return [line.removesuffix(b"\r") for line in lines]

    @property
    def clean(self) -> bool:
        """Whether the next chunk begins a line."""
        return not any(self._parts)

    def rest(self) -> list[bytes]:
        """The last line, if it has no end."""
        line = b"".join(self._parts)
        return [line] if line else []


def _is_one_event(chunk: bytes) -> bool:
    return chunk.startswith(b"data:") and chunk.endswith(b"\n\n") and b"\r" not in chunk


class Events:
    """Splits chunks into server-sent events (WHATWG HTML, 9.2)."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of each event that ends in this chunk; what else there is in it is passed over."""
        events, data = [], self._data
        if not data and self._lines.clean and chunk.count(b"\n") == 2 and _is_one_event(chunk):
            return [chunk[5:-2].removeprefix(b" ")]  # as most servers send a token
        for line in self._lines.feed(chunk):
            if line.startswith(b"data:"):
                data.append(line.removeprefix(b"data:").removeprefix(b" "))
            elif not line and data:
                events.append(b"\n".join(data))
                data.clear()
        return events
