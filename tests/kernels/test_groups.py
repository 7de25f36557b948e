"""An ExceptionGroup can hang a kernel that has shown no traceback yet: none leaves the library, the user's may."""

from __future__ import annotations

import pytest

from .conftest import SET_UP, Start

GROUP = """
async def fail(): raise ValueError("no")
async def broken(messages):
    async with asyncio.TaskGroup() as group:
        group.create_task(fail())
moody = LlmAgent("moody", broken)
"""

RAISED = {
    "send_message": "await moody.send_message('a')",
    "send_message_sync": "moody.send_message_sync('a')",
    "stream": "async for text in moody.stream('a'): pass",
    "everything fails alike": "await moody.map(prompts(10))",
    "batch": "await batch(broken, prompts(10))",
    "as_completed": "async for task in as_completed([moody.send_message('a')]): await task",
}


@pytest.mark.parametrize("way", RAISED)
def test_what_leaves_the_library_is_no_group(start: Start, way: str) -> None:
    kernel = start()
    kernel.run(SET_UP + GROUP)
    cell = kernel.run(RAISED[way])
    assert cell.error == ("ValueError", "no")
    assert kernel.run("1").result == "1"


def test_a_group_of_the_users_own_is_replied_to(start: Start) -> None:
    kernel = start()
    kernel.run(SET_UP + GROUP)
    cell = kernel.run("await broken('a')")
    assert cell.status == "error"
    assert "ValueError: no" in cell.text  # IPython prints it
    assert kernel.run("1").result == "1"


def test_a_refused_connection_of_httpx_is_replied_to(start: Start) -> None:
    """anyio, on which httpx's own transport stands, keeps the failures for each address in a group."""
    kernel = start()
    kernel.run(SET_UP + "import httpx, socket; free = socket.socket(); free.bind(('127.0.0.1', 0))")
    options = "base_url=f'http://localhost:{free.getsockname()[1]}', transport=httpx.AsyncHTTPTransport(), attempts=1"
    cell = kernel.run(f"await LlmAgent('a', 'ollama::mock', {options}).send_message('a')")
    assert cell.error[0] == "ConnectionFailed"
