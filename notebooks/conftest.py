"""The tutorials are tests, and green means something.

nbval 0.11 compares a cell's outputs with the saved ones, and lets four things pass that must not: a cell that ends
in an ExceptionGroup (IPython writes it to stderr and sends no ``error`` message; only the reply's status tells), a
cell that was never executed (nothing to compare with), a cell that hangs, swallows the interrupt at its time-out and
ends quietly (any other that hangs fails then: after 2,000 seconds, unless told otherwise), and a cell whose output,
which differs each time and so is not compared, was cleared. Here each cell also has to get its ``execute_reply``, with
the status that it announces, and the notebook has to be saved as executed: from top to bottom, counted 1 to n, outputs
kept. An empty cell is never executed, and is none of this.

``tests/test_nbval_guard.py`` plants a notebook for each and sees it fail. ``execute.py`` runs the notebooks in the
same surroundings as these tests.

With ``--nbval-lax``, which compares no outputs, the kernels get CEYLON_NB_MODEL, and the addresses and keys of its
provider: the same cells, on a real model.
"""

import contextlib
import os
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import nbval.plugin
import pytest
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell

PERSONAL = ("CEYLON_NB_", "OLLAMA_", "OPENAI_")
MODEL = ("CEYLON_NB_MODEL", "OLLAMA_", "OPENAI_")
"""What of that says which model is asked, and where."""


@contextlib.contextmanager
def nobodys_environment(but: tuple[str, ...] = ()) -> Iterator[None]:
    """What a kernel started here inherits: no model server, key, option or IPython profile of whoever runs it.

    Its store of answers is a file of its own: no answer comes from an earlier run, and none is left behind. Variables
    that begin as `but` says stay.
    """
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in [name for name in os.environ if name.startswith(PERSONAL) and not name.startswith(but)]:
            patch.delenv(name)
        patch.setenv("IPYTHONDIR", folder)
        patch.setenv("CEYLON_NB_STORE", str(Path(folder) / "answers.sqlite"))
        yield


class WatchedKernel(RunningKernel):
    """A kernel in nobody's environment, that remembers how it answered the last cell."""

    reply: dict[str, Any] | None = None
    cell_id: str | None = None
    keeps: tuple[str, ...] = ()

    def __init__(self, *args: Any, **options: Any) -> None:
        self.environment = contextlib.ExitStack()
        self.environment.enter_context(nobodys_environment(self.keeps))
        super().__init__(*args, **options)

    def stop(self) -> None:
        super().stop()
        self.environment.close()

    def execute_cell_input(self, cell_input: str, allow_stdin: bool | None = None) -> str:
        self.reply = None
        self.cell_id = super().execute_cell_input(cell_input, allow_stdin)
        return self.cell_id

    def get_message(self, stream: str, timeout: float | None = None) -> dict[str, Any]:
        message = super().get_message(stream, timeout)
        if message["msg_type"] == "execute_reply" and message["parent_header"].get("msg_id") == self.cell_id:
            self.reply = message["content"]
        return message


nbval.plugin.RunningKernel = WatchedKernel


def pytest_configure(config: pytest.Config) -> None:
    if config.option.nbval_lax and "CEYLON_NB_MODEL" in os.environ:
        WatchedKernel.keeps = MODEL


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    yield
    if isinstance(item, IPyNbCell):
        check_reply(item)
        check_count(item)
        check_kept(item)


def check_reply(cell: IPyNbCell) -> None:
    reply = cell.parent.kernel.reply
    expected = "error" if cell.options["check_exception"] else "ok"
    if reply is None:
        cell.raise_cell_error("The kernel never replied to this cell")
    elif reply["status"] != expected:
        cell.raise_cell_error(
            f"The kernel replied {reply['status']!r} instead of {expected!r} {reply.get('ename', '')}".rstrip(),
            "\n".join(reply.get("traceback", [])),
        )


def check_count(cell: IPyNbCell) -> None:
    executable = [each for each in cell.parent.nb.cells if each.cell_type == "code" and each.source.strip()]
    for count, each in enumerate(executable, start=1):
        if each is cell.cell and each.execution_count != count:
            cell.raise_cell_error(
                f"Saved with execution count {each.execution_count} where {count} was due: run notebooks/execute.py"
            )


def check_kept(cell: IPyNbCell) -> None:
    if cell.test_outputs and not cell.cell.outputs and not cell.config.option.nbval_lax:
        cell.raise_cell_error("Saved without the output that it has: run notebooks/execute.py")
