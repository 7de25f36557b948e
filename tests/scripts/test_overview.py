"""Each snippet of overview.md does what the text around it promises."""

from __future__ import annotations

import asyncio
import re
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from ceylon_nb.testing import ModelServer, faults

from .running import (
    AGENT,
    IMPORTS,
    REFUSED,
    STRICT,
    answer_in_groups,
    run_cell,
    run_program,
    run_script,
    run_while_server_hangs,
    run_while_server_refuses,
    running,
    when,
)
from .snippets import OVERVIEW

ADDRESS = "OLLAMA_HOST"

shows, shows_wrong = OVERVIEW.shows, OVERVIEW.shows_wrong


def asked(server: ModelServer) -> list[str]:
    """The prompts, in order; each went alone, in a conversation of its own."""
    assert all([part["role"] for part in request.messages] == ["user"] for request in server.requests)
    return [request.prompt for request in server.requests]


def test_no_snippet_is_forgotten() -> None:
    OVERVIEW.check()


# -- scripts ---------------------------------------------------------------------------------------------------------


@shows("What is Async?")
def test_async_is_the_default(code: str, server: ModelServer, tmp_path: Path) -> None:
    assert run_script(code, tmp_path).lines == ["<What is Python?>"]
    assert asked(server) == ["What is Python?"]


@shows("What is Async?")
def test_and_sync_has_a_suffix(code: str, server: ModelServer, tmp_path: Path) -> None:
    """The line that is only a comment, taken in: a blocking call while a loop runs."""
    taken_in = re.sub(r"# (response = agent.send_message_sync.*)", r"\1\n    print(response)", code)
    assert run_script(taken_in, tmp_path).lines == ["<What is Python?>"] * 2
    assert asked(server) == ["What is Python?"] * 2


@shows("Single Async Query")
def test_one_query_with_a_system_prompt(code: str, server: ModelServer, tmp_path: Path) -> None:
    assert run_script(code, tmp_path).lines == ["<Explain Python>"]
    (request,) = server.requests
    assert request.body["model"] == "llama3.2:latest"
    assert request.messages == [
        {"role": "system", "content": "You are helpful."},
        {"role": "user", "content": "Explain Python"},
    ]


@shows("Concurrent Queries")
def test_all_questions_are_sent_simultaneously(code: str, server: ModelServer, tmp_path: Path) -> None:
    answer_in_groups(server, 3, of=3)
    questions = ["What is Python?", "What is Rust?", "What is AI?"]
    expected = [line for question in questions for line in (f"Q: {question}", f"A: <{question}>", "")]
    assert run_script(code, tmp_path).lines == expected
    assert server.peak == 3
    system = {"role": "system", "content": "You are helpful."}
    for request in server.requests:
        assert request.messages == [system, {"role": "user", "content": request.prompt}]


@shows("Pattern 1: Batch Processing")
def test_batches_of_ten(code: str, server: ModelServer, tmp_path: Path) -> None:
    answer_in_groups(server, 10, of=100)
    lines = run_script(code, tmp_path).lines
    assert lines == [*(f"Processing batch {n}..." for n in range(1, 11)), "Processed 100 items"]
    assert (server.served, server.peak) == (100, 10)
    for n in range(0, 100, 10):
        assert sorted(asked(server)[n : n + 10]) == [f"Process item {i}" for i in range(n, n + 10)]


@shows("Pattern 2: Progress Tracking")
def test_progress_is_told_as_tasks_complete(code: str, server: ModelServer, tmp_path: Path) -> None:
    """Answered out of order, each when the line of the one before it has been seen; one is refused."""
    said: list[str] = []
    items = [f"Process {i}" for i in (6, 3, 8, 9, 0, 4, 7, 2, 5, 1)]

    def plan(request: Any) -> faults.Fault:
        refused = faults.status(400, '{"error": "no fours"}') if request.prompt == "Process 4" else None
        rank = items.index(request.prompt)
        return when(lambda: server.received == 10 and len(said) >= rank, then=refused)

    server.plan = plan
    lines = run_script(code, tmp_path, said).lines
    told = [line.removeprefix("✓ Completed: ") for line in lines]
    failed = told.pop(5)
    assert told == [*(f"{item}..." for item in items if item != "Process 4"), "Completed 9 items"]
    assert failed.startswith("✗ Failed: Process 4... - ")
    assert "no fours" in failed
    assert server.peak == 10


