"""Record and replay: against a loopback server that is stopped before its answers are replayed."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ceylon_nb
from ceylon_nb import LlmAgent, Message, Usage, errors, recording, replay
from ceylon_nb.recording.lines import Failure, Question, Recorded, dump, parse
from ceylon_nb.recording.nearest import difference
from ceylon_nb.testing import Fault, faults

KEY = "sk-test-Zq81hV0w3mXJ"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.jsonl"


def agent(server, **options):
    return LlmAgent("a", "ollama::llama3.2", base_url=server.url, **options)


def ask(path, *prompts, record=None, model="ollama::llama3.2", server=None, **options):
    """Ask one after the other in one block; replies, or the errors that came in their place."""
    base_url = server.url if server else "http://127.0.0.1:9"  # where nobody is

    async def main():
        with replay(path, record=record):
            asked = LlmAgent("a", model, base_url=base_url, **options)
            return [await one(asked, prompt) for prompt in prompts]

    async def one(asked, prompt):
        try:
            return await asked.send_message(prompt)
        except errors.CeylonError as error:
            return error

    return asyncio.run(main())


def asked(server):
    """The prompts that the server has seen since it was asked last."""
    prompts = [request.prompt for request in server.requests]
    server.reset()
    return prompts


def counting(server):
    """Have the server number its answers."""
    server.reply = lambda messages: f"{messages[-1]['content']} #{len(server.requests)}"
    return server


# -- the same again --------------------------------------------------------------------------------------------------


def test_a_batch_replays_with_the_server_stopped(path, model_server):
    counting(model_server)
    model_server.next(faults.status(400), faults.rate_limited(0))
    table = pd.DataFrame({"text": ["Great", "Awful", "Fine", "Great"]}, index=list("abca"))

    async def frame(record=None):
        with replay(path, record=record):
            asking = agent(model_server, temperature=0.5, max_tokens=50)
            return await asking.map(table, "Classify: {text}", view=None, max_at_once=1)

    first = asyncio.run(frame("all"))
    model_server.stop()
    second = asyncio.run(frame())
    pd.testing.assert_frame_equal(first.drop(columns="latency"), second.drop(columns="latency"))
    assert list(second["status"]) == ["failed", "ok", "ok", "ok"]
    assert list(second["attempts"]) == [1, 2, 1, 1]
    assert all(
        one is None or (one.model, one.usage, one.attempts) == (two.model, two.usage, two.attempts)
        for one, two in zip(first["reply"], second["reply"], strict=True)
    )


def test_a_replay_opens_no_socket_imports_no_http_and_waits_for_no_limit(path, model_server):
    prompts = [f"Number {n}" for n in range(5)]
    ask(path, *prompts, record="missing", server=model_server)
    code = """
import asyncio, sys
touched = []
sys.addaudithook(lambda event, _: touched.append(event) if event in ("socket.connect", "socket.getaddrinfo") else None)
from ceylon_nb import LlmAgent, replay
agent = LlmAgent("a", "ollama::llama3.2", max_per_minute=1)
async def main():
    with replay(sys.argv[1]):
        for prompt in sys.argv[2:-1]:
            await agent.send_message(prompt)
        return [text async for text in agent.stream(sys.argv[-1])]
assert asyncio.run(main())
print(touched, {'aiohttp', 'httpx'} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, path, *prompts], capture_output=True, text=True, timeout=60, check=True
    )  # at one a minute it would take four
    assert done.stdout.strip() == "[] set()"


def test_turns_of_a_conversation(path, model_server):
    counting(model_server)

    async def talk(record=None):
        with replay(path, record=record):
            chat = agent(model_server, system_prompt="Be brief.").conversation()
            return [await chat.send(text) for text in ("Hi", "Why?", "Why?")]

    first = asyncio.run(talk("missing"))
    model_server.stop()
    assert asyncio.run(talk()) == first
    assert len(set(first)) == 3


