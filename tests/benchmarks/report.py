"""From runs to tables, in Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any

from . import bars, machine
from .columns import NOTES, SECTIONS, Cell
from .figures import Runs


def write(results: dict[str, Any]) -> str:
    """All tables, as Markdown."""
    runs = Runs(results["runs"])
    parts = [machine.words(results)]
    for kind, (title, columns) in SECTIONS.items():
        found = runs.where(kind=kind)
        if found.runs:
            parts += [f"### {title}", section(found, columns), *NOTES.get(kind, ())]
    if results.get("failed"):
        parts += ["### Failed, and left out above", "\n".join(f"- {said}" for said in results["failed"])]
    if results["full"]:
        parts += ["### The bar", table(bars.HEAD, bars.write(runs))]
    return "\n\n".join(parts) + "\n"


def section(runs: Runs, columns: dict[str, Cell]) -> str:
    """A table with a row for each job."""
    rows = []
    for name, at_once, delay in runs.distinct("contestant", "at_once", "delay"):
        mine = runs.where(contestant=name, at_once=at_once, delay=delay)
        rows.append([cell(mine, runs) for cell in columns.values()])
    return table(list(columns), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
