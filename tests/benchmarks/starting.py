"""The first answer after `build`, in a process that has just begun: how much longer it takes than the server does."""

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

from .contestants import Figures
from .watching import Sent, kernel, run_cell

BEGIN = """
import json, time
began = time.perf_counter()
from ceylon_nb import LlmAgent
imported = time.perf_counter()
agent = LlmAgent("load", "openai::load", base_url={url!r}).build()
built = time.perf_counter()
"""
"""All there is before the clock starts: nothing else has been imported, and nobody has been asked."""

END = """
figures = {"import": imported - began, "build": built - imported, "first": first, "answered": int(len(reply) > 0)}
print(json.dumps(figures))
"""

AWAITED = """
asking = time.perf_counter()
reply = await agent.send_message("The first question")
first = time.perf_counter() - asking
"""

SYNC = AWAITED.replace("await agent.send_message", "agent.send_message_sync")

MAPPED = """
asking = time.perf_counter()
run = agent.map(["The first question"])
async for answer in run.answers():
    first, reply = time.perf_counter() - asking, answer.reply
"""

IN_A_KERNEL = ", in a kernel"
WAYS = {"send_message": AWAITED, "send_message_sync": SYNC, "map of one row": MAPPED}
CONTESTANTS = [*WAYS, *(way + IN_A_KERNEL for way in WAYS)]


async def starting(job: dict[str, Any]) -> Figures:
    """Import, build, ask, in a new process; ``first`` is how many seconds the answer took."""
    return await asyncio.to_thread(_starting, job)


def _starting(job: dict[str, Any]) -> Figures:
    name = job["contestant"]
    cells = BEGIN.format(url=job["base_url"]), WAYS[name.removesuffix(IN_A_KERNEL)], END
    figures: Figures = json.loads(_in_a_kernel(cells) if name.endswith(IN_A_KERNEL) else _in_a_script(cells))
    return figures


def _in_a_script(cells: tuple[str, ...]) -> str:
    code = "\n".join(cells)
    if "await" in code or "async for" in code:
        begin, *rest = cells
        body = "".join(f"    {line}\n" for line in "\n".join(rest).splitlines())
        code = f"{begin}\nimport asyncio\nasync def main():\n{body}asyncio.run(main())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def _in_a_kernel(cells: tuple[str, ...]) -> str:
    """Each in a cell, as someone would who runs them all in JupyterLab; a browser says hello to the panel."""
    os.environ.setdefault("JPY_SESSION_NAME", "first.ipynb")
    sent: Sent = []
    with kernel() as client:
        return [run_cell(client, cell, sent) for cell in cells][-1]
