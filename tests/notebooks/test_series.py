"""The series is whole, its links lead somewhere, and what runs it here sees what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbval.plugin import IPyNbFile

from .tutorials import FOLDER, TUTORIALS, check, code_cells, each_tutorial

LINK = re.compile(r"""\]\(([^)\s]+)[^)]*\)|(?:href|src)=["']([^"']+)["']""")


def test_it_is_whole() -> None:
    numbers = [path.stem.partition("-")[0] for path in TUTORIALS]
    assert numbers == [f"{number:02}" for number in range(1, 13)] + ["index"]


def prose(tutorial: Path) -> str:
    cells = nbformat.read(tutorial, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


@each_tutorial
def test_its_links_lead_somewhere(tutorial: Path) -> None:
    links = {markdown or html for markdown, html in LINK.findall(prose(tutorial))}
    local = {link.partition("#")[0] for link in links if not re.match(r"https?:|#|data:", link)}
    assert not [link for link in local if not (FOLDER / link).exists()]


def let_off(tutorial: Path, session: pytest.Session) -> list[str]:
    """Cells whose output nbval does not compare, or not always, as a comment or a tag of theirs says."""
    cells = [each for each in IPyNbFile.from_parent(session, path=tutorial).collect() if each.cell.source.strip()]
    return [each.name for each in cells if not each.options["check"] or each.options["skip"]]


@each_tutorial
def test_no_output_is_let_off(tutorial: Path, request: pytest.FixtureRequest) -> None:
    assert let_off(tutorial, request.session) == []


@pytest.mark.parametrize("way", ["# NBVAL_IGNORE_OUTPUT", "# NBVAL_SKIP", "nbval-ignore-output", "nbval-skip"])
def test_an_output_that_is_let_off_is_seen(way: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    notebook = nbformat.read(TUTORIALS[0], as_version=4)
    second = code_cells(notebook)[1]
    if way.startswith("#"):
        second.source = f"{way}\n{second.source}"
    else:
        second.metadata["tags"] = [way]
    planted = tmp_path / "planted.ipynb"
    nbformat.write(notebook, planted)
    assert let_off(planted, request.session) == ["Cell 1"]


def another_output(cell: NotebookNode) -> None:
    cell.outputs = [nbformat.v4.new_output("stream", text="something else")]


def no_output(cell: NotebookNode) -> None:
    cell.outputs = []


def an_error(cell: NotebookNode) -> None:
    cell.outputs = [nbformat.v4.new_output("error", ename="ZeroDivisionError", evalue="", traceback=[])]


def never_executed(cell: NotebookNode) -> None:
    cell.execution_count = None


def another_source(cell: NotebookNode) -> None:
    cell.source += "\n1 / 0"


@pytest.mark.parametrize("spoil", [another_output, no_output, an_error, never_executed, another_source])
def test_what_was_not_right_is_seen(request: pytest.FixtureRequest, spoil: Callable[[NotebookNode], None]) -> None:
    tutorial = TUTORIALS[0]
    executed = nbformat.read(tutorial, as_version=4)
    check(executed, tutorial, request.session)
    spoil(next(cell for cell in code_cells(executed) if cell.outputs))
    with pytest.raises(AssertionError):
        check(executed, tutorial, request.session)


def test_an_error_that_was_meant_and_never_came_is_seen(request: pytest.FixtureRequest) -> None:
    raising = [path for path in TUTORIALS if '"raises-exception"' in path.read_text(encoding="utf-8")]
    assert raising
    for tutorial in raising:
        executed = nbformat.read(tutorial, as_version=4)
        check(executed, tutorial, request.session)
        for cell in executed.cells:
            if cell.cell_type == "code":
                cell.outputs = [output for output in cell.outputs if output.output_type != "error"]
        with pytest.raises(AssertionError, match="meant to raise"):
            check(executed, tutorial, request.session)
