"""What a notebook shows of a mesh: counts that are right, text that stays text, and nothing that differs by chance."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from ceylon_nb import LlmAgent
from ceylon_nb.agents.traffic import AgentStats, Stats
from ceylon_nb.views import mesh as view

from .test_mermaid import passage
from .test_summary import HOSTILE, OBEYED, Parsed


class LocalMesh:
    """A mesh's face, and no mesh behind it."""

    def __init__(self, name: str, agents: dict[str, Any], counts: dict[str, AgentStats], passages: list[Any]) -> None:
        self.name = name
        self.agents = agents
        self.counts = counts
        self.passages = passages

    def stats(self) -> Stats:
        return Stats.of(self.counts)


class Clerk:
    pass


def counts(received: int = 0, **more: int) -> AgentStats:
    numbers = dict.fromkeys(("handled", "failed", "cancelled", "waiting", "at_work"), 0)
    return AgentStats(received, **numbers | {"mailbox": 1000, "max_at_once": 1} | more)


@pytest.fixture
def mesh() -> LocalMesh:
    agents = {"writer": LlmAgent("writer", "demo::instant"), "clerk": Clerk()}
    stats = {
        "writer": counts(1_210, handled=1_200, waiting=7, at_work=3, max_at_once=4),
        "clerk": counts(12, handled=2, failed=9, cancelled=1),
    }
    passages = [passage(n, None, "clerk", f"message {n}", answer=f"answer {n}") for n in range(3, 10)]
    passages += [passage(10, "clerk", "writer", latency=None), passage(11, "clerk", "clerk", error="ValueError: no")]
    return LocalMesh("office", agents, stats, passages)


def test_it_says_how_the_mesh_stands(mesh: LocalMesh) -> None:
    assert view.text(mesh) == (
        "LocalMesh('office', 2 agents, 1,222 messages: 1,202 answered, 9 failed, 1 cancelled, 7 waiting, 3 at work)"
    )
    shown = Parsed(view.html(mesh)).text
    head = "office · 2 agents · 1,222 messages: 1,202 answered, 9 failed, 1 cancelled, 7 waiting, 3 at work"
    assert shown.startswith(head + "agent|kind|at once|waiting|at work|handled|failed|")
    assert "writer|demo::instant|4|7|3|1,200|0|clerk|Clerk|1|0|0|2|9|" in shown
    assert "message 5" not in shown
    assert "you|clerk|message 6|answer 6|0.5 s|" in shown
    assert "clerk|writer|hi|at work||clerk|clerk|hi|ValueError: no|0.5 s|" in shown


def test_only_times_differ(mesh: LocalMesh) -> None:
    before = view.text(mesh), view.html(mesh)
    for each in mesh.passages:
        each.latency = each.latency and each.latency / 1_000
        each.at += 1e6
    after = view.text(mesh), view.html(mesh)
    assert before != after
    timeless = re.compile(r'<span class="ceylon-nb-time">[^<]*</span>')
    assert [timeless.sub("", text) for text in before] == [timeless.sub("", text) for text in after]
    assert before[0] == after[0]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_whatever_is_said_is_text(text: str) -> None:
    said = [passage(n, text, text, text, answer=text, error=text if n else None) for n in range(2)]
    mesh = LocalMesh(text, {text: SimpleNamespace(model=text)}, {text: counts(3, failed=3)}, said)
    shown = Parsed(view.html(mesh))
    assert shown.tags <= {"div", "b", "table", "thead", "tbody", "tr", "th", "td", "span", "bdi"}
    assert {name for _, attributes in shown.elements for name in attributes} <= {
        "style",
        "class",
        "scope",
        "aria-label",
    }
    assert not OBEYED.search(shown.text)
    assert not OBEYED.search(view.text(mesh))
    assert "3 failed" in shown.text
    assert len(view.html(mesh)) < 20_000


def test_a_mesh_of_nobody() -> None:
    mesh = LocalMesh("mesh", {}, {}, [])
    assert view.text(mesh) == "LocalMesh('mesh', 0 agents, 0 messages)"
    assert Parsed(view.html(mesh)).text == "mesh · 0 agents · 0 messages"


def test_of_many_agents_those_are_shown_that_have_most_to_do() -> None:
    stats = {f"agent-{n}": counts(n, waiting=n) for n in range(1_000)}
    shown = view.html(LocalMesh("mesh", {name: Clerk() for name in stats}, stats, []))
    assert "agent-979" not in shown
    assert shown.index("agent-980") < shown.index("agent-999")
    assert "… 980 more agents" in shown
    assert len(shown) < 40_000


def test_an_agent_that_was_just_removed_does_not_break_it(mesh: LocalMesh) -> None:
    del mesh.agents["clerk"]
    assert "clerk" in view.html(mesh)
