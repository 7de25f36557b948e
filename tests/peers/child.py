"""One user of one library, in a process of its own: ``python -m tests.peers.child JOB`` prints what came of it.

A job names the user, the task (a function below), what the user is given, and what the task is given.
"""

import asyncio
import json
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from ..benchmarks.child import loopback_only
from .users import USERS, Kept, Row, User


def prompt(row: int) -> str:
    """A row's prompt. The server knows the row by it."""
    return f"review {row}"


def prompts(n: int) -> list[str]:
    return [prompt(row) for row in range(n)]


async def ask(user: User, n: int) -> dict[str, Any]:
    """Ask for `n` rows, and say what there is of each; or what it raised instead."""
    try:
        answers = await user.ask(prompts(n))
    except Exception as error:  # noqa: BLE001 (whatever a library raises is what is to be seen)
        return {"raised": type(error).__name__, "said": str(error), "rows": []}
    return {"raised": None, "rows": [_said(answer) for answer in answers]}


def _said(answer: Row) -> dict[str, Any]:
    if isinstance(answer, BaseException):
        return {"error": f"{type(answer).__name__}: {answer}"}
    return {"reply": answer}


async def watch(user: User, n: int) -> dict[str, Any]:
    """Ask for `n` rows, and say how many there are."""
    kept: Kept = {}
    await user.watch(prompts(n), kept)
    return {"kept": len(kept)}


async def one(user: User) -> dict[str, Any]:
    """Ask one question, and say what it raised."""
    try:
        return {"reply": await user.one(prompt(0)), "raised": None}
    except Exception as error:  # noqa: BLE001 (as above)
        return {"raised": type(error).__name__}


async def completed(user: User, n: int) -> dict[str, Any]:
    """Ask for `n` rows, and say what came when: the first one at once, on a line of its own."""
    order: list[tuple[int, str]] = []
    word: Any = user
    async for row, answer in word.completed(prompts(n)):
        if not order:
            print(json.dumps([row, answer]), flush=True)
        order.append((row, answer))
    return {"order": order}


async def table(user: User, index: list[str]) -> dict[str, Any]:
    """Ask for a Series with that index, and say what came back, and on which index."""
    import pandas as pd

    got = await user.table(pd.Series(prompts(len(index)), index=index))
    return {
        "kind": type(got).__name__,
        "index": list(got.index) if hasattr(got, "index") and not callable(got.index) else None,
    }


async def structured(user: User, n: int) -> dict[str, Any]:
    """Ask for `n` rows as objects of a pydantic class, and say of what class they are, and what is in them."""
    from pydantic import BaseModel

    class Answer(BaseModel):
        said: str

    word: Any = user
    answers = await word.structured(prompts(n), Answer)
    return {"kinds": [type(answer).__name__ for answer in answers], "said": [str(_field(answer)) for answer in answers]}


def _field(answer: Any) -> Any:
    """What is said in an answer: of an object's own field, or of a JSON text's."""
    return json.loads(answer)["said"] if isinstance(answer, str) else getattr(answer, "said", answer)


async def lazily(user: User, n: int) -> dict[str, Any]:
    """Begin `n` rows out of a generator; when told to (a line on stdin), say how many were taken, and end."""
    taken = 0

    def rows() -> Iterator[str]:
        nonlocal taken
        for row in range(n):
            taken = row + 1
            yield prompt(row)

    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), loop.call_soon_threadsafe(told.set)), daemon=True).start()
    work = asyncio.ensure_future(user.watch(rows(), {}))
    await told.wait()
    print(json.dumps({"taken": taken, "tasks": len(asyncio.all_tasks() - {work})}), flush=True)
    os._exit(0)  # without tidying up ten thousand


TASKS = {task.__name__: task for task in (ask, watch, one, completed, table, structured, lazily)}


def main() -> None:
    """Run the job given as JSON."""
    job = json.loads(sys.argv[1])
    sys.addaudithook(loopback_only)
    user = USERS[job["user"]](**job["given"])
    task: Any = TASKS[job["task"]]
    print(json.dumps(asyncio.run(task(user, **job["with"]))))


if __name__ == "__main__":
    main()
