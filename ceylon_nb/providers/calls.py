"""Calls of actions on the wire: what all formats share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from ..messages import Message, ResultMessage, Tool, ToolCall, decode_json


def offer(tools: Iterable[Tool]) -> list[dict[str, Any]]:
    """What a model is told of actions, as every wire format of today says it."""
    return [{"type": "function", "function": tool} for tool in tools]


def count_calls(messages: Iterable[Message]) -> int:
    """How many calls were made so far: those that a server gives no id are numbered from there on."""
    return sum(isinstance(message, ResultMessage) for message in messages)


def parse_call(found: object, number: int) -> ToolCall:
    """One call from the wire, by its own id, or by its number.

    Raises
    ------
    ValueError
        It is none.
    """
    match found:
        case {"function": {"name": str(name)} as function, **others} if name:
            given = others.get("id")
            known_by = given if isinstance(given, str) and given else f"call_{number}"
            return ToolCall(known_by, name, parse_arguments(function.get("arguments")))
    raise ValueError("no call of an action")


def parse_arguments(arguments: object) -> Mapping[str, Any] | str:
    """The arguments of a call, as they come: an object, its JSON, nothing; or, as it is, what is none of these."""
    found = arguments
    if isinstance(arguments, str):
        try:
            found = decode_json(arguments.encode()) if arguments.strip() else None
        except (ValueError, RecursionError):
            return arguments
    if found is None:
        return {}
    return found if isinstance(found, dict) else orjson.dumps(found).decode()