@pytest.mark.parametrize("model", ["demo::instant", "function"])
def test_models_without_a_server(path, model):
    calls = []

    async def mine(messages):
        calls.append(messages)
        if messages[-1].content == "bad":
            raise KeyError("bad")
        return f"said {len(calls)}"

    async def main(record=None):
        with replay(path, record=record):
            mind = LlmAgent("a", mine if model == "function" else model)
            return [*await asyncio.gather(mind.send_message("Hi"), mind.send_message("bad"), return_exceptions=True)]

    hi, bad = asyncio.run(main("missing"))
    hi_again, bad_again = asyncio.run(main())
    assert hi_again == hi
    if model == "function":
        assert len(calls) == 2
        assert type(bad) is KeyError
        assert type(bad_again) is errors.RequestError
        assert str(bad_again) == "KeyError: 'bad'"


def test_failures_are_replayed_as_they_were(path, model_server):
    model_server.next(faults.status(500, "out of memory"), faults.rate_limited(0), faults.reset(), faults.hang())
    prompts, options = ["a", "b", "c", "d", "e"], {"attempts": 1, "timeout": 0.3}
    first = ask(path, *prompts, record="missing", server=model_server, **options)
    first += ask(path, "a", record="missing", server=model_server, model="ollama::nope", **options)
    model_server.stop()
    again = ask(path, *prompts) + ask(path, "a", model="ollama::nope")
    kinds = [errors.ServerError, errors.RateLimited, errors.ConnectionLost, errors.RequestTimeout]
    assert [type(error) for error in again] == [*kinds, ceylon_nb.Reply, errors.ModelNotFound]
    for one, two in zip(first, again, strict=True):
        assert (type(one), str(one)) == (type(two), str(two))
        if isinstance(one, errors.RequestError):
            names = ("status", "body", "url", "retry_after", "attempts", "item")
            assert [getattr(one, name) for name in names] == [getattr(two, name) for name in names]
    assert (again[0].status, again[1].retry_after) == (500, 0)


def test_an_error_of_an_unknown_kind_is_a_request_error():
    error = Failure("Unheard", "of", 418).error()
    assert (type(error), str(error), error.status) == (errors.RequestError, "Unheard: of", 418)
    assert type(Failure("NotRecorded", "x").error()) is errors.RequestError


# -- streams ---------------------------------------------------------------------------------------------------------


def read(path, server, prompt="Tell", record=None, stop_after=None):
    """The pieces of a stream, what it ends with, and its reply."""

    async def main():
        pieces, reply = [], None
        with replay(path, record=record):
            stream = agent(server).stream(prompt)
            try:
                async for piece in stream:
                    pieces.append(piece)
                    if len(pieces) == stop_after:
                        break
                else:
                    reply = stream.reply
            except errors.CeylonError as error:
                reply = error
            await stream.aclose()
        return pieces, reply

    return asyncio.run(main())


@pytest.mark.model_server(reply="Once upon a time.")
def test_a_stream_is_replayed_in_its_pieces(path, model_server):
    model_server.next(faults.status(503))
    pieces, reply = read(path, model_server, record="missing")
    model_server.stop()
    again, reply_again = read(path, model_server)
    assert again == pieces == ["Once", " upon", " a", " time."]
    names = ("usage", "model", "finish_reason", "attempts")
    assert [getattr(reply, name) for name in names] == [getattr(reply_again, name) for name in names]
    assert reply_again.attempts == 2
    assert ask(path, "Tell") == ["Once upon a time."]  # and whole
    assert len(path.read_text().splitlines()) == 1


def test_a_whole_answer_is_replayed_as_a_stream_of_one_piece(path, model_server):
    (reply,) = ask(path, "Hi", record="missing", server=model_server)
    assert read(path, model_server, "Hi") == ([reply], reply)


@pytest.mark.model_server(reply="Once upon a time.")
def test_a_stream_that_breaks_off(path, model_server):
    model_server.next(faults.cut(after=2))
    pieces, error = read(path, model_server, record="missing")
    again, error_again = read(path, model_server)
    assert again == pieces == ["Once", " upon"]
    assert (type(error_again), str(error_again)) == (type(error), str(error))
    assert isinstance(error, errors.RequestError)
    assert read(path, model_server, record="missing")[0] == ["Once", " upon", " a", " time."]


