"""At home wherever asyncio runs: scripts, IPython in a terminal, pytest's plugins, uvloop, threads, web apps."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import anyio
import httpx
import pytest

from ceylon_nb import LlmAgent, as_completed, batch, errors
from ceylon_nb.testing import Exchange, Fault, ModelServer, faults

SECONDS = 20

pytestmark = pytest.mark.model_server(reply="Yes.")


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CEYLON_NB_STORE": "off", **more}


def strict(script: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a script with every warning an error, and Python in its development mode."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(script), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(), check=False)


def all_at_once(server: ModelServer, count: int) -> Fault:
    """An answer that waits until so many requests have come: more at a time means it need not wait for ever."""

    async def play(exchange: Exchange):
        await server.until(lambda seen: seen.received >= count)
        return await exchange.answer()

    return Fault(f"all_at_once({count})", play, harmless=True)


def hang_all(server: ModelServer) -> None:
    server.plan = lambda request: faults.hang()


# -- a plain script ---------------------------------------------------------------------------------------------------

SCRIPT = """
    import asyncio, sys
    from ceylon_nb import LlmAgent, as_completed

    url, mode = sys.argv[1:]

    async def main():
        agent = LlmAgent("a", "ollama::mock", base_url=url)
        assert await agent.send_message("one") == "Yes."
        frame = await agent.map(range(200), "{}", max_at_once=50)
        assert list(frame["reply"]) == ["Yes."] * 200
        tasks = {asyncio.create_task(agent.send_message(f"task {n}")): n for n in range(20)}
        assert sorted([tasks[task] async for task in as_completed(tasks)]) == list(range(20))
        assert [text async for text in agent.stream("a stream")] == ["Yes."]
        assert agent.send_message_sync("sync") == "Yes."

    asyncio.run(main(), debug=mode == "debug")
    print("done")
"""


@pytest.mark.parametrize("mode", ["plain", "debug"])
def test_a_script_says_nothing_but_its_own(model_server: ModelServer, mode: str) -> None:
    """In debug mode asyncio names whoever keeps its loop busy for 0.1 s: nothing of ours, its imports included.

    A machine that has other things to do may cause such a line once, but not three times.
    """
    model_server.plan = lambda request: all_at_once(model_server, 51) if 1 < request.number <= 51 else None
    for tries_left in (2, 1, 0):
        done = strict(SCRIPT, model_server.url, mode)
        assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
        assert (model_server.served, model_server.active, model_server.peak) == (223, 0, 50)
        if not (done.stderr.startswith("Executing <") and tries_left):
            break
        model_server.reset()
    assert done.stderr == ""
    model_server.wait_for(lambda seen: seen.connections == 0)


INTERRUPTED = """
    import asyncio, signal, sys
    from ceylon_nb import LlmAgent

    async def main():
        await LlmAgent("a", "ollama::mock", base_url=sys.argv[1]).send_message("hi")

    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        print("interrupted")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process")
def test_ctrl_c_in_a_script_closes_the_request(model_server: ModelServer) -> None:
    hang_all(model_server)
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(INTERRUPTED), model_server.url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    with process:
        model_server.wait_for(lambda seen: seen.active == 1, timeout=SECONDS)
        process.send_signal(signal.SIGINT)
        model_server.wait_for(lambda seen: (seen.active, seen.aborted) == (0, 1), timeout=1)
        out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out) == (0, "interrupted\n"), err
    assert [line for line in err.splitlines() if not line.startswith("Executing <")] == []


MEANWHILE = """
    import asyncio, sys
    from ceylon_nb import batch

    async def answer(item):
        return item

    async def cell():
        return await batch(answer, [1])

    async def main():
        assert "pandas" not in sys.modules
        first = asyncio.create_task(cell())
        while not first.done():
            assert (await anext(aiter(batch(answer, [2])))).reply == 2
        assert first.result()["reply"][0] == 1

    asyncio.run(main())
"""


