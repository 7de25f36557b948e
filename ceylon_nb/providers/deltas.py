"""The pieces of a streamed answer, and how they become a Reply."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .. import errors
from ..messages import Reply, ToolCall, Usage


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a streamed answer: text, or what is known at its end.

    Attributes
    ----------
    text : str
        What is said next; may be empty.
    model : str or None
        The model that answers, by its server's name for it.
    finish_reason : str or None
        Why it ends, in the server's words; None before that.
    usage : Usage or None
        Tokens, if this piece says so.
    raw : bytes
        The server's own JSON, of the last piece.
    tool_calls : tuple of ToolCall
        Whole ones; the fragments that some servers send are put together before.
    reply : Reply or None
        The whole answer, from whoever has put it together: of several rounds the last one's text.
    """

    text: str = ""
    model: str | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    raw: bytes = b""
    tool_calls: tuple[ToolCall, ...] = ()
    reply: Reply | None = None


class Gathering:
    """Folds the pieces of a stream, as they come, into the Reply that they were. It keeps their texts, not them.

    Attributes
    ----------
    texts : list of str
        What was said so far.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._calls: list[ToolCall] = []
        self._model: str | None = None
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self._raw = b""
        self._reply: Reply | None = None

    def add(self, delta: Delta) -> None:
        """Take a piece in."""
        if delta.text:
            self.texts.append(delta.text)
        if delta.model is not None:
            self._model = delta.model
        if delta.finish_reason or delta.usage or delta.raw or delta.tool_calls or delta.reply is not None:
            self._calls += delta.tool_calls
            self._finish_reason = delta.finish_reason or self._finish_reason
            self._usage = delta.usage or self._usage
            self._raw = delta.raw or self._raw
            self._reply = delta.reply if self._reply is None else self._reply

    def reply(self, hide: Callable[[str], str] = str) -> Reply:
        """The whole, without what `hide` hides.

        Raises
        ------
        EmptyReply
            There is no text in it, and no action is asked for.
        """
        if self._reply is not None:
            return self._reply
        said = hide("".join(self.texts))
        if not said and not self._calls:
            raise errors.EmptyReply("{}. {}".format(*no_text(self._finish_reason)))
        return Reply(
            said,
            model=self._model,
            finish_reason=self._finish_reason,
            usage=self._usage,
            raw=self._raw,
            tool_calls=tuple(self._calls),
        )


def gather_stream(deltas: Iterable[Delta]) -> Reply:
    """Fold a stream's pieces into the Reply that they were.

    Raises
    ------
    EmptyReply
        There is no text in them, and no action is asked for.
    """
    gathering = Gathering()
    for delta in deltas:
        gathering.add(delta)
    return gathering.reply()


def no_text(finish_reason: str | None) -> tuple[str, str]:
    """What is said of an answer without text, and what to do."""
    said = f"The model answered without any text (finish_reason: {finish_reason or 'not given'})"
    return said, "Raise max_tokens." if finish_reason == "length" else "Ask otherwise."