@pytest.mark.model_server(reply="Once upon a time.", token_interval=0.01)
def test_a_stream_that_was_left_early(path, model_server):
    assert read(path, model_server, record="missing", stop_after=2)[0] == ["Once", " upon"]
    model_server.reset()
    assert read(path, model_server, record="missing", stop_after=2)[0] == ["Once", " upon"]
    assert asked(model_server) == []
    again, error = read(path, model_server)
    assert again == ["Once", " upon"]
    assert isinstance(error, errors.NotRecorded)
    assert "left early" in str(error)
    (whole,) = ask(path, "Tell")
    assert isinstance(whole, errors.NotRecorded)
    assert "left early" in str(whole)


# -- the same question, several times --------------------------------------------------------------------------------


def test_the_same_question_several_times(path, model_server):
    counting(model_server)
    first = ask(path, "Roll", "Roll", record="missing", server=model_server)
    assert first == ["Roll #1", "Roll #2"]
    *again, third = ask(path, "Roll", "Roll", "Roll")
    assert again == first
    assert isinstance(third, errors.NotRecorded)
    assert "recorded 2 times, and was asked for a 3rd time" in str(third)
    *again, third = ask(path, "Roll", "Roll", "Roll", record="missing", server=model_server)
    assert (again, third) == (first, "Roll #3")


def test_equal_questions_asked_at_once_are_numbered_in_the_order_of_asking(path, model_server):
    counting(model_server)
    model_server.latency = lambda request: 0.2 if request.number == 1 else 0.0

    async def main(record=None):
        with replay(path, record=record):
            first = asyncio.ensure_future(agent(model_server).send_message("Roll"))
            if record:
                await model_server.until(lambda server: server.active)
            return await asyncio.gather(first, agent(model_server).send_message("Roll"))

    assert asyncio.run(main("missing")) == asyncio.run(main())


def test_an_interrupted_question_does_not_count(path, model_server):
    model_server.next(faults.hang())

    async def main():
        with replay(path, record="missing"):
            task = asyncio.ensure_future(agent(model_server).send_message("Hi"))
            await model_server.until(lambda server: server.active)
            task.cancel()
            await asyncio.wait([task])
            return await agent(model_server).send_message("Hi")

    reply = asyncio.run(main())
    assert ask(path, "Hi") == [reply]
    assert ask(path, "Hi")[0].latency == 0


# -- what is recorded, and when --------------------------------------------------------------------------------------


def test_missing_asks_what_is_missing_and_what_failed(path, model_server):
    model_server.next(None, faults.status(400))
    ask(path, "a", "b", record="missing", server=model_server)
    asked(model_server)
    replies = ask(path, "a", "b", "c", record="missing", server=model_server)
    assert asked(model_server) == ["b", "c"]
    assert ask(path, "a", "b", "c") == replies


def test_all_asks_everything_and_drops_what_is_not_asked_any_more(path, model_server):
    counting(model_server)
    ask(path, "a", "b", record="missing", server=model_server)
    assert ask(path, "b", "c", record="all", server=model_server) == ["b #3", "c #4"]
    assert ask(path, "b", "c") == ["b #3", "c #4"]
    assert isinstance(ask(path, "a")[0], errors.NotRecorded)


def test_all_drops_nothing_when_the_block_fails(path, model_server):
    ask(path, "a", record="missing", server=model_server)
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), replay(path, record="all"):
        raise ZeroDivisionError
    assert path.read_bytes() == before


def test_one_row_more_is_one_line_more(path, model_server):
    prompts = ["b", "d", "a", "e"]
    ask(path, *prompts, record="missing", server=model_server, system_prompt="Be brief.")
    before = path.read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in before] == ["a", "b", "d", "e"]
    ask(path, *prompts, "c", record="missing", server=model_server, system_prompt="Be brief.")
    after = path.read_text().splitlines()
    assert [line for line in after if line not in before] == [after[2]]
    assert [line for line in after if line in before] == before
    ask(path, *prompts, "c", record="all", server=model_server, system_prompt="Be brief.")
    assert path.read_text().splitlines() == after
    assert list(json.loads(after[0])) == ["model", "system", "prompt", "reply", *list(json.loads(after[0]))[4:]]


