"""The index of the tutorials: all of them, with what their pictures are, how long they take, and what they need."""

import ast
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
TUTORIALS = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))


def cells(notebook: Path, kind: str) -> list[str]:
    read: dict[str, Any] = json.loads(notebook.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in read["cells"] if cell["cell_type"] == kind]


PROSE = "\n".join(cells(NOTEBOOKS / "index.ipynb", "markdown"))
ROW = re.compile(
    r"\| \[<img src=\"pictures/(?P<picture>[\w-]+)\.svg\" [^>]*alt=\"[^\"]+\">\]\((?P<opens>[\w-]+)\.ipynb\) "
    r"\| \*\*\d\d · \[(?P<title>[^]]+)\]\((?P<link>[\w-]+)\.ipynb\)\*\*<br>[^|<]+<br>(?P<minutes>\d+) minutes \|"
)
ROWS = {row["picture"]: row for row in ROW.finditer(PROSE)}


def reading(notebook: Path) -> float:
    """Minutes to read it: 240 words of prose a minute, 50 lines of code."""
    words = sum(len(re.sub(r"!\[.*?\]\(.*?\)", "", prose).split()) for prose in cells(notebook, "markdown"))
    lines = sum(bool(line.strip()) for code in cells(notebook, "code") for line in code.splitlines())
    return words / 240 + lines / 50


def test_every_tutorial_is_in_it_in_order() -> None:
    assert list(ROWS) == sorted(ROWS)
    assert {path.stem for path in TUTORIALS} <= set(ROWS)
    assert {row["opens"] for row in ROWS.values()} == {row["link"] for row in ROWS.values()} == set(ROWS)


@pytest.mark.parametrize("notebook", TUTORIALS, ids=lambda path: path.stem)
def test_it_says_what_a_tutorial_is_called_and_how_long_it_takes(notebook: Path) -> None:
    row, title = ROWS[notebook.stem], cells(notebook, "markdown")[0].splitlines()[0]
    assert title == f"# {row['title']}"
    assert reading(notebook) <= 10
    assert abs(int(row["minutes"]) - reading(notebook)) < 1.5


def test_what_it_says_to_install_is_enough() -> None:
    (shown,) = re.findall(r"pip install -q (.+)", PROSE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["plot"], *shown.split()[1:]]
    brought = {"ceylon_nb", "IPython", "jupyter_client", "nbclient", "nbformat", "numpy", "starlette"}  # by those
    there = {re.split(r"[\s<>=\[~!;]", name)[0].replace("-", "_") for name in needed} | brought
    assert '".[plot]"' in shown
    for notebook in TUTORIALS:
        code = "\n".join(line for source in cells(notebook, "code") for line in source.splitlines() if line[:1] != "%")
        for node in ast.walk(compile(code, notebook.name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            missing = {name.split(".")[0] for name in names} - there - sys.stdlib_module_names
            assert not missing, notebook.name
