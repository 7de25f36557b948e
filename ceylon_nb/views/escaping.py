"""Text that others wrote, made fit to be shown: what a model, a cell or a server says is never markup.

Each function takes any object and raises nothing: what a view shows must not depend on what was said.
"""

from __future__ import annotations

import html
import re
from typing import Any

from ..messages import sendable

SHORT = 160
"""Characters of one text in a line."""

LONG = 40_000
"""Characters above which a text gets a place of its own to scroll in, and is not read as Markdown."""

_BYTES = 3
"""Of HTML a character, at the most, on average: a text of quotes or emoji is cut sooner."""

_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]{0,99}[ -/]{0,9}[@-~]"  # colours and the cursor's movements
    r"|\x1b\][^\x07\x1b]{0,999}(?:\x07|\x1b\\)"  # titles and links
    r"|\x1b[@-Z\\-_]"
)
"""What terminals obey (ECMA-48, §5)."""

_ODD = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufffe\uffff]")
"""Control characters, and what turns the direction of all that follows."""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""In the repr of an object that has none of its own."""


def plain(value: object) -> str:
    """Its text on several lines, without anything that a screen would obey."""
    text = words(value)
    text = _SEQUENCES.sub("", sendable(text)).replace("\r\n", "\n").replace("\r", "\n")
    return _ODD.sub(_visible, text)


def line(value: object, limit: int = SHORT) -> str:
    """Its text on one line, cut to so many characters."""
    text = words(value)
    text = " ".join(plain(text.lstrip()[: 20 * limit]).split())
    return text if len(text) <= limit else f"{text[: limit - 1].rstrip()}…"


_MATHEMATICS = re.compile(r"[$\\]")


def escaped(text: str) -> str:
    r"""HTML of a text in which no page finds mathematics: each of its marks stands in an element of its own.

    JupyterLab and nbconvert have MathJax typeset what they show; it would make prices of two dollars a formula, and a
    link that runs of ``\href``.
    """
    return _MATHEMATICS.sub(r"<span>\g<0></span>", html.escape(text))


def inline(value: object, limit: int = SHORT) -> str:
    """HTML: the same line, isolated from the text around it, in at most three times as many bytes."""
    text, pieces, room = line(value, limit), [], _BYTES * limit
    for character in text:
        piece = escaped(character)
        room -= len(piece.encode())
        if room < 0:
            pieces.append("…")
            break
        pieces.append(piece)
    return f"<bdi>{''.join(pieces)}</bdi>"


def verbatim(value: object) -> str:
    """HTML: the text with its lines and spaces, whole. In a ``pre`` nobody looks for mathematics."""
    style = "margin:0;font:inherit;white-space:pre-wrap;overflow-wrap:anywhere"
    if len(words(value)) > LONG:
        style += ";max-height:40em;overflow:auto"
    return f'<pre dir="auto" style="{style}">{html.escape(plain(value))}</pre>'


def _visible(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if code in (0x85, 0x2028, 0x2029):
        return "\n"
    return "" if 0x202A <= code <= 0x2069 else "\ufffd"


def words(value: Any) -> str:
    """Its text, as it says it is; also of an object that cannot."""
    if isinstance(value, str):
        return value
    try:
        return _ADDRESS.sub("", " · ".join(map(str, value)) if type(value) is tuple else str(value))
    except Exception as error:  # noqa: BLE001 - an object that cannot say what it is must not hide all the others
        return f"<{type(value).__name__}: {type(error).__name__}>"