def test_the_file_is_sorted_whenever_nothing_is_in_flight(path, model_server):
    async def main():
        with replay(path, record="missing"):
            asking = agent(model_server)
            for prompt in ("b", "c", "a"):
                await asking.send_message(prompt)
                prompts = [json.loads(line)["prompt"] for line in path.read_text().splitlines()]
                assert prompts == sorted(prompts)

    asyncio.run(main())
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_the_file_has_the_permissions_of_any_new_file(path, model_server):
    before = os.umask(0o027)
    try:
        ask(path, "b", "a", record="missing", server=model_server)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_batch_goes_on_with_its_recording_after_the_block(path, model_server):
    counting(model_server)
    model_server.parallel = 1

    async def main(record=None):
        with replay(path, record=record):
            run = agent(model_server).map(["a", "b", "c"], view=None, max_at_once=1)
        assert recording.current() is None
        return list((await run)["reply"])

    first = asyncio.run(main("missing"))
    model_server.stop()
    assert asyncio.run(main()) == first


def test_what_the_default_store_has_is_recorded_all_the_same(path, model_server, tmp_path, monkeypatch):
    monkeypatch.setenv("CEYLON_NB_STORE", str(tmp_path / "answers.sqlite"))
    given = agent(model_server)

    async def main():
        await given.map(["a", "b"], view=None)
        with replay(path, record="missing"):
            recorded = await given.map(["a", "b"], view=None)
        found = await given.map(["a", "b"], view=None)
        with replay(path):
            replayed = await given.map(["a", "b"], view=None)
        return recorded, found, replayed

    recorded, found, replayed = asyncio.run(main())
    assert [each["from_store"].all() for each in (recorded, found, replayed)] == [False, True, False]
    assert (asked(model_server), len(path.read_text().splitlines())) == (["a", "b", "a", "b"], 2)


def test_a_recording_takes_the_place_of_a_store_that_is_named_too(path, model_server, tmp_path):
    store, given = tmp_path / "answers.sqlite", agent(model_server)

    async def main():
        await given.map(["a"], store=store, view=None)
        with replay(path, record="missing"):
            assert not (await given.map(["a"], store=store, view=None))["from_store"].any()
        with replay(path), pytest.raises(errors.NotRecorded):
            await given.map(["b"], store=store, view=None)

    asyncio.run(main())
    assert asked(model_server) == ["a", "a"]


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        (["c"], "1 row failed and none succeeded, so the batch stopped. Mend the cause; run.resume() then asks"),
        (["a", "b", "c"], "1 row failed and 2 succeeded, so the batch stopped. Mend the cause; run.resume() then goes"),
    ],
)
def test_a_batch_that_stops_at_what_is_not_recorded_says_how_many_rows_were_found(path, model_server, rows, note):
    given = agent(model_server)

    async def main():
        with replay(path, record="missing"):
            await given.map(["a", "b"], view=None)
        with replay(path), pytest.raises(errors.NotRecorded) as caught:
            await given.map(rows, view=None, max_at_once=1)
        assert caught.value.__notes__[0].startswith(note)

    asyncio.run(main())


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of a file's size there")
def test_half_a_line_that_no_room_was_for_is_taken_back(path):
    script = """
        import resource, signal, sys
        from ceylon_nb import LlmAgent, errors, replay
        agent = LlmAgent("a", "demo::instant")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with replay(sys.argv[1], record="missing"):
            agent.send_message_sync("one")
            resource.setrlimit(resource.RLIMIT_FSIZE, (400, resource.RLIM_INFINITY))
            try:
                agent.send_message_sync("two " * 100)
            except errors.StoreUnwritable:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                agent.send_message_sync("three")
                print("went on")
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("went on\n", "")
    assert [json.loads(line)["prompt"] for line in path.read_text().splitlines()] == ["one", "three"]


def test_a_model_behind_a_key_replays_without_one(path, model_server, monkeypatch):
    def key_or_none(key):
        return LlmAgent("a", "openai::mock", base_url="https://api.openai.com/v1", api_key=key)

    async def main():
        with replay(path, record="missing"):
            there = LlmAgent("a", "openai::mock", base_url=model_server.openai_url, api_key=KEY)
            reply = await there.send_message("a")
            with pytest.raises(errors.MissingAPIKey):
                await key_or_none(None).send_message("a")
        with replay(path):
            assert await key_or_none(None).build().send_message("a") == reply
            with pytest.raises(errors.NotRecorded):
                await key_or_none(None).map(["a"], view=None)
        with pytest.raises(errors.MissingAPIKey):
            await key_or_none(None).send_message("a")

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    asyncio.run(main())


def test_a_large_file_is_sorted_seldom_and_at_last(path):
    code = """