def test_batches_may_begin_while_pandas_is_being_imported() -> None:
    done = strict(MEANWHILE)
    assert done.returncode == 0, done.stderr


def test_one_agent_in_fifty_loops_one_after_the_other(model_server: ModelServer) -> None:
    agent = LlmAgent("a", "ollama::mock", base_url=model_server.url)
    chat = agent.conversation()

    async def main(n: int) -> None:
        run = agent.map([f"{n}: a", f"{n}: b"], view=None)
        replies = await asyncio.gather(*(agent.send_message(f"{n}: {k}") for k in range(4)), chat.send(f"{n}: chat"))
        assert replies == ["Yes."] * 5
        assert [text async for text in agent.stream(f"{n}: stream")] == ["Yes."]
        assert list((await run)["reply"]) == ["Yes.", "Yes."]
        assert agent.send_message_sync(f"{n}: sync") == "Yes."

    for n in range(50):
        asyncio.run(main(n))
    assert model_server.served == model_server.received == 50 * 9
    assert len(chat.messages) == 100


# -- IPython in a terminal --------------------------------------------------------------------------------------------


class Terminal:
    """IPython on a terminal, at its prompt."""

    def __init__(self, home: Path) -> None:
        import pexpect

        options = "--simple-prompt --no-banner --no-confirm-exit --colors=NoColor --HistoryManager.enabled=False"
        self.process = pexpect.spawn(
            sys.executable,
            ["-m", "IPython", *options.split()],
            env=environment(IPYTHONDIR=str(home), TERM="dumb"),
            encoding="utf-8",
            echo=False,
            timeout=SECONDS,
            dimensions=(40, 200),
        )
        self.process.delaybeforesend = None
        self.prompt()

    def prompt(self, within: float = SECONDS) -> str:
        """Wait for the next prompt; returns what was said before it."""
        self.process.expect(r"In \[\d+\]: ", timeout=within)
        return self.process.before.replace("\r\n", "\n").strip()

    def begin(self, cell: str) -> None:
        self.process.sendline(cell)

    def run(self, cell: str) -> str:
        """What a cell says."""
        self.begin(cell)
        return self.prompt()

    def value(self, cell: str) -> str:
        """The repr of a cell's last line."""
        return self.run(cell).partition("]: ")[2]

    def leave(self) -> str:
        self.begin("exit")
        said = self.process.read()
        self.process.close()
        assert self.process.exitstatus == 0
        return said


@pytest.fixture
def terminal(tmp_path: Path, model_server: ModelServer) -> Iterator[Terminal]:
    if sys.platform == "win32":
        pytest.skip("there are no pseudo-terminals")
    terminal = Terminal(tmp_path)
    try:
        said = terminal.run("from ceylon_nb import LlmAgent")
        said += terminal.run(f"agent = LlmAgent('a', 'ollama::mock', base_url={model_server.url!r})")
        assert said == ""
        yield terminal
    finally:
        terminal.process.close(force=True)


def test_at_the_prompt_of_ipython(terminal: Terminal, model_server: ModelServer) -> None:
    """No loop runs between two cells there: a batch runs on the library's own, until then and beyond."""
    assert terminal.value("await agent.send_message('hi'), agent.send_message_sync('hi')") == "('Yes.', 'Yes.')"
    assert terminal.value("[text async for text in agent.stream('hi')]") == "['Yes.']"
    assert terminal.run("run = agent.map(range(20), '{}', max_at_once=20)") == ""
    model_server.wait_for(lambda seen: seen.served == 23)
    assert terminal.value("run.result().shape") == "(20, 9)"
    assert terminal.value("int((await run).reply.eq('Yes.').sum())") == "20"
    assert terminal.value("run = agent.map(range(20)); frame = await run; frame.shape, run") == (
        "((20, 9), Batch(20 ok of 20))"
    )
    assert terminal.value("run = agent.map(range(5)); await agent.send_message('hi')") == "Yes."
    assert terminal.value("(await run).shape") == "(5, 9)"  # it stood still with the loop of its cell
    assert terminal.leave() == ""
    model_server.wait_for(lambda seen: seen.connections == 0)


