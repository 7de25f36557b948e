"""A mesh's messages as a diagram: what is drawn, in which order, and that no text gets out of its place."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ceylon_nb.views.mermaid import LARGEST, Diagram, plain, sequence

LINE = re.compile(
    r"(?:actor|participant) a\d+ as (?P<name>.+)|(?P<from>a\d+)(?P<arrow>->>|-\)|-->>|--x)(?P<to>a\d+): (?P<words>.+)"
    r"|Note over a\d+: (?P<note>.+)"
)
TEXT = re.compile(r"(?:#\d+;|<br/>|\w|[ .,!?'()/+*=-])+")
"""What a name or a message may be made of: anything else is a sign that Mermaid knows."""


def passage(number: int, sender: str | None, target: str, said: str = "hi", kind: str = "query", **more: Any) -> Any:
    ended = {"waited": 0.0, "latency": 0.5, "answer": None, "error": None, "tokens": None}
    at = float(more.pop("at", number))
    return SimpleNamespace(number=number, at=at, sender=sender, target=target, said=said, kind=kind, **ended | more)


def read(source: str) -> list[re.Match[str]]:
    first, *lines = source.split("\n")
    assert first == "sequenceDiagram"
    found = [LINE.fullmatch(line.strip()) for line in lines]
    assert all(found)
    return [each for each in found if each]


def unescaped(text: str) -> str:
    return re.sub(r"#(\d+);", lambda found: chr(int(found[1])), text.replace("<br/>", " "))


def names(source: str) -> list[str]:
    return [unescaped(each["name"]) for each in read(source) if each["name"]]


def test_each_message_at_its_time() -> None:
    messages = [
        passage(0, None, "boss", "plan", latency=5.0, answer="done"),
        passage(1, "boss", "clerk", "count", kind="submit", latency=2.0, answer="7"),
        passage(2, "boss", "printer", "print", kind="message", latency=0.5),
        passage(3, "clerk", "printer", "jam", kind="broadcast", latency=3.0, error="ValueError: no paper"),
        passage(4, "clerk", "clerk.look_up", "look_up(a=1)", kind="action", at=1.0, latency=0.25, answer="x"),
        passage(5, None, "clerk", "late", at=9.0, latency=None),
        passage(6, None, "clerk", "wrong", at=9.5, latency=0.1, error="KeyError: 'k'"),
    ]
    assert plain(messages).splitlines() == [
        "you → boss: plan",
        "boss → clerk: count",
        "clerk: look_up(a=1) → x",
        "boss ⇀ printer: print",
        "clerk ⇢ boss: 7",
        "clerk ⇀ printer: jam",
        "boss ⇢ you: done",
        "printer ✗ printer: ValueError: no paper",
        "you → clerk: late",
        "you → clerk: wrong",
        "clerk ✗ you: KeyError: 'k'",
    ]
    arrows = [f"{each['from']}{each['arrow']}{each['to']}" for each in read(sequence(messages)) if each["arrow"]]
    assert arrows[:4] == ["a0->>a1", "a1->>a2", "a1-)a3", "a2-->>a1"]
    assert arrows[4:] == ["a2-)a3", "a1-->>a0", "a3--xa3", "a0->>a2", "a0->>a2", "a2--xa0"]
    assert names(sequence(messages)) == ["you", "boss", "clerk", "printer"]
    assert "actor a0 as you" in sequence(messages)
    assert "Note over a2: look_up(a=1) #8594; x" in sequence(messages)


def test_equal_names_are_not_one() -> None:
    shown = sequence([passage(0, None, "you"), passage(1, "N" * 1000, "N" * 1001)])
    assert names(shown)[:2] == ["you", "you"]
    assert len(names(shown)) == 4
    assert len(set(re.findall(r"(a\d+) as", shown))) == 4


@pytest.mark.parametrize("text", ["", " ", "\u202e", "\x00", "a\nb", "end", "%%", "#", ";", "\ud800"])
def test_odd_texts_keep_their_place(text: str) -> None:
    shown = read(sequence([passage(0, text, text + "2", text, answer=text)]))
    assert len(shown) == 4


@given(st.text(st.characters(exclude_categories=()), max_size=120), st.sampled_from(["query", "message", "action"]))
def test_no_text_is_anything_but_text(text: str, kind: str) -> None:
    for each in read(sequence([passage(0, text, "b", text, kind, answer=text), passage(1, "b", text, error=text)])):
        said = each["name"] or each["words"] or each["note"]
        assert TEXT.fullmatch(said)


def test_what_was_said_can_be_read() -> None:
    said = "<script>alert('1; 2')</script> # & \"q\" %% $x$ \\n `c` | ~ ^ [a]{b} _c_ @"
    (words,) = [each["words"] for each in read(sequence([passage(0, "a", "b", said, "message")])) if each["words"]]
    assert unescaped(words) == said


def test_nothing_and_much() -> None:
    assert names(sequence([])) == [plain([])] == ["no messages yet"]
    much = [passage(n, "a", "b", f"{n} " + "<>" * 40) for n in range(5_000)]
    assert len(sequence(much)) <= LARGEST
    assert "4999" in sequence(much)


def test_what_is_shown() -> None:
    messages = [passage(0, None, "b", answer="ok")]
    diagram = Diagram(messages)
    messages.clear()
    assert diagram._repr_mimebundle_(include=None, exclude=None) == {
        "text/vnd.mermaid": str(diagram),
        "text/plain": repr(diagram),
    }
    assert repr(diagram) == "you → b: hi\nb ⇢ you: ok"


def test_of_many_agents_the_newest_are_drawn_and_the_rest_is_counted() -> None:
    ring = [passage(n, f"agent {n % 50}", f"agent {(n + 1) % 50}", str(n)) for n in range(100)]
    drawn = sequence(ring, before=1_000)
    assert len(names(drawn)) == 10
    assert "Note over a0: 1,091 earlier" in drawn
    assert "earlier" not in sequence(ring[:9])
