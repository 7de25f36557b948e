"""What is wrong in the documents, and its right form; nothing else of theirs is changed, but for the name to import."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Correction:
    """A place in the snippet under a heading: as it stands there, as it is right, and why."""

    heading: str
    wrong: str
    right: str
    why: str


IN_OVERVIEW = (
    Correction(
        "Pattern 2: Progress Tracking",
        wrong="    for future in asyncio.as_completed(tasks):\n",
        right="    async for future in as_completed(tasks):\n",
        why="a plain `for` yields futures that are not the tasks: tasks[future] is a KeyError",
    ),
    Correction(
        "Pattern 2: Progress Tracking",
        wrong="from ceylon_nb import LlmAgent\n",
        right="from ceylon_nb import LlmAgent, as_completed\n",
        why="it is this library's",
    ),
    Correction(
        "Pattern 3: Error Handling",
        wrong="await asyncio.sleep(0.1 * (attempt + 1))  # Exponential backoff\n",
        right="await asyncio.sleep(0.1 * 2**attempt)  # Exponential backoff\n",
        why="it is linear",
    ),
    Correction(
        "Pattern 4: Timeout Handling",
        wrong='return "Request timed out after {timeout}s"\n',
        right='return f"Request timed out after {timeout}s"\n',
        why="without the f, the braces are text",
    ),
    Correction(
        "FastAPI Integration",
        wrong="async def batch_chat(messages: list):\n",
        right="async def batch_chat(messages: list[str]):\n",
        why="FastAPI takes a bare list for uploaded files",
    ),
)

IN_EXAMPLES = (
    Correction(
        "Demo 4: Error Handling",
        wrong="    # Handle errors gracefully\n",
        right='    print(f"Failed: {e}")  # Handle errors gracefully\n',
        why="a block needs a statement: it does not compile",
    ),
)