SOON = "import asyncio; asyncio.get_running_loop().call_soon(print, 'waits'); "  # once the cell has nothing else to do
LATER = "import threading; threading.Timer(0.2, print, ['waits']).start(); "


@pytest.mark.parametrize(
    "cell",
    [SOON + "await run", SOON + "[answer async for answer in run]", LATER + "run.result()"],
    ids=["await", "async for", "result"],
)
def test_ctrl_c_at_the_prompt_stops_a_batch_and_keeps_its_answers(
    terminal: Terminal, model_server: ModelServer, cell: str
) -> None:
    model_server.plan = lambda request: faults.hang() if int(request.prompt) >= 10 else None
    assert terminal.run("run = agent.map(range(20), '{}', max_at_once=8)") == ""
    model_server.wait_for(lambda seen: (seen.served, seen.active) == (10, 8))
    terminal.begin(cell)
    terminal.process.expect("waits\r\n")
    said = interrupt(terminal, model_server)
    assert said == "Interrupted: 10 of 20 answers are in run.frame; run.resume() goes on."
    assert terminal.value("run") == "Batch(10 ok, 8 cancelled of 20, cancelled)"
    assert (model_server.received, model_server.aborted) == (18, 8)

    model_server.plan = None
    assert terminal.value("run.resume(); int(run.result().reply.eq('Yes.').sum())") == "20"
    assert model_server.received == 28
    assert terminal.leave() == ""


def test_ctrl_c_at_the_prompt_closes_requests(terminal: Terminal, model_server: ModelServer) -> None:
    hang_all(model_server)
    line = "Interrupted before ollama::mock had answered: the request is closed."
    for cell in (
        "await agent.send_message('hi')",
        "agent.send_message_sync('hi')",
        "[_ async for _ in agent.stream('hi')]",
    ):
        terminal.begin(cell)
        model_server.wait_for(lambda seen: seen.active == 1)
        assert interrupt(terminal, model_server) == line
    terminal.begin("run = agent.map(range(3)); await run")
    model_server.wait_for(lambda seen: seen.active == 3)
    assert interrupt(terminal, model_server).startswith("Interrupted: 0 of 3 answers are in run.frame")
    model_server.plan = None
    assert terminal.value("run.resume(); int((await run).reply.eq('Yes.').sum())") == "3"
    assert terminal.value("await agent.send_message('hi'), agent.send_message_sync('hi')") == "('Yes.', 'Yes.')"
    assert terminal.value("import asyncio; await asyncio.sleep(0); len(asyncio.all_tasks())") == "1"
    assert terminal.leave() == ""


def interrupt(terminal: Terminal, server: ModelServer) -> str:
    """Press Ctrl-C: prompt and server are free within a second. Returns what was said."""
    terminal.process.sendintr()
    said = terminal.prompt(within=1)
    server.wait_for(lambda seen: seen.active == 0, timeout=0.5)
    return said


# -- pytest's plugins -------------------------------------------------------------------------------------------------

