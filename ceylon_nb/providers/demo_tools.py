"""How ``demo::tutor`` uses tools: which of those that it is offered a prompt asks for, and with what arguments.

- A tool is asked for where the prompt has a word of its name, or two of its description's. The clauses from there to
  the next tool's are what its arguments are taken from: "the weather in Paris and in Rome" is two calls.
- What has been done is told in sentences that quote the results.

No chance is in it, and no network; the time is in proportion to the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any, NamedTuple

import orjson

from . import demo_tasks
from .demo_arguments import SUM, WORD, fill, stem, stems

__all__ = ["reply"]

_REACH = 4_000  # characters of a prompt that are read for tools and arguments
_MOST = 16  # calls of one turn
_QUOTED = 2_000  # characters of a result


def reply(messages: Sequence[Mapping[str, Any]], tools: object = None) -> dict[str, Any]:
    """Answer the last user message, or ask for what its answer needs.

    Parameters
    ----------
    messages
        The conversation, oldest first, as Ollama or OpenAI take it.
    tools
        The tools that are offered: ``[{"type": "function", "function": {"name": …, "description": …, "parameters":
        …}}]``. What is no such list offers none.

    Returns
    -------
    dict
        ``content``, and ``tool_calls``: ``[{"function": {"name": …, "arguments": {…}}}]``, empty where nothing is to be
        called. One of the two always says something, equal arguments have equal answers, and no text raises.
    """
    asked = max((at for at, message in enumerate(messages) if message.get("role") == "user"), default=-1)
    told = _told(messages[asked + 1 :])
    if told:
        return {"content": told, "tool_calls": []}
    calls: list[dict[str, Any]] = []
    lacking = ""
    prompt = _text(messages[asked])[:_REACH] if asked >= 0 else ""
    for tool, passage, place in _passages(prompt, _offered(tools)):
        made, lack = fill(tool.parameters, passage, place, tool.named)
        calls += ({"function": {"name": tool.name, "arguments": arguments}} for arguments in made)
        lacking = lacking or (f"To use {tool.name} I need: {', '.join(lack)}." if lack else "")
    if calls:
        return {"content": "", "tool_calls": calls[:_MOST]}
    said = demo_tasks.answer([{**message, "content": _text(message)} for message in messages])
    return {"content": lacking if lacking and said == demo_tasks.STAND_IN else said, "tool_calls": []}


def _text(message: Mapping[str, Any]) -> str:
    """Its text; OpenAI's may come in parts."""
    content = message.get("content")
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return str(content or "")


# ---- what has been done ----------------------------------------------------------------------------------------------


def _told(turn: Sequence[Mapping[str, Any]]) -> str:
    """What the tools gave since the last user message, in sentences; empty if none was called."""
    waiting: list[tuple[Any, str]] = []
    sentences = []
    for message in turn:
        for call in message.get("tool_calls") or ():
            waiting.append((call.get("id"), _called(call)))
        if message.get("role") == "tool":
            sentences.append(_sentence(_of(message, waiting), _text(message).strip()))
    return " ".join(sentences)


def _of(message: Mapping[str, Any], waiting: list[tuple[Any, str]]) -> str:
    """The call that this is the result of: by its id where there are ids, in order where there are none."""
    wanted = message.get("tool_call_id")
    for at, (identity, called) in enumerate(waiting):
        if wanted is None or wanted == identity:
            del waiting[at]
            return called
    return str(message.get("tool_name") or message.get("name") or "the tool")


def _called(call: Mapping[str, Any]) -> str:
    function = call.get("function") or {}
    arguments = function.get("arguments")
    if isinstance(arguments, str):  # OpenAI's way
        with suppress(ValueError):
            arguments = orjson.loads(arguments)
    if isinstance(arguments, Mapping):
        arguments = ", ".join(str(value) for value in arguments.values())
    return f"{function.get('name', 'the tool')}({arguments or ''})"