@shows_wrong("Pattern 2: Progress Tracking")
def test_a_plain_for_cannot_tell_tasks_apart(code: str, server: ModelServer, tmp_path: Path) -> None:
    ended = run_script(code, tmp_path)
    assert ended.status == 1
    assert re.search(r"^KeyError: <", ended.complaints, re.MULTILINE)


@shows("Pattern 3: Error Handling")
def test_a_failing_query_is_tried_again(code: str, server: ModelServer, tmp_path: Path) -> None:
    """By the snippet, where an answer is broken; what may pass, such as a 503, the agent has tried again by itself."""
    server.next(faults.malformed(), faults.status(503), faults.malformed(), None)
    lines = run_script(code, tmp_path).lines
    assert lines == ["Attempt 1 failed, retrying...", "Attempt 2 failed, retrying...", "<Hello>"]
    first, second, second_again, third = server.requests
    assert second.at - first.ended >= 0.1
    assert third.at - second_again.ended >= 0.2


@shows("Pattern 3: Error Handling")
def test_a_query_that_keeps_failing_fails(code: str, server: ModelServer, tmp_path: Path) -> None:
    server.models = ("another",)
    *attempts, failed = run_script(code, tmp_path).lines
    assert attempts == ["Attempt 1 failed, retrying...", "Attempt 2 failed, retrying..."]
    assert failed.startswith("Failed after retries: ")
    assert "ollama pull llama3.2:latest" in failed
    assert server.refused == 3


def pauses(code: str) -> list[float]:
    (seconds,) = re.findall(r"await asyncio\.sleep\((.*)\)  # Exponential", code)
    return [round(eval(seconds, {"attempt": attempt}), 1) for attempt in range(4)]


@shows_wrong("Pattern 3: Error Handling")
def test_the_backoff_was_linear(code: str) -> None:
    assert pauses(code) == [0.1, 0.2, 0.3, 0.4]
    assert pauses(OVERVIEW.right("Pattern 3: Error Handling")) == [0.1, 0.2, 0.4, 0.8]


@shows("Pattern 4: Timeout Handling")
def test_an_answer_in_time(code: str, server: ModelServer, tmp_path: Path) -> None:
    assert run_script(code, tmp_path).lines == ["<Hello>"]
    assert server.served == 1