TESTS = """
    import asyncio, os
    import anyio, pytest
    from ceylon_nb import LlmAgent

    agent = LlmAgent("a", "ollama::mock", base_url=os.environ["MODEL_SERVER"])

    async def use():
        run = agent.map(range(5), view=None)
        assert await agent.send_message("hi") == "Yes."
        assert [text async for text in agent.stream("hi")] == ["Yes."]
        assert len(await run) == 5
        assert agent.send_message_sync("hi") == "Yes."
        unfinished = agent.map(range(100), max_at_once=2, view=None)
        await anext(aiter(unfinished.answers()))
        unfinished.cancel()

    @pytest.fixture(scope="module")
    def anyio_backend():
        return "asyncio"

    @pytest.fixture
    async def of_anyio(anyio_backend):
        return await agent.send_message("a fixture")

    @pytest.mark.anyio
    async def test_with_a_fixture(of_anyio):
        await use()

    @pytest.mark.anyio
    async def test_in_a_task_group():
        async with anyio.create_task_group() as group:
            group.start_soon(use)
            group.start_soon(use)

    @pytest.mark.anyio
    async def test_out_of_time():
        with anyio.move_on_after(0.05) as scope:
            await agent.send_message("hang")
        assert scope.cancelled_caught

    @pytest.mark.asyncio
    class TestOfALoopForEach:
        async def test_first(self):
            await use()

        async def test_second(self):
            await use()

    @pytest.mark.asyncio(loop_scope="session")
    class TestOfTheSession:
        async def test_first(self):
            await use()

        async def test_second(self):
            await use()
"""


def test_in_the_tests_of_others(model_server: ModelServer, tmp_path: Path) -> None:
    """One agent for all tests of a module, with pytest-asyncio and anyio's plugin, a loop for each test or for many."""
    pytest.importorskip("pytest_asyncio")
    model_server.plan = lambda request: faults.hang() if request.prompt == "hang" else None
    (tmp_path / "test_theirs.py").write_text(textwrap.dedent(TESTS))
    settings = ["[pytest]", "asyncio_mode = strict", "asyncio_default_fixture_loop_scope = function"]
    (tmp_path / "pytest.ini").write_text("\n".join(settings))
    options = "-q -W error -p pytest_asyncio.plugin -p anyio.pytest_plugin -p no:cacheprovider"
    python = [sys.executable, "-X", "dev", "-W", "error"]
    done = subprocess.run(
        [*python, "-m", "pytest", *options.split(), "test_theirs.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(MODEL_SERVER=model_server.url, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"),
        check=False,
    )
    assert "7 passed" in done.stdout, done.stdout + done.stderr
    assert (done.returncode, done.stderr) == (0, "")
    model_server.wait_for(lambda seen: seen.connections == 0)


# -- uvloop -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", ["uvloop.run", "Runner"])
def test_on_uvloop(model_server: ModelServer, begin: str) -> None:
    uvloop = pytest.importorskip("uvloop", reason="there is no uvloop here, as on Windows")
    agent = LlmAgent("a", "ollama::mock", base_url=model_server.url)

    async def main() -> None:
        assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
        run = agent.map(range(50), max_at_once=10, view=None)
        assert agent.send_message_sync("sync") == "Yes."  # while it runs
        assert [text async for text in agent.stream("a stream")] == ["Yes."]
        assert list((await run)["reply"]) == ["Yes."] * 50

        hang_all(model_server)
        run = agent.map(range(20), max_at_once=5, view=None)
        asking = asyncio.create_task(agent.send_message("hi"))
        await model_server.until(lambda seen: seen.active == 6)
        asking.cancel()
        run.cancel()
        assert list((await run)["status"]) == ["cancelled"] * 5 + ["waiting"] * 15
        with pytest.raises(asyncio.CancelledError):
            await asking
        await model_server.until(lambda seen: (seen.active, seen.aborted) == (0, 6), timeout=0.5)

    if begin == "Runner":
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    else:
        uvloop.run(main())
    assert model_server.served == 52


# -- threads ----------------------------------------------------------------------------------------------------------


