"""The notebooks' guard, seen at work: pytest runs planted notebooks as it runs the tutorials."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat.v4 as v4
import pytest

from ceylon_nb import LlmAgent
from ceylon_nb.views import summary

ROOT = Path(__file__).parent.parent
GROUP = """
import asyncio
async def fails(): 1 / 0
async with asyncio.TaskGroup() as group:
    group.create_task(fails())
"""


def cell(source, output=None, count=1, tags=()):
    """A code cell as it is saved, with the text of its last expression for an output."""
    outputs = [v4.new_output("execute_result", {"text/plain": output}, execution_count=count)] if output else []
    return v4.new_code_cell(source, execution_count=count, outputs=outputs, metadata={"tags": list(tags)})


@pytest.fixture
def run(tmp_path):
    """Save the cells as a notebook beside a copy of the guard, run pytest there with the project's own options."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "conftest.py", tmp_path / "notebooks")

    def run(*cells, options=(), environ=None):
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        notebook = v4.new_notebook(cells=list(cells), metadata=kernel)
        (tmp_path / "notebooks" / "planted.ipynb").write_text(v4.writes(notebook), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", *options, "notebooks"]
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **(environ or {})}, capture_output=True, text=True, check=False
        )
        counts = {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", done.stdout.splitlines()[-1])}
        counts.pop("in", None)
        return counts, done.stdout + done.stderr

    return run


def test_a_good_notebook_passes(run):
    counts, output = run(
        cell("x = 20 + 1", count=1),
        v4.new_markdown_cell("Between two cells."),
        v4.new_code_cell("  "),
        cell("x * 2", "42", count=2),
        cell("# NBVAL_IGNORE_OUTPUT\nid(x)", "1", count=3),
    )
    assert counts == {"passed": 4}, output


def test_a_wrong_output_fails(run):
    counts, output = run(cell("20 + 1", "21", count=1), cell("20 + 1", "22", count=2))
    assert counts == {"failed": 1, "passed": 1}, output
    assert "Cell outputs differ" in output


@pytest.mark.parametrize("kept", [0, 1])
def test_a_cleared_output_fails(run, kept):
    source = "print('one')\n'two'"
    whole = cell(source, "'two'", count=1)
    whole.outputs.insert(0, v4.new_output("stream", text="one\n"))
    cleared = cell(source, count=2)
    cleared.outputs = whole.outputs[:kept]
    counts, output = run(whole, cleared)
    assert counts == {"failed": 1, "passed": 1}, output
    assert "Unexpected output fields" in output


def test_a_cleared_output_fails_that_is_not_compared(run):
    """nbval alone passes it."""
    counts, output = run(cell("# NBVAL_IGNORE_OUTPUT\n20 + 1"), cell("# NBVAL_IGNORE_OUTPUT\nx = 1", count=2))
    assert counts == {"failed": 1, "passed": 1}, output
    assert "Saved without the output that it has" in output


def test_an_exception_group_fails(run):
    """nbval alone passes it."""
    counts, output = run(cell("1", "1", count=1), cell("# NBVAL_IGNORE_OUTPUT" + GROUP, count=2))
    assert counts == {"failed": 1, "passed": 1}, output
    assert "The kernel replied 'error' instead of 'ok' ExceptionGroup" in output


def test_an_exception_group_in_the_first_cell_fails_in_time(run):
    """It hangs the kernel's reply: only the time-out ends it."""
    counts, output = run(cell(GROUP), options=["--nbval-cell-timeout=1"])
    assert counts == {"failed": 1}, output


def test_an_exception_that_was_promised_and_never_came_fails(run):
    counts, output = run(cell("1", "1", tags=["raises-exception"]))
    assert counts == {"failed": 1}, output
    assert "The kernel replied 'ok' instead of 'error'" in output


def test_a_cell_that_was_never_executed_fails(run):
    """nbval alone passes it."""
    counts, output = run(cell("20 + 1", count=None))
    assert counts == {"failed": 1}, output
    assert "Saved with execution count None where 1 was due" in output


def test_cells_executed_out_of_order_fail(run):
    counts, output = run(cell("1", "1", count=2), cell("2", "2", count=1), cell("3", "3", count=3))
    assert counts == {"failed": 2, "passed": 1}, output
    assert "Saved with execution count 2 where 1 was due" in output


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("import time\ntime.sleep(600)", id="loud"),
        pytest.param("import time\ntry:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    pass", id="quiet"),
        pytest.param("import asyncio\nawait asyncio.sleep(600)", id="awaiting"),
    ],
)
def test_a_hanging_cell_fails_in_time(run, source):
    counts, output = run(cell(source), options=["--nbval-cell-timeout=1"])
    assert counts == {"failed": 1}, output


