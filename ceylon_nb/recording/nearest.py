"""What to say of a question that is not recorded: the nearest one that is, and the difference."""

from __future__ import annotations

import difflib
import operator
import re
from bisect import bisect
from collections.abc import Collection, Sequence

from .lines import Key, Question

LOOK_AT = 5_000
"""Recorded questions that are compared, those next to it in sorted order: a search takes less than a second."""

COMPARED = 500
"""Characters of a long text that are compared to find the nearest, at its beginning and again at its end."""

TOKENS = 600
"""Words, else lines, that are told apart one by one where two texts differ; beyond, all is one difference."""

SHOWN = 60
"""Characters of what is equal that are shown on either side of a difference."""

CHANGED = 400
"""Characters of one difference that are shown."""


def missing(path: str, key: Key, recorded: Collection[Key] | None, advice: str) -> str:
    """What is said of a question that is not recorded.

    Parameters
    ----------
    recorded : collection of Key, optional
        The questions that are, to look for the nearest.
    advice : str
        How to record it.
    """
    question, _ = key
    lines = [f"{path} holds no answer of {question.model} to:", _quote(question.text)]
    if recorded is not None:
        lines.append(explain(key, recorded))
    return "\n".join([*lines, f"Nothing was sent. To record it: {advice}."])


def broken_off(path: str, key: Key, advice: str) -> str:
    """What is said of a stream that was left early when it was recorded, and is read on."""
    question, _ = key
    return (
        f"{path} holds but the beginning of {question.model}'s answer, as the stream was left early, to:\n"
        f"{_quote(question.text)}\n"
        f"Nothing was sent. To record it whole, delete its line from the file, then: {advice}."
    )


def explain(key: Key, recorded: Collection[Key]) -> str:
    """Lines for the reader: how the question differs from what is recorded.

    Parameters
    ----------
    key : Key
        The question that is not recorded.
    recorded : collection of Key
        Those that are.
    """
    question, occurrence = key
    times = sum(each == question for each, _ in recorded)
    if times:
        return f"It is recorded {_times(times)}, and was asked for a {_ordinal(max(times, occurrence) + 1)} time."
    questions = sorted({each for each, _ in recorded})
    same = [each for each in questions if each.turns == question.turns]
    if same:
        closest = min(same, key=lambda each: (sum(map(operator.ne, each, question)), each.model != question.model))
        return "\n".join(["The same prompt is recorded with other settings.", *_settings(closest, question)])
    place = bisect(questions, question)
    around = questions[max(0, place - LOOK_AT // 2) : place + LOOK_AT // 2]
    if not around:
        return "The recording is empty."
    grams = _trigrams(question.text)
    closest = max(around, key=lambda each: (each.model == question.model, _alike(grams, _trigrams(each.text))))
    shown = _indented(difference(closest.text, question.text))
    heading = "The nearest recorded prompt, with what is [-recorded-] and what is {+asked+}:"
    return "\n".join([heading, shown, *_settings(closest, question)])


def difference(recorded: str, asked: str) -> str:
    """Both texts in one: ``[-only recorded-]``, ``{+only asked+}``, long stretches that are equal shortened."""
    head = _common(recorded, asked)
    tail = _common(recorded[head:][::-1], asked[head:][::-1])
    head, tail = _to_word(recorded, asked, head, tail)
    a, b = _split(recorded[head : len(recorded) - tail], asked[head : len(asked) - tail])
    parts = [recorded[:head]]
    equal = [True]
    for tag, i, j, k, m in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        gone, new = "".join(a[i:j]), "".join(b[k:m])
        parts.append(gone if tag == "equal" else _change(gone, new))
        equal.append(tag == "equal")
    parts.append(recorded[len(recorded) - tail :])
    equal.append(True)
    last = len(parts) - 1
    return "".join(
        _around(part, first=n == 0, last=n == last) if same else part
        for n, (part, same) in enumerate(zip(parts, equal, strict=True))
    )


def _change(gone: str, new: str) -> str:
    return (f"[-{_short(gone, CHANGED)}-]" if gone else "") + (f"{{+{_short(new, CHANGED)}+}}" if new else "")


def _common(one: str, other: str) -> int:
    """How many characters are the same at the beginning."""
    shortest = min(len(one), len(other))
    return next((n for n in range(shortest) if one[n] != other[n]), shortest)


def _to_word(one: str, other: str, head: int, tail: int) -> tuple[int, int]:
    """Give back what would tear a word in two."""
    while head and one[head - 1].isalnum():
        head -= 1
    while tail and one[len(one) - tail].isalnum():
        tail -= 1
    return head, tail


def _split(one: str, other: str) -> tuple[Sequence[str], Sequence[str]]:
    for pattern in (r"\w+|\s+|[^\w\s]", r"[^\n]*\n|[^\n]+"):
        a, b = re.findall(pattern, one), re.findall(pattern, other)
        if max(len(a), len(b)) <= TOKENS:
            return a, b
    return [one], [other]


def _around(text: str, *, first: bool, last: bool) -> str:
    """An equal stretch, as far as it lies next to a difference."""
    if len(text) <= 2 * SHOWN:
        return text
    return ("" if first else text[:SHOWN]) + " … " + ("" if last else text[-SHOWN:])


def _quote(text: str) -> str:
    """A text to show: indented, not too long, and without anything that a terminal would obey."""
    return _indented(_short(text, 2 * CHANGED))


def _short(text: str, longest: int) -> str:
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]} … {text[-half:]}"


def _indented(text: str) -> str:
    lines = text.split("\n")
    return "\n".join(
        "    " + "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in each) for each in lines
    )


def _settings(recorded: Question, asked: Question) -> list[str]:
    """A line for each setting that differs."""
    lines = []
    for name in ("model", "temperature", "max_tokens"):
        old, new = (_value(getattr(each, name)) for each in (recorded, asked))
        if old != new:
            lines.append(f"{name}: recorded {old}, asked {new}")
    if recorded.tools != asked.tools:
        shown = difference("\n".join(recorded.tools), "\n".join(asked.tools))
        lines += ["actions, with what is [-recorded-] and what is {+asked+}:", _indented(shown)]
    if recorded.system != asked.system:
        shown = difference("".join(recorded.system), "".join(asked.system))
        lines += ["system prompt, with what is [-recorded-] and what is {+asked+}:", _indented(shown)]
    return lines


def _value(value: str | tuple[float, ...]) -> str:
    if isinstance(value, str):
        return value
    return f"{value[0]:g}" if value else "none"


def _trigrams(text: str) -> frozenset[str]:
    if len(text) > 2 * COMPARED:
        text = text[:COMPARED] + text[-COMPARED:]
    return frozenset(text[n : n + 3] for n in range(max(1, len(text) - 2)))


def _alike(one: frozenset[str], other: frozenset[str]) -> float:
    """From 0 to 1: how many of their trigrams two texts share (L. R. Dice, Ecology 26, 1945)."""
    return 2 * len(one & other) / (len(one) + len(other))


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if 10 < number % 100 < 14 else ending}"