def test_one_agent_in_many_threads_with_loops_and_without(model_server: ModelServer) -> None:
    agent = LlmAgent("a", "ollama::mock", base_url=model_server.url)
    model_server.reply = lambda messages: f"on {messages[-1]['content']}"
    together = threading.Barrier(16)

    async def cell(name: str) -> list[str]:
        return list((await agent.map([f"{name}.{n}" for n in range(30)], view=None))["reply"])

    def with_a_loop(name: str) -> list[str]:
        together.wait(SECONDS)
        return asyncio.run(cell(name))

    def without(name: str) -> list[str]:
        together.wait(SECONDS)
        run = agent.map([f"{name}.{n}" for n in range(29)], view=None)
        return [agent.send_message_sync(f"{name}.sync"), *run.result(SECONDS)["reply"]]

    with ThreadPoolExecutor(16) as pool:
        loops = {name: pool.submit(with_a_loop, name) for name in map(str, range(8))}
        plain = {name: pool.submit(without, name) for name in map(str, range(8, 16))}
    for name, each in loops.items():
        assert each.result() == [f"on {name}.{n}" for n in range(30)]
    for name, each in plain.items():
        assert each.result() == [f"on {name}.sync", *(f"on {name}.{n}" for n in range(29))]
    assert model_server.served == model_server.received == 16 * 30
    assert {request.attempt for request in model_server.requests} == {1}


# -- web apps ---------------------------------------------------------------------------------------------------------

FASTAPI = """
    import contextlib, os, socket
    import uvicorn
    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse
    from ceylon_nb import LlmAgent

    agent = LlmAgent("a", "ollama::mock", base_url=os.environ["MODEL_SERVER"])
    app = FastAPI()

    @app.get("/ask")
    async def ask(question: str) -> str:
        return await agent.send_message(question)

    @app.get("/ask-in-a-thread")
    def ask_in_a_thread(question: str) -> str:
        return agent.send_message_sync(question)

    @app.post("/batch")
    async def batch(questions: list[str]) -> list[str]:
        return list((await agent.map(questions))["reply"])

    @app.get("/stream")
    async def stream(question: str) -> StreamingResponse:
        return StreamingResponse(agent.stream(question))

    if __name__ == "__main__":
        listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        print(listening.getsockname()[1], flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])
"""


@contextmanager
def served(script: str, **more: str) -> Iterator[str]:
    """Run a web app; its address. On leaving it is shut down, by Ctrl-C, and has said nothing."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(**more)
    )
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
        assert (process.returncode, out, err) == (0, "", "")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process")
def test_in_a_fastapi_app(model_server: ModelServer) -> None:
    """A hundred requests at once: the model sees a hundred at once."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    model_server.plan = lambda request: all_at_once(model_server, 100)

    async def main(url: str) -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=SECONDS, trust_env=False) as client:
            answers = await asyncio.gather(*(client.get("/ask", params={"question": f"{n}"}) for n in range(100)))
            assert [(each.status_code, each.json()) for each in answers] == [(200, "Yes.")] * 100
            assert model_server.peak == 100
            in_threads = [client.get("/ask-in-a-thread", params={"question": f"{n}"}) for n in range(10)]
            assert [each.json() for each in await asyncio.gather(*in_threads)] == ["Yes."] * 10
            assert (await client.post("/batch", json=["a", "b"])).json() == ["Yes.", "Yes."]
            assert (await client.get("/stream", params={"question": "hi"})).text == "Yes."
            model_server.plan = lambda request: faults.hang(after=1)
            async with client.stream("GET", "/stream", params={"question": "hi"}) as response:
                assert await anext(response.aiter_text()) == "Yes."
            await model_server.until(lambda seen: (seen.active, seen.aborted) == (0, 1), timeout=1)  # its reader left

    with served(FASTAPI, MODEL_SERVER=model_server.url) as url:
        asyncio.run(main(url))
    assert (model_server.active, model_server.served) == (0, 113)
    model_server.wait_for(lambda seen: seen.connections == 0)


