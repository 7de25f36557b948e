"""A real kernel, driven over the wire: cells, what they put out, interrupts."""

from __future__ import annotations

import json
import os
import queue
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import KernelManager

_DEFAULTS = {"CEYLON_NB_STORE": "off", "CEYLON_NB_VIEW": "off", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


class _Spec(KernelSpecManager):
    """Knows one kernel: ipykernel under the given Python."""

    python: Path

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        command = [str(self.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=[*command, "--HistoryManager.enabled=False"], language="python", display_name="Python")


class Cell:
    """One execution of some code: what came back so far.

    Attributes
    ----------
    reply : dict or None
        The content of its ``execute_reply``.
    outputs : list of (str, dict)
        Kind and content of each message it put out: ``stream``, ``display_data``, ``update_display_data``,
        ``execute_result``, ``error``. All that carry this cell as their parent, also after its end.
    """

    def __init__(self, kernel: Kernel, id: str) -> None:
        self._kernel = kernel
        self.id = id
        self.reply: dict[str, Any] | None = None
        self.outputs: list[tuple[str, dict[str, Any]]] = []
        self.busy = False
        self.idle = False

    def wait(self, timeout: float = 30) -> Cell:
        """Wait for its end; returns the cell."""
        self._kernel.until(lambda: self.ended, timeout)
        return self

    @property
    def ended(self) -> bool:
        """Whether it has ended and everything it put out has come."""
        return self.reply is not None and self.idle

    @property
    def status(self) -> str | None:
        """``"ok"``, ``"error"`` or ``"aborted"``; None while it runs."""
        return None if self.reply is None else self.reply["status"]

    @property
    def text(self) -> str:
        """What it printed."""
        return "".join(content["text"] for kind, content in self.outputs if kind == "stream")

    @property
    def result(self) -> str:
        """What its last line was worth, as text."""
        [found] = [content["data"]["text/plain"] for kind, content in self.outputs if kind == "execute_result"]
        return found

    @property
    def error(self) -> tuple[str, str]:
        """The one exception it ended with: name and text."""
        [found] = [(content["ename"], content["evalue"]) for kind, content in self.outputs if kind == "error"]
        return found

    @property
    def traceback(self) -> list[str]:
        """The lines that a person sees of that exception, without colours."""
        [lines] = [content["traceback"] for kind, content in self.outputs if kind == "error"]
        return _ESCAPES.sub("", "\n".join(lines)).splitlines()


class Kernel:
    """A kernel under some Python. Everything about it happens in the thread that made it.

    Parameters
    ----------
    environment
        What its environment has besides this process's. Unless it says otherwise answers are not stored: a test would
        find those of the one before, and leave its own. Nor is anything shown, unless it says that somebody watches
        (JPY_SESSION_NAME, as under a Jupyter server).
    """

    def __init__(self, python: Path, **environment: str) -> None:
        specs = _Spec()
        specs.python = python
        self._manager: Any = KernelManager(kernel_spec_manager=specs, kernel_name="python3")
        shows = {"CEYLON_NB_VIEW": "auto"} if "JPY_SESSION_NAME" in environment else {}
        self._manager.start_kernel(env={**os.environ, **_DEFAULTS, **shows, **environment})
        self._client: Any = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=60)
        self._cells: dict[str, Cell] = {}

    def begin(self, code: str) -> Cell:
        """Send a cell to be executed after those before it; returns at once."""
        cell = Cell(self, self._client.execute(code, stop_on_error=False))
        self._cells[cell.id] = cell
        return cell

    def run(self, code: str, timeout: float = 30) -> Cell:
        """Execute a cell, and wait for its end."""
        return self.begin(code).wait(timeout)

    def value(self, expression: str) -> Any:
        """What an expression is worth there: a number, a string, a list or a dict of such."""
        cell = self.run(f"import json; print(json.dumps({expression}))")
        assert cell.status == "ok", cell.traceback
        return json.loads(cell.text)

    def interrupt(self) -> None:
        """Press ■."""
        self._manager.interrupt_kernel()

    def until(self, holds: Callable[[], object], timeout: float = 30) -> None:
        """Read what the kernel sends until something holds."""
        ends = time.monotonic() + timeout
        while not holds():
            if time.monotonic() > ends:
                raise TimeoutError(f"not within {timeout:g} s; {self.alive=}, {self._unfinished()}")
            self._read()

    def listen(self, seconds: float) -> None:
        """Read what the kernel sends for so long."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            self._read()

    @property
    def alive(self) -> bool:
        return bool(self._manager.is_alive())

    @property
    def pid(self) -> int:
        return int(self._manager.provisioner.pid)

    def restart(self) -> None:
        self._manager.restart_kernel(now=True)
        self._client.wait_for_ready(timeout=60)

    def stop(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)
        self._manager.cleanup_resources()

    def _read(self) -> None:
        try:
            while True:
                self._heard(self._client.get_iopub_msg(timeout=0.01))
        except queue.Empty:
            pass
        try:
            while True:
                message = self._client.get_shell_msg(timeout=0)
                cell = self._cells.get(message["parent_header"].get("msg_id"))
                if cell and message["msg_type"] == "execute_reply":
                    cell.reply = message["content"]
        except queue.Empty:
            pass

    def _heard(self, message: dict[str, Any]) -> None:
        cell = self._cells.get(message["parent_header"].get("msg_id"))
        if cell is None:
            return
        kind, content = message["msg_type"], message["content"]
        if kind == "status":
            cell.busy = cell.busy or content["execution_state"] == "busy"
            cell.idle = content["execution_state"] == "idle"
        elif kind in ("stream", "display_data", "update_display_data", "execute_result", "error"):
            cell.outputs.append((kind, content))

    def _unfinished(self) -> str:
        cells = [cell for cell in self._cells.values() if not cell.ended]
        return "; ".join(f"cell {cell.id[-6:]}: {cell.reply=}, {cell.outputs=}" for cell in cells) or "no cell runs"