def test_the_time_out_is_a_minute(pytestconfig):
    assert pytestconfig.getini("addopts").count("--nbval-cell-timeout=60") == 1


def test_the_kernel_is_the_python_that_runs_pytest(run, tmp_path):
    """Whatever the machine calls "python3", and without the reader's own keys, options and profile."""
    spec = tmp_path / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text('{"argv": ["false"], "display_name": "elsewhere", "language": "python"}')
    profile = tmp_path / "ipython" / "profile_default" / "startup"
    profile.mkdir(parents=True)
    (profile / "mine.py").write_text("personal = True")
    environ = {
        "JUPYTER_PATH": str(tmp_path),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "CEYLON_NB_VIEW": "off",
        "CEYLON_NB_STORE": str(tmp_path / "mine.sqlite"),
        "OLLAMA_HOST": "elsewhere:1",
        "OPENAI_API_KEY": "secret",
    }
    counts, output = run(
        cell("import os, sys\nsys.executable", repr(sys.executable), count=1),
        cell("[n for n in os.environ if n.startswith(('CEYLON', 'OLLAMA', 'OPENAI'))]", "['CEYLON_NB_STORE']", count=2),
        cell("os.environ['CEYLON_NB_STORE'].endswith('mine.sqlite')", "False", count=3),
        cell("'personal' in globals()", "False", count=4),
        environ=environ,
    )
    assert counts == {"passed": 4}, output


def test_each_run_has_a_store_of_its_own_and_leaves_none(run, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    ask = "run = LlmAgent('a', 'demo::instant').map(['Hi', 'Ho'], view=None)\nawait run\nrun.from_store"
    cells = [
        cell("import tempfile\nfrom ceylon_nb import LlmAgent, store\n" + ask, "0", count=1),
        cell(ask, "2", count=2),
        cell("str(store().path).startswith(tempfile.gettempdir()) and store().path.exists()", "True", count=3),
    ]
    for _ in range(2):
        counts, output = run(*cells, environ={"TMPDIR": str(temporary)})
        assert counts == {"passed": 3}, output
    assert not any(temporary.iterdir())
    assert not list(tmp_path.rglob("*.sqlite*"))
    assert not list(tmp_path.rglob(".ceylon_nb"))


SUMMARY = """from ceylon_nb import LlmAgent
run = LlmAgent("clerk", "demo::instant").map(["What is AI?", ""], name="Ask", store=None)
await run
None"""


def test_how_long_a_batch_took_is_not_compared_and_all_else_is(run):
    batch = LlmAgent("clerk", "demo::instant").map(["What is AI?", ""], name="Ask", store=None)
    batch.result()
    took = re.compile(r'(?<=<span class="ceylon-nb-time">)[^<]+')

    def saved(html):
        output = v4.new_output("display_data", {"text/html": html, "text/plain": repr(batch)})
        return v4.new_code_cell(SUMMARY, execution_count=1, outputs=[output])

    shown = summary.bundle(batch)["text/html"]
    assert took.search(shown)
    counts, output = run(saved(took.sub("12:34", shown)))
    assert counts == {"passed": 1}, output
    counts, output = run(saved(shown.replace("1 failed", "2 failed")))
    assert counts == {"failed": 1}, output


def wrong(cells):
    cells[1].outputs[0].data["text/plain"] += "!"
    return 1


def cleared(cells):
    cells[2].outputs = []
    return 2


def group(cells):
    cells[3].source += GROUP
    return 3


def hanging(cells):
    cells[-1].source += "\nawait asyncio.Event().wait()"
    return len(cells) - 1


@pytest.mark.parametrize("plant", [wrong, cleared, group, hanging])
def test_what_is_planted_into_a_tutorial_fails_and_nothing_else(run, plant):
    tutorial = v4.reads((ROOT / "notebooks" / "01-first-answers.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in tutorial.cells if cell.cell_type == "code"]
    at = plant(cells)
    counts, output = run(*tutorial.cells, options=["--nbval-cell-timeout=10"])
    assert counts == {"failed": 1, "passed": len(cells) - 1}, output
    assert f"planted.ipynb::Cell {at}" in output