def test_in_an_aiohttp_app_that_is_made_in_one_loop_and_served_in_another(model_server: ModelServer) -> None:
    from aiohttp import ClientSession, web

    async def init_app() -> web.Application:
        agent = LlmAgent("a", "ollama::mock", base_url=model_server.url)
        assert await agent.send_message("is it there?") == "Yes."
        chat = agent.conversation()
        await chat.send("hello")

        async def ask(request: web.Request) -> web.Response:
            return web.Response(text=await agent.send_message(request.query["question"]))

        async def say(request: web.Request) -> web.Response:
            return web.Response(text=await chat.send(request.query["question"]))

        app = web.Application()
        app.add_routes([web.get("/ask", ask), web.get("/say", say)])
        return app

    async def serve(app: web.Application) -> None:
        model_server.reset()
        model_server.plan = lambda request: all_at_once(model_server, 50)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0, backlog=256).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            async with ClientSession(url) as client:

                async def get(path: str, n: int) -> tuple[int, str]:
                    async with client.get(path, params={"question": f"{n}"}) as response:
                        return response.status, await response.text()

                answers = await asyncio.gather(*(get("/ask", n) for n in range(49)), get("/say", 49))
            assert answers == [(200, "Yes.")] * 50
        finally:
            await runner.cleanup()

    asyncio.run(serve(asyncio.run(init_app())))
    assert (model_server.peak, model_server.active) == (50, 0)
    model_server.wait_for(lambda seen: seen.connections == 0)


# -- timeouts and task groups -----------------------------------------------------------------------------------------


@pytest.fixture
def agent(model_server: ModelServer) -> LlmAgent:
    return LlmAgent("a", "ollama::mock", base_url=model_server.url)


async def one(agent: LlmAgent):
    await agent.send_message("hi")


async def several(agent: LlmAgent):
    await asyncio.gather(*(agent.send_message(f"{n}") for n in range(3)))


async def read(agent: LlmAgent):
    async for _ in agent.stream("hi"):
        pass


async def batches(agent: LlmAgent):
    await asyncio.gather(agent.map(["a", "b"], view=None), agent.map(["c", "d"], view=None))


async def finished_first(agent: LlmAgent):
    async for _ in as_completed([agent.send_message("a"), agent.send_message("b")]):
        pass


async def answers(agent: LlmAgent):
    async for _ in agent.map(["a", "b", "c"], view=None):
        pass


KINDS = {one: 1, several: 3, read: 1, batches: 4, finished_first: 2, answers: 3}  # and how many requests each sends


async def within_timeout(work, seconds):
    async with asyncio.timeout(seconds):
        await work


async def within_fail_after(work, seconds):
    with anyio.fail_after(seconds):
        await work


@pytest.mark.parametrize("within", [within_timeout, asyncio.wait_for, within_fail_after])
def test_out_of_time_is_a_timeout_error_and_closes_every_request(agent, model_server, within) -> None:
    hang_all(model_server)
    count = sum(KINDS.values())

    async def outcome(kind) -> str:
        try:
            await within(kind(agent), 0.3)
        except TimeoutError as error:
            assert asyncio.current_task().cancelling() == 0
            return type(error).__name__
        except asyncio.CancelledError as error:
            return repr(error)

    async def main() -> None:
        outcomes = await asyncio.gather(*map(outcome, KINDS))
        assert dict(zip(KINDS, outcomes, strict=True)) == dict.fromkeys(KINDS, "TimeoutError")
        await model_server.until(lambda seen: (seen.active, seen.aborted) == (0, count), timeout=0.5)
        assert len(asyncio.all_tasks()) == 1
        model_server.plan = None
        assert await agent.send_message("and now?") == "Yes."

    asyncio.run(main())
    assert model_server.received == count + 1


@pytest.mark.parametrize("group", ["asyncio", "anyio"])
def test_a_failing_sibling_in_a_task_group_ends_ours_and_alone_has_failed(agent, model_server, group) -> None:
    hang_all(model_server)
    count = sum(KINDS.values())

    async def fail() -> None:
        await model_server.until(lambda seen: seen.active == count)
        raise ValueError("the sibling")

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            if group == "asyncio":
                async with asyncio.TaskGroup() as together:
                    for work in (fail(), *(kind(agent) for kind in KINDS)):
                        together.create_task(work)
            else:
                async with anyio.create_task_group() as ours:
                    ours.start_soon(fail)
                    for kind in KINDS:
                        ours.start_soon(kind, agent)
        [error] = caught.value.exceptions
        assert repr(error) == "ValueError('the sibling')"
        await model_server.until(lambda seen: (seen.active, seen.aborted) == (0, count), timeout=0.5)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


