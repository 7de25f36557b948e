"""What is said to a model and what comes back: Message, Reply, Usage; what it may have done: Tool, ToolCall, Done."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson

from .errors import EmptyPrompt, InvalidItem


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Parameters
    ----------
    role : str
        ``"system"``, ``"user"`` or ``"assistant"``.
    content : str
        What was said.

    Examples
    --------
    >>> from ceylon_nb import LlmAgent, Message
    >>> question = [Message("system", "Classify the review."), Message("user", "Awful smell.")]
    >>> await LlmAgent("clerk", "demo::tutor").send_message(question)
    'negative'
    """

    role: str
    content: str


# -- actions, as a model knows them ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tool:
    """What a model is told of an action.

    Attributes
    ----------
    name : str
        As the model calls it.
    description : str
        What it does, and when to call it.
    parameters : Mapping
        JSON schema of the arguments, of type ``object``.
    """

    name: str
    description: str
    parameters: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """What a model wants done.

    Attributes
    ----------
    id : str
        What its result is known by.
    name : str
        The action's.
    arguments : Mapping or str
        By name; what the model wrote, where that is no JSON object.
    """

    id: str
    name: str
    arguments: Mapping[str, Any] | str = field(hash=False)

    def __str__(self) -> str:
        given = self.arguments
        if not isinstance(given, str):
            given = ", ".join(f"{name}={value!r}" for name, value in given.items())
        return f"{self.name}({given})"


@dataclass(frozen=True, slots=True)
class CallsMessage(Message):
    """A model's turn that calls actions; role ``"assistant"``, and what it said beside.

    Attributes
    ----------
    calls : tuple of ToolCall
        What it wants done.
    """

    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class ResultMessage(Message):
    """What came of one call, role ``"tool"``; the content is what the model is told of it.

    Attributes
    ----------
    call : ToolCall
        The call.
    """

    call: ToolCall


@dataclass(frozen=True, slots=True)
class Done:
    """One call of an action, and what came of it; `Reply.actions` is a tuple of these.

    Attributes
    ----------
    call : ToolCall
        What the model asked for.
    result : str
        What the model was told of it.
    error : str or None
        What went wrong, as ``"ValueError: no such city"``; None if nothing did.
    latency : float
        Seconds that it took.
    round : int
        In which of the model's turns it was asked for, from 1.
    """

    call: ToolCall
    result: str
    error: str | None
    latency: float
    round: int

    def __str__(self) -> str:
        return f"{self.call} → {self.result}"


# -- prompts and replies ---------------------------------------------------------------------------------------------


Prompt: TypeAlias = str | Iterable[Message | Mapping[str, str]]
"""One question, or the messages of a whole conversation."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the server counted them.

    Attributes
    ----------
    input_tokens : int or None
        Tokens of the prompt, the system prompt included; None where the server did not say.
    output_tokens : int or None
        Tokens of the reply; None likewise.

    Examples
    --------
    >>> from ceylon_nb import LlmAgent
    >>> reply = await LlmAgent("clerk", "demo::tutor", system_prompt="Classify the review.").send_message("Fine.")
    >>> reply.usage
    Usage(input_tokens=4, output_tokens=1)
    """

    input_tokens: int | None = None
    output_tokens: int | None = None


UNKNOWN = Usage()


class Text(str):
    """A ``str`` that a notebook shows as text, not as a quoted repr; inside a list or a dict, quoted as usual."""

    __slots__ = ()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self) if len(printer.stack) == 1 else repr(str(self)))


