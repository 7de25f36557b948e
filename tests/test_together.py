"""What only shows when the parts meet."""

import asyncio
import subprocess
import sys

import pytest

from ceylon_nb import LlmAgent, as_completed, batch, errors
from ceylon_nb.testing import ModelServer, faults


def test_the_same_key_is_the_same_account_however_it_was_given(model_server: ModelServer, monkeypatch) -> None:
    """A 429 for a key from the environment holds off the same key given by hand, and no other."""
    options = {"base_url": model_server.openai_url, "attempts": 1}
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    by_environment = LlmAgent("a", "openai::mock", **options).build()
    by_hand = LlmAgent("b", "openai::mock", api_key="sk-1", **options)
    somebody_else = LlmAgent("c", "openai::mock", api_key="sk-2", **options)
    model_server.next(faults.rate_limited(retry_after=0.5))

    async def main() -> None:
        with pytest.raises(errors.RateLimited):
            await by_environment.send_message("first")
        await asyncio.gather(by_hand.send_message("held"), somebody_else.send_message("free"))

    asyncio.run(main())
    first, free, held = model_server.requests
    assert (free.prompt, held.prompt) == ("free", "held")
    assert held.at - first.ended >= 0.5
    assert free.at - first.ended < 0.4


def test_build_reads_the_environment_anew(model_server: ModelServer, monkeypatch) -> None:
    agent = LlmAgent("a", "openai::mock", base_url=model_server.openai_url)
    for key in ("sk-old", "sk-new"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        agent.build().send_message_sync("hi")
    assert [request.headers["authorization"] for request in model_server.requests] == ["Bearer sk-old", "Bearer sk-new"]


def test_a_password_of_a_proxy_is_never_shown(monkeypatch) -> None:
    monkeypatch.setenv("http_proxy", "http://user:sekret@:bad")
    agent = LlmAgent("a", "ollama::m", base_url="http://gpu-box.invalid:1", attempts=1)
    with pytest.raises(errors.ConfigurationError, match="HTTP_PROXY") as raised:
        agent.send_message_sync("hi")
    assert "sekret" not in str(raised.value)


def test_a_date_that_is_none_is_no_time_to_wait(model_server: ModelServer) -> None:
    date = "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"
    model_server.next(faults.status(429, headers={"Retry-After": date}))
    agent = LlmAgent("a", "ollama::mock", base_url=model_server.url, attempts=1)
    with pytest.raises(errors.RateLimited) as raised:
        agent.send_message_sync("hi")
    assert raised.value.retry_after is None


def test_a_stream_that_breaks_knows_what_was_asked(model_server: ModelServer) -> None:
    model_server.next(faults.cut(2))
    agent = LlmAgent("a", "ollama::mock", base_url=model_server.url)

    async def main() -> None:
        async for _ in agent.stream("What is AI?"):
            pass

    with pytest.raises(errors.RequestError) as raised:
        asyncio.run(main())
    assert raised.value.item == "What is AI?"
    assert raised.value.latency is not None


@pytest.mark.parametrize("status", [402, 408, 418])
def test_every_refusal_says_what_to_do(model_server: ModelServer, status: int) -> None:
    model_server.next(faults.status(status, body="no"))
    agent = LlmAgent("a", "ollama::mock", base_url=model_server.url, attempts=1)
    with pytest.raises(errors.StatusError, match=r"\)\. \w+.*\.$"):
        agent.send_message_sync("hi")


def test_items_that_want_to_end_python_end_the_batch_alone() -> None:
    def items():
        yield 1
        raise SystemExit(3)

    async def fine(item: int) -> int:
        return item

    with pytest.raises(errors.CeylonError, match="wanted to end Python"):
        batch(fine, items(), view=None).result(10)
    assert list(batch(fine, [1, 2], view=None).result(10)["reply"]) == [1, 2]


def test_retrying_what_failed_right_after_a_cancel_asks_for_nothing_else() -> None:
    async def main() -> None:
        asked: list[int] = []
        hold = asyncio.Event()

        async def fn(item: int) -> int:
            asked.append(item)
            if item < 2 and asked.count(item) == 1:
                raise ValueError(item)
            if item >= 2:
                await hold.wait()
            return item

        run = batch(fn, range(8), max_at_once=8, view=None)
        while len(asked) < 8 or run.counts["failed"] < 2:
            await asyncio.sleep(0)
        run.cancel()
        run.retry_failed()
        frame = await run
        assert sorted(asked) == [0, 0, 1, 1, 2, 3, 4, 5, 6, 7]
        assert list(frame["status"]) == ["ok"] * 2 + ["cancelled"] * 6

    asyncio.run(main())


def test_as_completed_is_not_for_batches() -> None:
    async def main() -> None:
        run = batch(asyncio.sleep, [0], view=None)
        with pytest.raises(TypeError, match="Batch is read by itself"):
            as_completed([run])
        await run

    asyncio.run(main())


@pytest.mark.parametrize(
    "options", [{"system_prompt": 5}, {"base_url": 5}, {"api_key": 5}, {"temperature": float("inf")}]
)
def test_options_that_make_no_sense_are_refused_at_once(options) -> None:
    with pytest.raises(errors.ConfigurationError, match=next(iter(options))):
        LlmAgent("a", "demo::instant", **options)


def test_a_streamed_reply_counts_its_attempts(model_server: ModelServer) -> None:
    model_server.next(faults.status(500))
    stream = LlmAgent("a", "ollama::mock", base_url=model_server.url).stream("What is AI?")

    async def main() -> None:
        async for _ in stream:
            pass

    asyncio.run(main())
    assert stream.reply.attempts == 2


def test_a_script_that_ends_in_the_middle_of_a_batch_ends_quietly() -> None:
    script = "import asyncio\nfrom ceylon_nb import batch\nbatch(asyncio.sleep, [60] * 20, view=None)\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True)
    assert (done.stdout, done.stderr) == ("", "")
