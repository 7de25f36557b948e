"""One answer, one line of JSON: what is asked, and what came back.

The fields always come in the same order and defaults are left out, so that a diff shows what changed and nothing else:
no dates, no latencies, no addresses but in what an error says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from .. import errors
from ..messages import Message, Reply, Tool, Usage, sendable
from ..providers.deltas import Delta
from . import calls


class Question(NamedTuple):
    """What is asked, and of which model; not where, nor with which key. In the order of its fields a file is sorted.

    Attributes
    ----------
    model : str
        ``provider::model-name``.
    system, temperature, max_tokens : tuple
        Of one value, or empty where there is none: these can be compared, None cannot.
    turns : tuple of (content, role) or (content, role, calls)
        The messages, without a system prompt at their head; what one says of actions is JSON.
    tools : tuple of str
        The actions that the model may call, each as JSON.
    """

    model: str
    system: tuple[str, ...]
    turns: tuple[tuple[str, ...], ...]
    temperature: tuple[float, ...] = ()
    max_tokens: tuple[int, ...] = ()
    tools: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        model: str,
        messages: Sequence[Message],
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: Sequence[Tool] = (),
    ) -> Question:
        """The question that these messages are."""
        system = tuple(message.content for message in messages[:1] if message.role == "system")
        return cls(
            model,
            system,
            tuple(map(calls.turn, messages[len(system) :])),
            () if temperature is None else (temperature,),
            () if max_tokens is None else (max_tokens,),
            tuple(map(calls.tool, tools)),
        )

    @property
    def text(self) -> str:
        """The turns, to be read."""
        match self.turns:
            case ((text, "user"),):
                return text
        return "\n\n".join(f"{role}: {' '.join([content, *calls])}" for content, role, *calls in self.turns)


Key = tuple[Question, int]
"""A question, and how many times it was asked before."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error, as a recording keeps it."""

    kind: str
    message: str
    status: int | None = None
    body: str = ""
    url: str = ""
    retry_after: float | None = None

    @classmethod
    def of(cls, error: Exception, hide: Callable[[str], str]) -> Failure:
        """What a recording keeps of an error."""
        kind, message = type(error).__name__, sendable(hide(str(error)))
        if not isinstance(error, errors.RequestError):
            return cls(kind, message)
        body, url = sendable(hide(error.body)), hide(error.url)
        return cls(kind, message, error.status, body, url, error.retry_after)

    def error(self) -> errors.RequestError:
        """The same error again; one that is not of this library is a RequestError that names it."""
        kind, message = getattr(errors, self.kind, None), self.message
        if not (isinstance(kind, type) and issubclass(kind, errors.RequestError)):
            kind, message = errors.RequestError, f"{self.kind}: {message}"
        return kind(message, status=self.status, body=self.body, url=self.url, retry_after=self.retry_after)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What came back.

    Attributes
    ----------
    reply : str or None
        The text; None where there is but a failure.
    pieces : tuple of str or None
        The text as it came, if it was streamed.
    left_early : bool
        The reader left the stream before its end.
    model : str or None
        The model that answered, by its server's name for it.
    tool_calls : tuple of (name, arguments)
        The actions that it asks for.
    """

    reply: str | None = None
    pieces: tuple[str, ...] | None = None
    left_early: bool = False
    finish_reason: str | None = None
    usage: Usage = field(default_factory=Usage)
    model: str | None = None
    attempts: int = 1
    failure: Failure | None = None
    tool_calls: tuple[calls.Called, ...] = ()

    @classmethod
    def whole(cls, reply: Reply, hide: Callable[[str], str]) -> Recorded:
        """What is kept of a reply."""
        text, asked_for = sendable(hide(str(reply))), calls.kept(reply.tool_calls, hide)
        return cls(
            text, None, False, reply.finish_reason, reply.usage, reply.model, reply.attempts, tool_calls=asked_for
        )

    @classmethod
    def streamed(cls, deltas: Sequence[Delta], attempts: int, hide: Callable[[str], str]) -> Recorded:
        """What is kept of a stream; what must be hidden may lie across several pieces, and joins them."""
        pieces = tuple(delta.text for delta in deltas if delta.text)
        text = "".join(pieces)
        shown = sendable(hide(text))
        asked_for = calls.kept([call for delta in deltas for call in delta.tool_calls], hide)
        recorded = cls(shown, pieces if shown == text else (shown,), attempts=attempts, tool_calls=asked_for)
        for delta in deltas:
            recorded = replace(
                recorded,
                finish_reason=delta.finish_reason or recorded.finish_reason,
                usage=delta.usage or recorded.usage,
                model=delta.model or recorded.model,
            )
        return recorded

    def as_reply(self, calls_before: int = 0) -> Reply:
        """The reply that it was; it took no time, and what the server sent beside it is gone.

        The calls are numbered anew, from those on that were made before: the ids that a server gives mean nothing.
        """
        return Reply(
            self.reply or "",
            usage=self.usage,
            model=self.model,
            latency=0.0,
            finish_reason=self.finish_reason,
            attempts=self.attempts,
            tool_calls=calls.numbered(self.tool_calls, calls_before),
        )

    def as_deltas(self, calls_before: int = 0) -> Iterator[Delta]:
        """The pieces as they came; all in one if it was not streamed."""
        for piece in (self.reply or "",) if self.pieces is None else self.pieces:
            yield Delta(piece, self.model)
        if not self.left_early and self.failure is None:
            asked_for = calls.numbered(self.tool_calls, calls_before)
            yield Delta("", self.model, self.finish_reason, self.usage, tool_calls=asked_for)


# -- writing and reading ---------------------------------------------------------------------------------------------


def dump(key: Key, recorded: Recorded) -> bytes:
    """The line of an answer, its end included."""
    return json.dumps(dict(_fields(*key, recorded)), ensure_ascii=False).encode() + b"\n"


def _fields(question: Question, occurrence: int, recorded: Recorded) -> Iterator[tuple[str, object]]:
    yield "model", question.model
    for system in question.system:
        yield "system", system
    match question.turns:
        case ((text, "user"),):
            yield "prompt", text
        case turns:
            yield "messages", list(map(calls.message_fields, turns))
    for temperature in question.temperature:
        yield "temperature", temperature
    for max_tokens in question.max_tokens:
        yield "max_tokens", max_tokens
    if question.tools:
        yield "tools", list(map(json.loads, question.tools))
    if occurrence:
        yield "occurrence", occurrence
    if recorded.reply is not None:
        yield "reply", recorded.reply
    if recorded.pieces is not None:
        yield "pieces", recorded.pieces
    if recorded.tool_calls:
        yield "tool_calls", [{"name": name, "arguments": arguments} for name, arguments in recorded.tool_calls]
    if recorded.left_early:
        yield "left_early", True
    usage = recorded.usage
    for name, value in (
        ("finish_reason", recorded.finish_reason),
        ("input_tokens", usage.input_tokens),
        ("output_tokens", usage.output_tokens),
    ):
        if value is not None:
            yield name, value
    if recorded.model != _name(question.model) and recorded.failure is None:
        yield "answered_by", recorded.model
    if recorded.attempts != 1:
        yield "attempts", recorded.attempts
    if recorded.failure is not None:
        yield "error", dict(_failure_fields(recorded.failure))


def _failure_fields(failure: Failure) -> Iterator[tuple[str, object]]:
    yield "kind", failure.kind
    yield "message", failure.message
    for name in ("status", "body", "url", "retry_after"):
        value = getattr(failure, name)
        if value not in (None, ""):
            yield name, value


def _name(model: str) -> str:
    return model.partition("::")[2]


_NUMBER = (int, float)
_KINDS: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "system": (str,),
    "prompt": (str,),
    "messages": (list,),
    "temperature": _NUMBER,
    "max_tokens": (int,),
    "tools": (list,),
    "occurrence": (int,),
    "reply": (str,),
    "pieces": (list,),
    "tool_calls": (list,),
    "left_early": (bool,),
    "finish_reason": (str,),
    "input_tokens": (int,),
    "output_tokens": (int,),
    "answered_by": (str, type(None)),
    "attempts": (int,),
    "error": (dict,),
}
_FAILURE_KINDS: dict[str, tuple[type, ...]] = {
    "kind": (str,),
    "message": (str,),
    "status": (int,),
    "body": (str,),
    "url": (str,),
    "retry_after": _NUMBER,
}


def parse(line: bytes) -> tuple[Key, Recorded]:
    """The answer that a line holds.

    Raises
    ------
    ValueError
        It holds none; the text says why.
    """
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check(fields, _KINDS)
    if "model" not in fields or ("prompt" in fields) == ("messages" in fields):
        raise ValueError("it needs 'model', and either 'prompt' or 'messages'")
    model = fields["model"]
    messages = [Message("system", fields["system"])] if "system" in fields else []
    messages += [Message("user", fields["prompt"])] if "prompt" in fields else map(calls.message, fields["messages"])
    tools = [calls.tool_of(each) for each in fields.get("tools", ())]
    question = Question.of(model, messages, fields.get("temperature"), fields.get("max_tokens"), tools)
    return (question, fields.get("occurrence", 0)), _recorded(fields, _name(model))


def _recorded(fields: Mapping[str, Any], name: str) -> Recorded:
    failure, pieces = fields.get("error"), fields.get("pieces")
    if failure is not None:
        _check(failure, _FAILURE_KINDS)
    if failure is not None and not {"kind", "message"} <= failure.keys():
        raise ValueError("its 'error' needs 'kind' and 'message'")
    if failure is None and "reply" not in fields:
        raise ValueError("it needs 'reply' or 'error'")
    if pieces is not None and not all(isinstance(piece, str) for piece in pieces):
        raise ValueError("its 'pieces' are texts")
    return Recorded(
        fields.get("reply"),
        None if pieces is None else tuple(pieces),
        fields.get("left_early", False),
        fields.get("finish_reason"),
        Usage(fields.get("input_tokens"), fields.get("output_tokens")),
        None if failure is not None else fields.get("answered_by", name),
        fields.get("attempts", 1),
        None if failure is None else Failure(**failure),
        tuple(map(calls.called, fields.get("tool_calls", ()))),
    )


def _check(fields: object, kinds: Mapping[str, tuple[type, ...]]) -> None:
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - what is wrong is the text, not the caller's type
    for name, value in fields.items():
        if name not in kinds:
            raise ValueError(f"{name!r} is not known to this version of ceylon_nb")
        if type(value) not in kinds[name]:
            raise ValueError(f"{name!r} is no {kinds[name][0].__name__}")
