"""What `build` does so that nobody waits for it later; imports in threads, interrupted, forked, at Python's end."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from ceylon_nb import LlmAgent, loop
from ceylon_nb.testing import ModelServer


def strict(script: str, *args: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script in a new Python that is in development mode, with every warning an error."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(script), *args]
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment, check=False)


def says(done: subprocess.CompletedProcess[str]) -> str:
    """What it printed; it has to end well, and without a word on stderr."""
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with modules that take their time: `slow_to_import` until told, `half_a_second` just that."""
    (tmp_path / "slow_to_import.py").write_text(
        "import builtins\nbuiltins.slow_begun.set()\nassert builtins.slow_goes_on.wait(20)\n"
    )
    (tmp_path / "half_a_second.py").write_text("import time\ntime.sleep(0.5)\nwhole = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


# -- build -----------------------------------------------------------------------------------------------------------

BUILT = """
import sys, threading
from ceylon_nb import LlmAgent
agent = LlmAgent("a", {model}, base_url="http://127.0.0.1:1")
before = {{"aiohttp", "httpx"}} & set(sys.modules)
agent.build()
print(len(before), "ceylon_nb.http" in sys.modules, [thread.name for thread in threading.enumerate()])
"""


@pytest.mark.parametrize("model", ['"ollama::mock"', '"openai::mock"', '"demo::tutor"'])
def test_what_asks_is_there_once_an_agent_is_built(model: str) -> None:
    assert says(strict(BUILT.format(model=model))) == "0 True ['MainThread']"


def test_a_function_needs_nothing_that_asks() -> None:
    assert says(strict("async def f(messages): ...\n" + BUILT.format(model="f"))) == "0 False ['MainThread']"


def test_a_replay_needs_nothing_that_asks(tmp_path: Path) -> None:
    script = """
    import sys
    from ceylon_nb import LlmAgent, replay
    with replay(sys.argv[1]):
        LlmAgent("a", "ollama::mock").build()
    print({"aiohttp", "httpx"} & set(sys.modules))
    """
    (tmp_path / "calls.jsonl").touch()
    assert says(strict(script, str(tmp_path / "calls.jsonl"))) == "set()"


def test_certificates_are_read_when_an_agent_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ceylon_nb.errors import ConfigurationError

    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "there is none.pem"))
    with pytest.raises(ConfigurationError, match="No certificates can be read"):
        LlmAgent("a", "openai::mock", base_url="https://127.0.0.1:1", api_key="k").build()
    LlmAgent("a", "openai::mock", base_url="http://127.0.0.1:1", api_key="k").build()


def test_a_loop_goes_on_while_an_agent_is_entered(model_server: ModelServer) -> None:
    script = """
    import asyncio, sys
    from ceylon_nb import LlmAgent

    async def main():
        beats = 0
        async def beat():
            nonlocal beats
            while True:
                await asyncio.sleep(0.001)
                beats += 1
        heart = asyncio.create_task(beat())
        async with LlmAgent("a", "ollama::mock", base_url=sys.argv[1]) as agent:
            entered = beats
            print(await agent.send_message("hi"), "beating" if entered else "standing still")
        heart.cancel()

    asyncio.run(main())
    """
    model_server.reply = "Yes."
    assert says(strict(script, model_server.url)) == "Yes. beating"


# -- imports ---------------------------------------------------------------------------------------------------------


def test_python_may_end_in_the_midst_of_an_import() -> None:
    script = """
    import asyncio
    from ceylon_nb.loop import load

    async def main():
        asyncio.get_running_loop().create_task(load("ceylon_nb.http"))
        await asyncio.sleep(0.01)

    asyncio.run(main())
    """
    assert says(strict(script)) == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_fork_in_the_midst_of_an_import_can_import_the_same(slow: Path) -> None:
    script = """
    import asyncio, os, signal
    from ceylon_nb.loop import load

    async def main():
        asyncio.get_running_loop().slow_callback_duration = 10
        asyncio.get_running_loop().create_task(load("half_a_second"))
        await asyncio.sleep(0.1)
        child = os.fork()
        if not child:
            signal.alarm(10)  # should it hang
            import half_a_second
            os._exit(7 if half_a_second.whole else 8)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    asyncio.run(main())
    """
    assert says(strict(script, path=slow)) == "7"


def test_an_interrupt_ends_the_waiting_and_not_the_import(slow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    begun, goes_on = threading.Event(), threading.Event()
    monkeypatch.setattr(builtins, "slow_begun", begun, raising=False)
    monkeypatch.setattr(builtins, "slow_goes_on", goes_on, raising=False)

    def interrupt() -> None:
        assert begun.wait(20)
        os.kill(os.getpid(), signal.SIGINT)

    impatient = threading.Thread(target=interrupt)
    impatient.start()
    with pytest.raises(KeyboardInterrupt):
        loop.load_now("slow_to_import")
    impatient.join()
    assert not goes_on.is_set()
    goes_on.set()
    assert loop.load_now("slow_to_import") is sys.modules["slow_to_import"]


def test_an_import_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for text, error in (("raise OSError('not now')", OSError), ("raise SystemExit", SystemExit)):
        (tmp_path / "moody.py").write_text(text)
        with pytest.raises(error):
            loop.load_now("moody")
    (tmp_path / "moody.py").write_text("good = 'now'")
    assert loop.load_now("moody").good == "now"