import asyncio, json, pathlib, sys
from ceylon_nb import LlmAgent, replay
path, renames = pathlib.Path(sys.argv[1]), []
sys.addaudithook(lambda event, _: renames.append(event) if event == "os.rename" else None)
async def answer(messages): return "yes"
def prompts(): return [json.loads(line)["prompt"] for line in path.read_text().splitlines()]
async def main():
    agent = LlmAgent("a", answer)
    with replay(path, record="missing"):
        for n in range(3_000):
            await agent.send_message(f"Number {7 * n % 3_000:04}")
        while prompts() != sorted(prompts()):
            await asyncio.sleep(0.01)
    print(len(prompts()), len(renames) < 2_000)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["3000", "True"]


def test_a_file_that_cannot_be_written(path, model_server):
    with replay(path, record="missing"):
        path.mkdir()
        with pytest.raises(errors.StoreUnwritable, match=r"answers\.jsonl cannot be written: Is a directory"):
            agent(model_server).send_message_sync("a")
        path.rmdir()
    with pytest.raises(errors.ConfigurationError, match="cannot be read"):
        replay(path.parent, record="missing")


def test_two_that_record_into_one_file_lose_nothing(path, model_server):
    async def main():
        with replay(path, record="missing"):
            one = agent(model_server)
            await one.send_message("b")
            with replay(path, record="missing"):
                await agent(model_server).send_message("c")
                await agent(model_server).send_message("a")
            await one.send_message("a")  # in order, if nobody else had been there
            await one.send_message("0")

    asyncio.run(main())
    prompts = [json.loads(line)["prompt"] for line in path.read_text().splitlines()]
    assert prompts == ["0", "a", "b", "c"]


def test_threads_record_and_replay_together(path, model_server):
    def work(n):
        return agent(model_server).send_message_sync(f"Number {n % 40}")

    def everything(record=None):
        with ThreadPoolExecutor(8) as pool, replay(path, record=record):
            return sorted(pool.map(work, range(80)))

    counting(model_server)
    first = everything("missing")
    lines = path.read_bytes().splitlines(keepends=True)
    assert model_server.received == len(set(first)) == len(lines) == 80
    assert lines == [dump(*parse(line)) for line in lines]
    assert [parse(line)[0] for line in lines] == sorted(parse(line)[0] for line in lines)
    model_server.stop()
    assert everything() == first


KILLED = """
import asyncio, sys
from ceylon_nb import LlmAgent, replay
async def main():
    agent = LlmAgent("a", "ollama::llama3.2", base_url=sys.argv[2])
    async def ask(prompt):
        await agent.send_message(prompt)
        print(prompt, flush=True)
    with replay(sys.argv[1], record="missing"):
        await asyncio.gather(*(ask(f"Number {n:02}") for n in range(30)))
asyncio.run(main())
"""


def test_kill_9_loses_nothing_that_came(path, model_server):
    came = 12
    model_server.plan = lambda request: faults.hang() if request.number > came else None
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, path, model_server.url], stdout=subprocess.PIPE, text=True
    ) as process:
        seen = {process.stdout.readline().strip() for _ in range(came)}
        process.send_signal(signal.SIGKILL)
    model_server.plan = None
    asked(model_server)
    prompts = [f"Number {n:02}" for n in range(30)]
    ask(path, *prompts, record="missing", server=model_server)
    assert sorted(asked(model_server)) == sorted(set(prompts) - seen)
    assert len(path.read_text().splitlines()) == 30


# -- the file --------------------------------------------------------------------------------------------------------


