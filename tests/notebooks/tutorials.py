"""The tutorials, whichever there are, and what a run of one has to look like."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbval.plugin import IPyNbFile, coalesce_streams

FOLDER = Path(__file__).parents[2] / "notebooks"
TUTORIALS = sorted(FOLDER.glob("*.ipynb"))
MEANT = "raises-exception"

each_tutorial = pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """What is executed, and so counted."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def is_meant_to_raise(cell: NotebookNode) -> bool:
    return MEANT in cell.metadata.get("tags", ())


def name_kernel(data: Path, name: str, python: Path) -> None:
    """Make a kernel of that Python known by that name, where `data` is in JUPYTER_PATH."""
    folder = data / "kernels" / name
    folder.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": name, "language": "python"}))


def check(executed: NotebookNode, tutorial: Path, session: pytest.Session, *, displays: bool = True) -> None:
    """Fail unless it ran from its first cell to its last, went wrong only where it is meant to, and says what is saved.

    What counts as the same is for nbval to say, as in ``pytest notebooks``: with ``--nbval-lax`` little is compared.
    Where widgets are shown, what is displayed stands in other cells than it does without (`displays`).
    """
    cells = code_cells(executed)
    saved = code_cells(nbformat.read(tutorial, as_version=4))
    assert [cell.source for cell in cells] == [cell.source for cell in saved]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        raised = [f"{output.ename}: {output.evalue}" for output in cell.outputs if output.output_type == "error"]
        assert bool(raised) == is_meant_to_raise(cell), raised or f"It was meant to raise:\n{cell.source}"
    different = list(differences(cells, tutorial, session, displays))
    assert not different, "\n\n".join(different)


def differences(cells: list[NotebookNode], tutorial: Path, session: pytest.Session, displays: bool) -> Iterator[str]:
    """What nbval would say of these outputs."""
    book = IPyNbFile.from_parent(session, path=tutorial)
    session.config.hook.pytest_collectstart(collector=book)  # our own plugin has it leave out how long a batch took
    references = [each for each in book.collect() if each.cell.source.strip()]
    for cell, reference in zip(cells, references, strict=True):
        shown, saved = (
            coalesce_streams([each for each in outputs if displays or each.output_type != "display_data"])
            for outputs in (cell.outputs, reference.cell.outputs)
        )
        if reference.options["check"] and not reference.compare_outputs(shown, saved):
            yield "\n".join([reference.name, cell.source, *reference.comparison_traceback])
