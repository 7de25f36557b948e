"""What a notebook shows of a mesh: its agents, what waits for them, and the newest messages. No script, no state.

It says how things stood when it was shown; shown again, it says how they stand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .escaping import inline, line
from .mermaid import YOU

if TYPE_CHECKING:
    from ..agents.mesh import LocalMesh
    from ..agents.traffic import AgentStats, Passage, Stats

LAST = 6
"""Messages that are shown."""

AGENTS = 20
"""Agents that are shown: those with most to do."""

BRIEF = 60
"""Characters of a message, its answer, its error."""

_BAD = "#dc4242"
_QUIET = "opacity:.7"
_CELL = "text-align:left;vertical-align:top;padding:3px 8px;border:0"
_COUNT = f"{_CELL};text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums"
_LABEL = f"{_CELL};white-space:nowrap;max-width:14em;overflow:hidden;text-overflow:ellipsis"
_WORDS = f"{_CELL};min-width:9em;overflow-wrap:anywhere"
_LINE = "background:none;border-top:1px solid rgba(128,128,128,.35)"
_COLUMNS = ("at once", "waiting", "at work", "handled", "failed")


def text(mesh: LocalMesh) -> str:
    """One line: ``LocalMesh('mesh', 2 agents, 10 messages: 9 answered, 1 failed)``; nothing in it is a time."""
    stats = mesh.stats()
    return f"{type(mesh).__name__}({line(mesh.name)!r}, {_many(len(mesh.agents), 'agent')}, {_traffic(stats)})"


def html(mesh: LocalMesh) -> str:
    """HTML without script: a table of the agents, and one of the newest messages; at most some 40 KB."""
    return f'<div style="font-size:13px;line-height:1.45;overflow-x:auto">{"".join(_parts(mesh))}</div>'


def _parts(mesh: LocalMesh) -> Iterator[str]:
    stats, agents = mesh.stats(), mesh.agents
    failed = f'<b style="color:{_BAD}">{stats.failed:,} failed</b>'
    counted = _traffic(stats).replace(f"{stats.failed:,} failed", failed) if stats.failed else _traffic(stats)
    yield f"<div><b>{inline(mesh.name, BRIEF)}</b> · {_many(len(agents), 'agent')} · {counted}</div>"
    busiest = sorted(stats.agents, key=lambda name: -(stats.agents[name].waiting + stats.agents[name].at_work))
    names = [name for name in stats.agents if name in set(busiest[:AGENTS])]
    if names:
        rows = (_agent(name, agents.get(name), stats.agents[name]) for name in names)
        yield _table("agents", ("agent", "kind", *_COLUMNS), rows)
    if len(stats.agents) > len(names):
        yield f"<div>… {_many(len(stats.agents) - len(names), 'more agent')}</div>"
    passages = mesh.passages[-LAST:]
    if passages:
        yield _table("messages", ("from", "to", "message", "answer", "time"), map(_message, passages))


def _table(label: str, heads: Sequence[str], rows: Iterator[str]) -> str:
    cells = "".join(
        f'<th scope="col" style="{_COUNT if head in _COLUMNS else _CELL};font-weight:600;{_QUIET}">{head}</th>'
        for head in heads
    )
    return (
        f'<table aria-label="{label}" style="border-collapse:collapse;margin:6px 0 0">'
        f'<thead><tr style="background:none">{cells}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def _agent(name: str, agent: object, stats: AgentStats) -> str:
    kind = getattr(agent, "model", None)
    kind = kind if isinstance(kind, str) else type(agent).__name__
    counts = (stats.max_at_once, stats.waiting, stats.at_work, stats.handled, stats.failed)
    cells = "".join(
        f'<td style="{_COUNT}{f";color:{_BAD}" if head == "failed" and count else ""}">{count:,}</td>'
        for head, count in zip(_COLUMNS, counts, strict=True)
    )
    return (
        f'<tr style="{_LINE}"><th scope="row" style="{_LABEL};font-weight:400">'
        f'{inline(name, BRIEF)}</th><td style="{_LABEL};{_QUIET}">{inline(kind, BRIEF)}</td>'
        f"{cells}</tr>"
    )


def _message(passage: Passage) -> str:
    sender = YOU if passage.sender is None else passage.sender
    if passage.error is not None:
        came = f'<span style="color:{_BAD}">{inline(passage.error, BRIEF)}</span>'
    elif passage.answer is not None:
        came = inline(passage.answer, BRIEF)
    else:
        came = f'<span style="{_QUIET}">{_standing(passage)}</span>'
    names = "".join(f'<td style="{_LABEL}">{inline(name, BRIEF)}</td>' for name in (sender, passage.target))
    words = f'<td style="{_WORDS}">{inline(passage.said, BRIEF)}</td><td style="{_WORDS}">{came}</td>'
    time = f'<span class="ceylon-nb-time">{_took(passage.latency)}</span>'
    return f'<tr style="{_LINE}">{names}{words}<td style="{_COUNT};{_QUIET}">{time}</td></tr>'


def _standing(passage: Passage) -> str:
    if passage.latency is not None:
        return ""
    return "waiting" if passage.waited is None else "at work"


def _took(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 0.001:
        return "under 1 ms"
    return f"{1_000 * seconds:.0f} ms" if seconds < 0.1 else f"{seconds:,.1f} s"


def _traffic(stats: Stats) -> str:
    """``10 messages: 9 answered, 1 failed``, without what there is none of."""
    counts = {
        "answered": stats.answered,
        "failed": stats.failed,
        "cancelled": stats.cancelled,
        "waiting": stats.waiting,
        "at work": stats.at_work,
    }
    parts = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    return _many(stats.sent, "message") + (f": {parts}" if parts else "")


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