def test_a_torn_last_line_is_dropped(path, model_server):
    ask(path, "a", "b", "c", record="missing", server=model_server)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert isinstance(ask(path, "c")[0], errors.NotRecorded)
    assert path.read_bytes() == whole[:-20]  # a replay writes nothing
    asked(model_server)
    ask(path, "a", "b", "c", record="missing", server=model_server)
    assert asked(model_server) == ["c"]
    assert path.read_bytes() == whole


def test_a_torn_line_does_not_run_into_the_next(path, model_server):
    ask(path, "a", record="missing", server=model_server)
    torn = path.read_bytes() + b'{"model": "ollama::lla'
    path.write_bytes(torn)
    model_server.next(faults.hang())

    async def main():
        with replay(path, record="missing"):
            hanging = asyncio.ensure_future(agent(model_server).send_message("b"))
            await model_server.until(lambda server: server.active)
            await agent(model_server).send_message("c")
            assert [json.loads(line)["prompt"] for line in path.read_text().splitlines()] == ["a", "c"]
            hanging.cancel()
            await asyncio.wait([hanging])

    asyncio.run(main())


GOOD = '{"model": "demo::x", "prompt": "a", "reply": "b"}\n'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("<<<<<<< HEAD", "Expecting value at column 1"),
        ('{"model": "demo::x", "pro', "Unterminated string starting at at column 22"),
        ("[]", "it is no JSON object"),
        ('{"model": "demo::x", "prompt": "a"}', "it needs 'reply' or 'error'"),
        ('{"prompt": "a", "reply": "b"}', "it needs 'model', and either 'prompt' or 'messages'"),
        ('{"model": "demo::x", "prompt": "a", "reply": 1}', "'reply' is no str"),
        ('{"model": "demo::x", "prompt": "a", "reply": "b", "seed": 1}', "'seed' is not known to this version"),
        ('{"model": "demo::x", "prompt": "a", "error": {"kind": "BadReply"}}', "its 'error' needs"),
        ('{"model": "demo::x", "messages": [1], "reply": "b"}', "its 'messages' are"),
        ('{"model": "demo::x", "prompt": "a", "reply": "b", "pieces": [1]}', "its 'pieces' are texts"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_damaged_line_is_named(path, line, said):
    path.write_text(f"{GOOD}{line}\n{GOOD}")
    with pytest.raises(errors.ConfigurationError, match=r"Line 2 of the recording .* is no answer") as caught:
        replay(path)
    assert said in str(caught.value)


def test_a_file_edited_by_hand(path, model_server):
    """Out of order, twice the same, blank lines, other line ends, no end of line."""
    path.write_bytes(
        b'{"reply": "old", "model": "ollama::llama3.2", "prompt": "b"}\r\n\r\n'
        b'{"model":"ollama::llama3.2","prompt":"a","reply":"A"}\n'
        b'{"reply": "new", "model": "ollama::llama3.2", "prompt": "b"}'
    )
    assert ask(path, "a", "b") == ["A", "new"]
    assert ask(path, "a", "b", record="missing", server=model_server) == ["A", "new"]
    assert path.read_bytes() == (
        b'{"model": "ollama::llama3.2", "prompt": "a", "reply": "A"}\n'
        b'{"model": "ollama::llama3.2", "prompt": "b", "reply": "new"}\n'
    )


texts = st.text(max_size=20)
messages = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), texts)
questions = st.builds(
    Question.of,
    texts,
    st.lists(messages, min_size=1, max_size=4),
    st.none() | st.floats(0, 2) | st.integers(0, 2),
    st.none() | st.integers(1, 99),
)
counts = st.none() | st.integers(0, 2**53)
failures = st.builds(
    Failure, texts, texts, st.none() | st.integers(300, 599), texts, texts, st.none() | st.floats(0, 600)
)
recordings = st.one_of(
    st.builds(Recorded, texts, st.none() | st.lists(texts).map(tuple), st.booleans(), st.none() | texts,
              st.builds(Usage, counts, counts), st.none() | texts, st.integers(1, 9)),
    st.builds(Recorded, pieces=st.none() | st.lists(texts, min_size=1).map(tuple), attempts=st.integers(1, 9),
              failure=failures),
)  # fmt: skip