class Reply(Text):
    """A model's answer: a ``str`` that also knows how it came about.

    As the last line of a cell it shows its text; in a list or a dict, quoted, as any text.

    Parameters
    ----------
    text : str
        What the model said.
    usage : Usage, optional
        Tokens in and out; unknown unless told.
    model : str, optional
        The model that answered, by its server's name for it.
    latency : float, optional
        Seconds, of the last attempt.
    finish_reason : str, optional
        ``"stop"``, ``"length"``, … in the server's words.
    attempts : int
        Requests it took.
    raw : bytes
        The server's own JSON.
    tool_calls : tuple of ToolCall
        The actions that the model asks for.
    actions : tuple of Done
        What was done on the way.

    Attributes
    ----------
    usage : Usage
        Tokens in and out.
    model : str or None
        The model that answered, by its server's name for it.
    latency : float or None
        Seconds, of the last attempt.
    finish_reason : str or None
        ``"stop"``, ``"length"``, … in the server's words.
    attempts : int
        Requests it took; the further rounds of a model that calls actions are no further attempts.
    tool_calls : tuple of ToolCall
        The actions that the model asks for; they are done before an agent's user sees the reply, and then there are
        none.
    actions : tuple of Done
        What was done on the way. Tokens, attempts and seconds are those of the whole way, then.

    Examples
    --------
    >>> from ceylon_nb import LlmAgent
    >>> reply = await LlmAgent("clerk", "demo::tutor", system_prompt="Classify the review.").send_message("Fine.")
    >>> reply.upper(), isinstance(reply, str), reply.attempts, reply.latency > 0
    ('POSITIVE', True, 1, True)
    >>> reply.raw["message"]["content"]
    'positive'

    An ``async def (messages)`` in a model's place may return one, and say what it knows:

    >>> from ceylon_nb import Reply, Usage
    >>> async def ask(messages):
    ...     return Reply("Yes.", usage=Usage(input_tokens=3, output_tokens=1))
    >>> reply = await LlmAgent("mine", ask).send_message("Is it so?")
    >>> reply.usage.input_tokens
    3
    """

    __slots__ = ("_raw", "actions", "attempts", "finish_reason", "latency", "model", "tool_calls", "usage")

    usage: Usage
    model: str | None
    latency: float | None
    finish_reason: str | None
    attempts: int
    tool_calls: tuple[ToolCall, ...]
    actions: tuple[Done, ...]
    _raw: bytes

    def __new__(  # noqa: D102 - the class tells
        cls,
        text: str,
        *,
        usage: Usage | None = None,
        model: str | None = None,
        latency: float | None = None,
        finish_reason: str | None = None,
        attempts: int = 1,
        raw: bytes = b"",
        tool_calls: tuple[ToolCall, ...] = (),
        actions: tuple[Done, ...] = (),
    ) -> Reply:
        self = super().__new__(cls, text)
        self.usage = usage or UNKNOWN
        self.model = model
        self.latency = latency
        self.finish_reason = finish_reason
        self.attempts = attempts
        self.tool_calls = tool_calls
        self.actions = actions
        self._raw = raw
        return self

    @property
    def raw(self) -> Any:
        """The server's own JSON, decoded; of a stream, its last object; None where there is none."""
        return decode_json(self._raw) if self._raw else None

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        fields = {name: getattr(self, name) for name in self.__slots__ if name != "_raw"}
        return (str(self),), {**fields, "raw": self._raw}

    def __getstate__(self) -> None:
        return None  # __getnewargs_ex__ says it all


def decode_json(data: bytes) -> Any:
    """Decode JSON that a server sent, half surrogate pairs as U+FFFD.

    orjson, SQLite and pandas refuse half a surrogate pair; some servers send one when a token ends inside an emoji.

    Raises
    ------
    ValueError
        It is not JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return _mended(json.loads(data))


def sendable(text: str) -> str:
    """The same text, lone surrogates as U+FFFD: UTF-8 has no way to say them."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return sendable(value)
    if isinstance(value, list):
        return [_mended(each) for each in value]
    if isinstance(value, dict):
        return {_mended(key): _mended(each) for key, each in value.items()}
    return value


def as_text(prompt: Prompt) -> str:
    """A prompt as it is shown: the text itself; of messages, each after its role."""
    if isinstance(prompt, str):
        return prompt
    turns = _messages(prompt)
    return turns[0].content if len(turns) == 1 else "\n".join(f"{turn.role}: {turn.content}" for turn in turns)


ROLES = ("system", "user", "assistant")


def as_messages(prompt: Prompt, system_prompt: str | None = None) -> tuple[Message, ...]:
    """Turn a prompt into messages, the system prompt first.

    Raises
    ------
    EmptyPrompt
        There is no text to send.
    InvalidItem
        Neither text nor messages.
    """
    turns = (Message("user", sendable(prompt)),) if isinstance(prompt, str) else tuple(_messages(prompt))
    if not turns or not turns[-1].content.strip():
        raise EmptyPrompt("The prompt is empty, so it was not sent. Fill the cell, or drop the row.")
    if system_prompt and turns[0].role != "system":
        return (Message("system", sendable(system_prompt)), *turns)
    return turns


def _messages(prompt: Iterable[Message | Mapping[str, str]]) -> list[Message]:
    if isinstance(prompt, (bytes, Mapping)) or not isinstance(prompt, Iterable):
        raise InvalidItem(f"A prompt is a str or a list of messages, not {type(prompt).__name__}.")
    return [_message(turn) for turn in prompt]


def _message(turn: object) -> Message:
    match turn:
        case Message(role=str(role), content=str(content)) | {"role": str(role), "content": str(content)}:
            if role in ROLES:
                return Message(role, sendable(content))
            raise InvalidItem(f"A message's role is one of {', '.join(ROLES)}, not {role!r}.")
    raise InvalidItem(
        f'A message is a Message or {{"role": "user", "content": "…"}} with text in both, not {type(turn).__name__}.'
    )