def _sentence(called: str, result: str) -> str:
    said = result if len(result) <= _QUOTED else f"{result[:_QUOTED]}…"
    if said.lower().startswith("error:"):
        sentence = f"{called} failed: {said[6:].strip()}"
    else:
        sentence = f"{called} says: {said or 'nothing'}"
    return sentence if sentence.endswith((".", "!", "?", "…")) else f"{sentence}."


# ---- which tools, and where in the prompt ----------------------------------------------------------------------------

_ALSO = {  # other words for what a tool may be called
    "add": "plus sum total +",
    "subtract": "minus difference -",
    "multiply": "times multiplied product × *",
    "divide": "divided quotient ÷ /",
    "calculate": "calculator compute arithmetic + - × * ÷ /",
    "weather": "forecast temperature rain raining sunny cold hot warm",
    "time": "clock",
    "convert": "conversion",
    "search": "find look",
}
_SIGNS = re.compile(r"[+*/×÷]|(?<=\s)-(?=\s)")  # a date has no minus


class _Tool(NamedTuple):
    name: str
    named: frozenset[str]  # stems
    described: frozenset[str]
    parameters: Mapping[str, Any]


def _offered(tools: object) -> list[_Tool]:
    offered = []
    for tool in tools if isinstance(tools, list) else ():
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            continue
        parameters = function.get("parameters")
        named = stems(function["name"])
        for word in tuple(named):
            named.update(_ALSO.get(word, "").split())
        described = stems(str(function.get("description") or "")[:_REACH].split("\n\n")[0])
        schema = parameters if isinstance(parameters, Mapping) else {}
        offered.append(_Tool(function["name"], frozenset(named), frozenset(described), schema))
    return offered


class _Hint(NamedTuple):
    """A word of the prompt, or a sum in it."""

    start: int
    end: int
    exact: frozenset[str]  # the word, or the sum's signs
    stem: str

    def means(self, names: frozenset[str]) -> bool:
        return self.exact <= names or self.stem in names


def _hints(prompt: str) -> list[_Hint]:
    words = [(found.start(), found.end(), found[0].lower()) for found in WORD.finditer(prompt)]
    hints = [_Hint(start, end, frozenset([word]), stem(word)) for start, end, word in words]
    sums = [(found.start(), found.end(), frozenset(_SIGNS.findall(found[0]))) for found in SUM.finditer(prompt)]
    hints += (_Hint(start, end, signs, "") for start, end, signs in sums if signs)
    return sorted(hints, key=lambda hint: hint.start)


def _passages(prompt: str, tools: Sequence[_Tool]) -> list[tuple[_Tool, str, int]]:
    """Each tool that the prompt asks for, with its part of it, and where in that the tool's own word ends."""
    hints = _hints(prompt)
    said = {hint.stem for hint in hints}
    places: dict[int, tuple[_Hint, _Tool]] = {}
    for tool in tools:
        hint = next((hint for hint in hints if hint.means(tool.named)), None)
        if hint is None and len(tool.described & said) >= 2:
            hint = next(hint for hint in hints if hint.stem in tool.described)
        if hint:
            before = places.setdefault(hint.start, (hint, tool))[1]
            if hint.exact <= tool.named and not hint.exact <= before.named:  # of two tools the one that is called so
                places[hint.start] = hint, tool
    order = [places[start] for start in sorted(places)]
    bounds = [_clause(prompt, one.end, other.start) for (one, _), (other, _) in pairwise(order)]
    return [
        (tool, prompt[start:end], max(hint.end - start, 0))
        for (hint, tool), start, end in zip(order, [0, *bounds], [*bounds, len(prompt)], strict=False)
    ]


def _clause(prompt: str, start: int, end: int) -> int:
    """Where, between two tools' words, what belongs to the second begins: after the last comma, stop or "and"."""
    breaks = [found.end() for found in re.finditer(r"[.,;?!\n]\s|\b(?:and|then)\b", prompt[start:end])]
    return start + breaks[-1] if breaks else start