@given(questions, st.integers(0, 3), recordings)
def test_what_is_written_is_read(question, occurrence, recorded):
    line = dump((question, occurrence), recorded)
    assert line.count(b"\n") == 1
    assert parse(line) == ((question, occurrence), recorded)
    assert dump(*parse(line)) == line


@given(st.lists(st.tuples(questions, st.integers(0, 3))))
def test_any_two_questions_have_an_order(keys):
    assert sorted(sorted(keys, reverse=True)) == sorted(keys)


# -- what is said of a question that is not recorded -----------------------------------------------------------------


def missing(path, prompt, **options):
    (error,) = ask(path, prompt, **options)
    assert isinstance(error, errors.NotRecorded)
    return str(error)


def test_a_changed_prompt_is_shown_beside_the_nearest(path, model_server):
    reviews = ["Great phone", "The screen broke at once", "Fine"]
    prompts = [f"Classify the review: {review}" for review in reviews]
    ask(path, *prompts, record="missing", server=model_server)
    said = missing(path, "Classify this review: The screen broke at once")
    assert said.splitlines() == [
        f"{path} holds no answer of ollama::llama3.2 to:",
        "    Classify this review: The screen broke at once",
        "The nearest recorded prompt, with what is [-recorded-] and what is {+asked+}:",
        "    Classify [-the-]{+this+} review: The screen broke at once",
        'Nothing was sent. To record it: replay(…, record="missing").',
    ]


def test_a_missing_answer_ends_the_batch(path, model_server):
    ask(path, "a", "b", record="missing", server=model_server)

    async def main():
        with replay(path):
            await agent(model_server).map(["a", "c", "b"], view=None, max_at_once=1)

    with pytest.raises(errors.NotRecorded, match="holds no answer"):
        asyncio.run(main())
    assert model_server.received == 2


def test_other_settings_are_named(path, model_server):
    ask(path, "Hi", record="missing", server=model_server, temperature=0.2, system_prompt="Be very brief.")
    options = {"temperature": 0.2, "system_prompt": "Be very brief."}
    said = missing(path, "Hi", **options | {"temperature": None})
    assert "The same prompt is recorded with other settings.\ntemperature: recorded 0.2, asked none\nNothing" in said
    assert "max_tokens: recorded none, asked 9" in missing(path, "Hi", **options, max_tokens=9)
    assert "model: recorded ollama::llama3.2, asked demo::tutor" in missing(path, "Hi", **options, model="demo::tutor")
    said = missing(path, "Hi", **options | {"system_prompt": "Be brief."})
    assert "    Be [-very -]brief." in said
    assert "temperature" not in said
    assert "The recording is empty" not in said


def test_the_nearest_is_sought_for_the_first_few_only(path, model_server):
    ask(path, "Hello there", record="missing", server=model_server)
    first, *_, last = ask(path, *(f"Hello {n}" for n in range(10)))
    assert "[-there-]" in str(first)
    assert "[-there-]" not in str(last)
    assert "Hello 9" in str(last)


def test_an_empty_recording(path):
    path.write_text("")
    assert "The recording is empty." in missing(path, "Hi")


@pytest.mark.parametrize(
    ("recorded", "asked", "shown"),
    [
        ("one two three", "one three", "one [-two -]three"),
        ("a cat", "a cats", "a [-cat-]{+cats+}"),
        ("", "new", "{+new+}"),
        ("x" * 300 + " a " + "y" * 300, "x" * 300 + " b " + "y" * 300, f" … {'x' * 59} [-a-]{{+b+}} {'y' * 59} … "),
    ],
)
def test_differences(recorded, asked, shown):
    assert difference(recorded, asked) == shown


def test_long_texts_that_differ_everywhere_take_no_time():
    one, other = (" ".join(str(n * step) for n in range(30_000)) for step in (2, 3))
    began = time.monotonic()
    assert len(difference(one, other)) < 2_000
    assert time.monotonic() - began < 2


def test_nothing_that_a_terminal_obeys_is_shown(path):
    path.write_text("")
    assert "\\x1b[2J" in missing(path, "\x1b[2J")


# -- what is in force ------------------------------------------------------------------------------------------------


