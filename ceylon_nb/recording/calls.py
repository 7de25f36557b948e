"""What a recording says of actions: the tools that are offered, the calls, and what came of them.

Without the ids of calls, which mean nothing: results come in the order of the calls that they are of.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from ..messages import CallsMessage, Message, ResultMessage, Tool, ToolCall, sendable

Called: TypeAlias = tuple[str, Mapping[str, Any] | str]
"""An action's name, and the arguments of a call."""


def tool(offered: Tool) -> str:
    """A tool as JSON, the same for the same tool."""
    return _json(
        {"name": offered.name, "description": offered.description, "parameters": offered.parameters},
    )


def turn(message: Message) -> tuple[str, ...]:
    """A message as it can be compared: content, role, and as JSON the calls it makes, or the action it answers."""
    match message:
        case CallsMessage(role, content, calls):
            made = [{"name": call.name, "arguments": call.arguments} for call in calls]
            return content, role, _json({"tool_calls": made})
        case ResultMessage(role, content, call):
            return content, role, _json({"name": call.name})
    return message.content, message.role


def message_fields(turned: Sequence[str]) -> dict[str, Any]:
    """A turn as its line says it."""
    content, role, *more = turned
    fields = {"role": role, "content": content}
    for said in more:
        fields |= json.loads(said)
    return fields


def message(fields: object) -> Message:
    """The message that a line says.

    Raises
    ------
    ValueError
        It is none.
    """
    match fields:
        case {"role": str(role), "content": str(content), "tool_calls": list(made)}:
            return CallsMessage(role, content, numbered(map(called, made)))
        case {"role": "tool" as role, "content": str(content), "name": str(name)}:
            return ResultMessage(role, content, ToolCall("", name, {}))
        case {"role": str(role), "content": str(content)}:
            return Message(role, content)
    raise ValueError('its \'messages\' are {"role": …, "content": …}')


def tool_of(fields: object) -> Tool:
    """The tool that a line says.

    Raises
    ------
    ValueError
        It is none.
    """
    match fields:
        case {"name": str(name), "description": str(description), "parameters": dict(parameters)}:
            return Tool(name, description, parameters)
    raise ValueError('its \'tools\' are {"name": …, "description": …, "parameters": {…}}')


def called(fields: object) -> Called:
    """The call that a line says.

    Raises
    ------
    ValueError
        It is none.
    """
    match fields:
        case {"name": str(name), "arguments": dict() | str() as arguments}:
            return name, arguments
    raise ValueError('its \'tool_calls\' are {"name": …, "arguments": {…}}')


def kept(calls: Iterable[ToolCall], hide: Callable[[str], str]) -> tuple[Called, ...]:
    """What is kept of calls: not what must be hidden."""
    return tuple((call.name, json.loads(sendable(hide(_plain(call.arguments))))) for call in calls)


def numbered(calls: Iterable[Called], before: int = 0) -> tuple[ToolCall, ...]:
    """The calls again, numbered from those on that were made before."""
    return tuple(ToolCall(f"call_{n}", *call) for n, call in enumerate(calls, start=before))


def _plain(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
