"""From runs to tables, in Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any

from . import bars
from .columns import SECTIONS, Cell
from .figures import Runs


def write(results: dict[str, Any]) -> str:
    """All tables, as Markdown."""
    runs = Runs(results["runs"])
    machine = results["machine"]
    parts = [
        f"Python {machine['python']}, {machine['cpus']} CPUs, load {machine['load']:.1f} at the start; medians of "
        f"{results['rounds']} rounds, ratios within a round."
    ]
    for kind, (title, columns) in SECTIONS.items():
        found = runs.where(kind=kind)
        if found.runs:
            parts += [f"### {title}", section(found, columns)]
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