def test_blocks_nest(tmp_path, model_server):
    outer, inner = tmp_path / "outer", tmp_path / "inner"
    assert recording.current() is None
    with replay(outer, record="missing") as one:
        with replay(inner, record="missing") as two:
            agent(model_server).send_message_sync("inner")
        agent(model_server).send_message_sync("outer")
        assert (one.recorded, two.recorded) == (1, 1)
    assert recording.current() is None
    agent(model_server).send_message_sync("none")
    assert "inner" in inner.read_text()
    assert "inner" not in outer.read_text()
    assert "none" not in outer.read_text()


def test_the_environment(tmp_path, monkeypatch, model_server):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CEYLON_NB_REPLAY", "answers.jsonl")
    with pytest.raises(errors.ConfigurationError, match="set CEYLON_NB_RECORD=missing"):
        agent(model_server).send_message_sync("Hi")
    monkeypatch.setenv("CEYLON_NB_RECORD", "missing")
    reply = agent(model_server).send_message_sync("Hi")
    with replay(tmp_path / "block.jsonl", record="missing") as block:  # wins
        agent(model_server).send_message_sync("Hi")
    assert block.recorded == 1
    model_server.stop()
    monkeypatch.delenv("CEYLON_NB_RECORD")
    assert agent(model_server).send_message_sync("Hi") == reply
    with pytest.raises(errors.NotRecorded, match="set CEYLON_NB_RECORD=missing"):
        agent(model_server).send_message_sync("Ho")
    monkeypatch.setenv("CEYLON_NB_RECORD", "none")
    with pytest.raises(errors.ConfigurationError, match="CEYLON_NB_RECORD is missing or all"):
        agent(model_server).send_message_sync("Hi")


def test_misuse_is_refused_at_once(path):
    with pytest.raises(errors.ConfigurationError, match="record is missing or all, or is left out; not 'once'"):
        replay(path, record="once")
    with pytest.raises(errors.ConfigurationError, match=r'There is no recording .*: replay\(…, record="missing"\)'):
        replay(path)


# -- keys ------------------------------------------------------------------------------------------------------------


def echo():
    """A server that says what it was sent, first as an error, then in its answer."""

    async def refuse(exchange):
        sent = exchange.request.headers["Authorization"]
        return await exchange.send(json.dumps({"error": f"bad key: {sent}"}).encode(), status=401)

    return Fault("echo", refuse)


@pytest.mark.parametrize("given", ["agent", "environment", "login"])
def test_no_key_is_in_any_file(tmp_path, monkeypatch, model_server, given):
    path, url = tmp_path / "answers.jsonl", model_server.url
    model_server.reply = lambda messages: f"I got {model_server.requests[-1].headers['Authorization']}"
    model_server.next(echo(), None, None, echo())
    options = {"attempts": 1, "base_url": url.replace("//", f"//me:{KEY}@") if given == "login" else url}
    if given == "agent":
        options["api_key"] = KEY
    if given == "environment":
        monkeypatch.setenv("OLLAMA_API_KEY", KEY)

    async def main():
        asking = LlmAgent("a", "ollama::llama3.2", **options)
        with replay(path, record="missing"):
            with pytest.raises(errors.AuthenticationFailed):
                await asking.send_message("a")
            assert await asking.send_message("b") in ("I got Bearer ***", "I got Basic ***")
            assert secret() in "".join([text async for text in asking.stream("c")])
            with pytest.raises(errors.AuthenticationFailed):
                await anext(asking.stream("d"))

    def secret():
        return model_server.requests[-1].headers["Authorization"].partition(" ")[2]

    asyncio.run(main())
    (file,) = tmp_path.rglob("*")
    content = file.read_text(encoding="utf-8")
    assert KEY not in content
    assert secret() not in content
    assert [line.count("***") for line in content.splitlines()] == [2, 1, 2, 2]


def test_no_key_is_in_what_is_recorded_of_the_error_of_a_function(path, monkeypatch):
    monkeypatch.setenv("MY_SERVICE_TOKEN", KEY)

    async def fails(messages):
        raise RuntimeError(f"401: {KEY}")

    with replay(path, record="missing"), pytest.raises(RuntimeError, match=KEY):
        LlmAgent("a", fails).send_message_sync("Hi")
    assert '"message": "401: ***"' in path.read_text()
