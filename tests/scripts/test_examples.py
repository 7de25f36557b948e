"""Each snippet of examples.md does what the text around it promises; they are parts of a cell."""

from __future__ import annotations

import re

import pytest

from ceylon_nb.testing import ModelServer

from .running import AGENT, REFUSED, answer_in_groups, run_cell, run_while_server_refuses, when
from .snippets import EXAMPLES

ADDRESS = "OLLAMA_URL"

GEMMA = AGENT.replace("llama3.2", "gemma3")  # the model that the document asks for

shows, shows_wrong = EXAMPLES.shows, EXAMPLES.shows_wrong


def asked(server: ModelServer) -> list[str]:
    """The prompts, sorted; each went alone."""
    assert all(len(request.messages) == 1 for request in server.requests)
    return sorted(request.prompt for request in server.requests)


def test_no_snippet_is_forgotten() -> None:
    EXAMPLES.check()


@shows("Demo 1: Concurrent Queries")
def test_concurrent_queries(code: str, server: ModelServer) -> None:
    answer_in_groups(server, 3, of=3)
    names = run_cell(GEMMA + 'questions = ["Q1", "Q2", "Q3"]\n' + code)
    assert names["responses"] == ["<Q1>", "<Q2>", "<Q3>"]
    assert server.peak == 3
    assert {request.body["model"] for request in server.requests} == {"gemma3:latest"}


@shows("Demo 2: Streaming Responses")
def test_responses_as_they_complete(code: str, server: ModelServer) -> None:
    """Answered out of order, each when the one before it has been shown."""
    shown: list[str] = []
    order = ["Q3", "Q1", "Q2"]
    server.plan = lambda request: when(lambda: len(shown) >= order.index(request.prompt))
    tasks = f"tasks = {{asyncio.create_task(agent.send_message_async(q)): q for q in {sorted(order)}}}\n"
    run_cell(GEMMA + tasks + code.replace("# Display response immediately", "show(response)"), show=shown.append)
    assert shown == ["<Q3>", "<Q1>", "<Q2>"]


@shows("Demo 3: Batch Processing")
def test_batches(code: str, server: ModelServer) -> None:
    check_batches(code, server, "batch_size = 4\n", 4)


@shows("5. Control concurrency for large batches")
def test_batches_of_five(code: str, server: ModelServer) -> None:
    check_batches(code, server, "", 5)


def check_batches(code: str, server: ModelServer, before: str, size: int) -> None:
    answer_in_groups(server, size, of=12)
    queries = [f"Q{i:02}" for i in range(12)]
    names = run_cell(GEMMA + before + f"queries = {queries}\n" + code)
    assert names["results"] == [f"<{query}>" for query in names["batch"]]  # the last one's
    assert asked(server) == queries
    assert server.peak == size


@shows("Demo 4: Error Handling")
def test_errors_are_raised(code: str, server: ModelServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.next(None, REFUSED)
    names = run_cell(GEMMA + 'query = "Hello"\n' + code)
    assert names["response"] == "<Hello>"
    assert capsys.readouterr().out == ""
    run_cell(GEMMA + 'query = "Hello"\n' + code)
    said = capsys.readouterr().out
    assert said.startswith("Failed: ")
    assert "not today" in said


@shows_wrong("Demo 4: Error Handling")
def test_a_block_of_a_comment_does_not_compile(code: str) -> None:
    with pytest.raises(SyntaxError, match="expected an indented block after 'except'"):
        run_cell(code)


@shows("1. Use `send_message_async()` for LLM operations")
def test_send_message_async(code: str, server: ModelServer) -> None:
    server.models = ("model",)
    assert run_cell("import ceylon_nb\n" + code)["response"] == "<query>"
    assert server.served == 1


@shows("2. Leverage `asyncio.gather()` for concurrent operations")
def test_gather(code: str, server: ModelServer) -> None:
    answer_in_groups(server, 4, of=4)
    names = run_cell(GEMMA + "queries = [str(i) for i in range(4)]\n" + code)
    assert names["results"] == ["<0>", "<1>", "<2>", "<3>"]
    assert server.peak == 4


@shows("4. Handle errors with `return_exceptions=True`")
def test_errors_among_results(code: str, server: ModelServer) -> None:
    tasks = 'tasks = [agent.send_message_async(q) for q in ("Q1", "Q2", "Q3")]\n'
    first, second, third = run_while_server_refuses("Q2", GEMMA + tasks + code, server)
    assert (first, third) == ("Success: <Q1>", "Success: <Q3>")
    assert second.startswith("Error: ")
    assert "not today" in second


@shows("3. Use synchronous handlers for custom agents")
def test_handlers_of_either_kind(code: str, server: ModelServer) -> None:
    """Also the second, of which the document warns."""
    ask = """
from ceylon_nb import LocalMesh
async with LocalMesh() as mesh:
    mesh.add_agent(MyAgent("clerk"))
    answers.append(await mesh.query("clerk", "Hello"))
"""
    first, second = re.split(r"(?m)^(?=# ❌)", code)
    names = run_cell("from ceylon_nb import Agent\n" + first + ask + second + ask, answers=[])
    assert names["answers"] == ["response", "response"]
    assert server.received == 0