@shows("Pattern 4: Timeout Handling")
def test_a_timeout_says_so_and_ends_the_request(
    code: str, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run_while_server_hangs(code.replace("asyncio.run(main())", "await main()"), server, seconds=5)
    assert capsys.readouterr().out == "Request timed out after 5.0s\n"


@shows_wrong("Pattern 4: Timeout Handling")
def test_the_timeout_said_braces(code: str, server: ModelServer, capsys: pytest.CaptureFixture[str]) -> None:
    run_while_server_hangs(code.replace("asyncio.run(main())", "await main()"), server, seconds=5)
    assert capsys.readouterr().out == "Request timed out after {timeout}s\n"


@shows("Pattern 5: Rate Limiting")
def test_three_at_once(code: str, server: ModelServer, tmp_path: Path) -> None:
    answer_in_groups(server, 3, of=10)
    assert run_script(code, tmp_path).lines == ["Got 10 responses"]
    assert sorted(asked(server)) == [f"Message {i}" for i in range(10)]
    assert server.peak == 3


@shows("Pattern 6: Concurrent Agent Communication")
def test_several_agents_at_once(code: str, server: ModelServer, tmp_path: Path) -> None:
    answer_in_groups(server, 3, of=3)
    shown = code.replace("asyncio.run(multi_agent_query())", "print(asyncio.run(multi_agent_query()))")
    (line,) = run_script(shown, tmp_path).lines
    assert re.findall(r"<.*?>", line) == ["<Explain decorators>", "<Explain ownership>", "<Explain closures>"]
    assert server.peak == 3
    assert {(request.system, request.prompt) for request in server.requests} == {
        ("You are a Python expert.", "Explain decorators"),
        ("You are a Rust expert.", "Explain ownership"),
        ("You are a JavaScript expert.", "Explain closures"),
    }


@shows("Async Context Managers")
def test_in_a_context_manager(code: str, server: ModelServer, tmp_path: Path) -> None:
    lines = run_script(code, tmp_path).lines
    assert lines == ["Initializing assistant", "<Hello>", "Cleaning up assistant"]
    assert asked(server) == ["Hello"]


@shows("Concurrency vs Sequential")
def test_concurrent_is_faster_than_sequential(code: str, server: ModelServer, tmp_path: Path) -> None:
    server.latency = 0.1
    server.plan = lambda request: None if request.number <= 3 else when(lambda: server.received == 6)
    sequential, concurrent = run_script(code, tmp_path).lines
    first, second, third, *together = server.requests
    assert first.ended <= second.at <= second.ended <= third.at <= third.ended
    assert max(request.at for request in together) < min(request.ended for request in together)
    assert sorted(asked(server)) == ["Q1", "Q1", "Q2", "Q2", "Q3", "Q3"]
    took = re.fullmatch(r"Sequential: (\d+\.\d\d)s, Concurrent: (\d+\.\d\d)s", f"{sequential}, {concurrent}")
    assert took
    assert float(took[1]) >= 0.3
    assert 0.1 <= float(took[2]) < float(took[1])


# -- web frameworks --------------------------------------------------------------------------------------------------


async def post(base_url: str, *requests: dict[str, Any], **options: Any) -> list[tuple[int, Any]]:
    """Status and JSON of each request, made at the same time."""
    async with httpx.AsyncClient(base_url=base_url, **options) as client:
        responses = await asyncio.gather(*(client.post(**request) for request in requests))
    return [(response.status_code, response.json()) for response in responses]


@shows("FastAPI Integration")
def test_fastapi(code: str, server: ModelServer) -> None:
    async def main() -> None:
        transport = httpx.ASGITransport(app=names["app"])

        async def ask(*requests: dict[str, Any]) -> list[tuple[int, Any]]:
            return await post("http://app", *requests, transport=transport)

        answer_in_groups(server, 2, of=2)
        chats = [{"url": "/chat", "params": {"message": f"chat {i}"}} for i in range(2)]
        assert await ask(*chats) == [(200, {"response": f"<chat {i}>"}) for i in range(2)]
        assert {request.system for request in server.requests} == {"You are helpful."}
        server.reset()

        answer_in_groups(server, 3, of=3)
        batch = {"url": "/batch", "json": ["a", "b", "c"]}
        assert await ask(batch) == [(200, {"responses": ["<a>", "<b>", "<c>"]})]
        assert server.peak == 3

        server.plan = lambda _: REFUSED
        for status, body in await ask(chats[0], batch):
            assert status == 500
            assert "not today" in body["detail"]

    names = run_cell(code)
    asyncio.run(main())


@shows_wrong("FastAPI Integration")
def test_fastapi_takes_a_bare_list_for_files(code: str, server: ModelServer) -> None:
    transport = httpx.ASGITransport(app=run_cell(code)["app"])
    batch = {"url": "/batch", "json": ["a", "b", "c"]}
    ((status, body),) = asyncio.run(post("http://app", batch, transport=transport))
    assert (status, body["detail"][0]["msg"]) == (422, "Field required")
    assert server.received == 0


ON_LOOPBACK = """\
# Runs a script in which web.run_app listens at a free port of this machine, not at 8080 of all its addresses.
import runpy
import sys

from aiohttp import web

run_app = web.run_app
web.run_app = lambda app, port: run_app(app, host="127.0.0.1", port=0)
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@shows("Aiohttp Integration")
def test_aiohttp(code: str, server: ModelServer, tmp_path: Path) -> None:
    """The agent is made on one loop and asked on another."""
    (tmp_path / "app.py").write_text(code, encoding="utf-8")
    (tmp_path / "on_loopback.py").write_text(ON_LOOPBACK, encoding="utf-8")
    strict = ("-W", "error", "-W", "ignore:It is recommended to use web.AppKey")  # aiohttp's advice to the snippet
    with running(*strict, "on_loopback.py", "app.py", folder=tmp_path) as program:
        url = re.search(r"http://127\.0\.0\.1:\d+", program.stdout.readline())
        assert url, program.stderr.read()
        answer_in_groups(server, 2, of=2)
        chats = [{"url": "/chat", "json": {"message": f"chat {i}"}} for i in range(2)]
        answers = asyncio.run(post(url[0], *chats))
        assert answers == [(200, {"response": f"<chat {i}>"}) for i in range(2)]
        server.plan = lambda _: REFUSED
        ((status, body),) = asyncio.run(post(url[0], chats[0]))
        assert status == 500
        assert "not today" in body["error"]
        program.send_signal(signal.SIGINT)
        _, complaints = program.communicate(timeout=20)
    assert (program.returncode, complaints) == (0, "")


# -- tests -----------------------------------------------------------------------------------------------------------


@shows("Unit Testing with pytest")
def test_pytest(code: str, server: ModelServer, tmp_path: Path) -> None:
    server.plan = lambda _: when(lambda: server.received in (1, 4))  # one, then three at once
    ini = "[pytest]\nasyncio_default_fixture_loop_scope = function\n"  # pytest-asyncio wants it said
    (tmp_path / "pytest.ini").write_text(ini, encoding="utf-8")
    (tmp_path / "test_agent.py").write_text(code, encoding="utf-8")
    ended = run_program(*STRICT, "-m", "pytest", "-p", "no:cacheprovider", "test_agent.py", folder=tmp_path)
    assert ended.status == 0, ended.said
    assert "2 passed in" in ended.said
    assert sorted(asked(server)) == ["msg0", "msg1", "msg2", "test"]
    assert server.peak == 3


# -- best practices: parts of a cell ---------------------------------------------------------------------------------


@shows("1. Use Async for I/O-Bound Operations")
def test_gather_and_what_to_avoid(code: str, server: ModelServer) -> None:
    good, avoid = code.split("# Avoid: Sequential I/O\n")
    answer_in_groups(server, 3, of=3)
    queries = 'queries = ["Q1", "Q2", "Q3"]\n'
    names = run_cell(AGENT + queries + good + "responses = await get_multiple_responses(agent, queries)\n")
    assert names["responses"] == ["<Q1>", "<Q2>", "<Q3>"]
    assert server.peak == 3
    server.reset()

    # "blocks", one at a time: the call that does has a suffix; without it nothing is sent, and Python says so
    server.plan = None
    run_cell(AGENT + queries + avoid.replace("send_message(", "send_message_sync("))
    assert (asked(server), server.peak) == (["Q1", "Q2", "Q3"], 1)
    with pytest.warns(RuntimeWarning, match="never awaited"):
        run_cell(AGENT + queries + avoid)
    assert server.received == 3


@shows("2. Reuse Agent Instances")
def test_one_agent_for_many_queries(code: str, server: ModelServer) -> None:
    answer_in_groups(server, 3, of=6)
    queries = 'queries = ["Q1", "Q2", "Q3"]\n'
    again = 'responses += await asyncio.gather(*[agent.send_message(q) for q in ("Q4", "Q5", "Q6")])\n'
    names = run_cell(IMPORTS + queries + code + again)
    assert names["responses"] == [f"<Q{i}>" for i in range(1, 7)]
    assert sorted(asked(server)) == [f"Q{i}" for i in range(1, 7)]
    assert server.peak == 3


@shows("3. Handle Exceptions Properly")
def test_exceptions_are_returned(code: str, server: ModelServer) -> None:
    queries = 'queries = ["Q1", "Q2", "Q3"]\n'
    first, second, third = run_while_server_refuses("Q2", AGENT + queries + code, server)
    assert (first, third) == ("Query 0: <Q1>", "Query 2: <Q3>")
    assert second.startswith("Query 1 failed: ")
    assert "not today" in second


@shows("4. Use Appropriate Concurrency")
def test_five_at_once(code: str, server: ModelServer) -> None:
    answer_in_groups(server, 5, of=12)
    names = run_cell(AGENT + "messages = [str(i) for i in range(12)]\n" + code)
    assert names["responses"] == [f"<{i}>" for i in range(12)]
    assert server.peak == 5


@shows("5. Set Timeouts")
def test_an_answer_within_ten_seconds(code: str, server: ModelServer) -> None:
    assert run_cell(AGENT + 'message = "Hello"\n' + code)["response"] == "<Hello>"


@shows("5. Set Timeouts")
def test_no_answer_within_ten_seconds(code: str, server: ModelServer, capsys: pytest.CaptureFixture[str]) -> None:
    run_while_server_hangs(AGENT + 'message = "Hello"\n' + code, server, seconds=10)
    assert capsys.readouterr().out == "Operation timed out\n"


# -- agents ----------------------------------------------------------------------------------------------------------


@shows("Async Message Handlers")
def test_an_async_handler_is_fully_supported(code: str, server: ModelServer, tmp_path: Path) -> None:
    """Alone, and asked in a mesh, on the loop that runs."""
    asked = """
from ceylon_nb import LocalMesh

async def main():
    agent = MyAsyncAgent("clerk")
    print(await agent.send_message("one"))
    async with LocalMesh() as mesh:
        mesh.add_agent(agent)
        print(await mesh.query("clerk", "two"))
    print(agent.last_response())

asyncio.run(main())
"""
    assert run_script(code + asked, tmp_path).lines == [
        "Async Handled: one", "Async Handled: two", "Async Handled: two"
    ]  # fmt: skip
    assert server.received == 0


@shows("Async Actions")
def test_actions_on_a_class(code: str, server: ModelServer, tmp_path: Path) -> None:
    """The async one, which the document has only as a comment, taken in."""
    taken_in = re.sub(r"# (@Agent\.action\(name=\"async_get\".*|async def .*| +return .*)", r"\1", code)
    assert taken_in.count("Agent.action") == 2
    acted = """
import asyncio

async def main():
    agent = MyAgent("clerk")
    print(agent.get_data("key"), sorted(agent.actions))
    for name in ("get_data", "async_get"):
        print(await agent.act(name, {"key": "x"}), agent.actions[name].description)

asyncio.run(main())
"""
    assert run_script(taken_in + acted, tmp_path).lines == [
        "data ['async_get', 'get_data']", "data Get data", "data Get async"
    ]  # fmt: skip
    assert server.received == 0


# -- debugging -------------------------------------------------------------------------------------------------------


@shows("Enable Debug Logging")
def test_the_debug_mode_finds_nothing(code: str, server: ModelServer, tmp_path: Path) -> None:
    """No step of a query holds up the loop: not while the server takes its time, nor what is imported on first use."""
    server.latency = 0.3
    main = OVERVIEW.right("Concurrent Queries").replace("asyncio.run(main())\n", "")
    (tmp_path / "script.py").write_text(main + code, encoding="utf-8")
    with running("-W", "error", "script.py", folder=tmp_path) as program:
        said, log = program.communicate(timeout=20)
    assert program.returncode == 0
    assert said.count("A: <") == 3
    assert "DEBUG:asyncio:Using selector" in log
    assert {line.split(":")[0] for line in log.splitlines()} == {"DEBUG"}


@shows("Track Task Status")
def test_completions_are_told_in_their_order(
    code: str, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answered out of order, each when the one before it has been told."""
    told: list[str] = []
    order = ["Q3", "Q1", "Q2"]
    broken = faults.status(400, '{"error": "no ones"}')
    server.plan = lambda request: when(
        lambda: len(told) >= order.index(request.prompt), then=broken if request.prompt == "Q1" else None
    )
    run_cell(code + "await debug_concurrent()\n", print=told.append)
    assert (told[0], told[2]) == ("Completed: <Q3>...", "Completed: <Q2>...")
    assert told[1].startswith("Failed: ")
    assert "no ones" in told[1]