# -- groups of exceptions ---------------------------------------------------------------------------------------------


def nested(*leaves: Exception) -> ExceptionGroup:
    return ExceptionGroup("outer", [ExceptionGroup("inner", leaves), TypeError("another")])


async def fails(_: object) -> str:
    async with asyncio.TaskGroup() as group:
        group.create_task(fail_in_a_group())
    return "unreachable"


async def fail_in_a_group() -> None:
    raise nested(LookupError("the first"))


def check(caught: BaseException) -> None:
    """It is the first of those in the group, and no group is in its history: IPython would show that, or hang."""
    assert repr(caught) == "LookupError('the first')"
    link: BaseException | None = caught
    while link is not None:
        assert not isinstance(link, BaseExceptionGroup)
        link = link.__context__


async def by_send_message(agent: LlmAgent) -> None:
    await agent.send_message("hi")


async def by_stream(agent: LlmAgent) -> None:
    assert [text async for text in agent.stream("hi")]


async def by_conversation(agent: LlmAgent) -> None:
    await agent.conversation().send("hi")


async def by_sync_call(agent: LlmAgent) -> None:
    agent.send_message_sync("hi")


async def by_map(agent: LlmAgent) -> None:
    await agent.map(range(5), view=None)


@pytest.mark.parametrize("ask", [by_send_message, by_stream, by_conversation, by_sync_call, by_map])
def test_a_group_that_a_model_of_ones_own_raises_leaves_as_its_first(ask) -> None:
    with pytest.raises(LookupError) as caught:
        asyncio.run(ask(LlmAgent("a", fails)))
    check(caught.value)


def test_a_group_that_a_row_raises_is_its_first() -> None:
    async def some_fail(item: int) -> int:
        if item % 2:
            raise nested(LookupError("the first"), OSError("the second"))
        return item

    async def main() -> None:
        run = batch(some_fail, range(4), view=None)
        frame = await run
        assert list(frame["error"]) == [None, "LookupError: the first"] * 2
        failed = [answer.error async for answer in run.answers() if answer.error is not None]
        for error in failed:
            check(error)
            assert any("OSError('the second')" in note for note in error.__notes__)  # nobody else would say so

        with pytest.raises(LookupError) as caught:
            await batch(fails, range(5), view=None)
        check(caught.value)

    asyncio.run(main())


def test_a_group_that_items_templates_or_transports_raise_is_its_first(model_server: ModelServer) -> None:
    def items() -> Iterator[str]:
        yield "one"
        raise nested(LookupError("the first"))

    def template(item: str) -> str:
        raise nested(LookupError("the first"))

    class Unreachable(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            raise nested(httpx.ConnectError("no route"), httpx.ConnectError("refused"))

    async def main() -> None:
        agent = LlmAgent("a", "ollama::mock", base_url=model_server.url, attempts=1)
        run = agent.map(items(), view=None)
        with pytest.raises(LookupError) as caught:
            await run
        check(caught.value)
        assert list(run.frame["reply"]) == ["Yes."]
        with pytest.raises(LookupError) as caught:
            await agent.map(range(5), template, view=None)
        check(caught.value)
        for ask in (by_send_message, by_stream, by_map):
            with pytest.raises(errors.ConnectionFailed, match="no route") as caught:
                await ask(agent.with_transport(Unreachable()))
            assert not isinstance(caught.value.__context__, BaseExceptionGroup)

    asyncio.run(main())
    assert model_server.received == 1
