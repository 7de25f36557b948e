"""agent.map, end to end, over a server on loopback: from a table to a frame on its index."""

import asyncio
import json
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from zlib import crc32

import pandas as pd
import pytest

from ceylon_nb import LlmAgent, Message
from ceylon_nb.errors import BadReply, ConfigurationError, ModelNotFound, RateLimited, TemplateError
from ceylon_nb.messages import Reply
from ceylon_nb.testing import faults

PATIENCE = 30  # seconds; more than anything here takes


def agent_of(server, provider="ollama", **options):
    url = server.url if provider == "ollama" else server.openai_url
    options = {"api_key": "key", **options} if provider == "openai" else options
    return LlmAgent("clerk", f"{provider}::llama3.2", base_url=url, **options)


def echo(messages):
    return f"<{messages[-1]['content']}>"


REVIEWS = pd.DataFrame(
    {"text": ["Works.", "Broke {soon}.", None, '"{0.__class__}" <script>', "  "], "stars": [5, 1, 3, 4, 2]},
    index=pd.Index(["a", "b", "c", "b", "e"], name="id"),
)


@pytest.mark.model_server(reply=echo)
@pytest.mark.parametrize("provider", ["ollama", "openai"])
def test_from_a_table_to_a_frame_on_its_index(model_server, provider):
    async def main():
        run = agent_of(model_server, provider, system_prompt="Be brief.").map(REVIEWS, "{text}", view=None)
        assert (run.state, run.title) == ("running", "{text}")
        assert run.subtitle == f"clerk · {provider}::llama3.2 · this machine"
        return await run, run

    frame, run = asyncio.run(main())
    assert frame.index.equals(REVIEWS.index)
    assert frame.index.name == "id"
    assert frame["reply"].tolist() == ["<Works.>", "<Broke {soon}.>", None, '<"{0.__class__}" <script>>', None]
    assert frame["status"].tolist() == ["ok", "ok", "failed", "ok", "failed"]
    assert frame["attempts"].tolist() == [1, 1, 0, 1, 0]
    assert (frame["input_tokens"].notna() == (frame["status"] == "ok")).all()
    assert frame["finish_reason"].tolist() == ["stop", "stop", None, "stop", None]
    assert {type(reply) for reply in frame["reply"]} == {Reply, type(None)}
    assert frame["latency"].notna().tolist() == [True, True, False, True, False]
    assert run.failed["position"].tolist() == [2, 4]
    assert run.failed["error"].str.startswith("EmptyPrompt: The prompt is empty, so it was not sent").all()
    # an empty prompt fails before it is sent, and no cell is ever formatted
    assert sorted(request.prompt for request in model_server.requests) == sorted(
        ["Works.", "Broke {soon}.", '"{0.__class__}" <script>']
    )
    assert {request.system for request in model_server.requests} == {"Be brief."}


@pytest.mark.model_server(reply=echo)
@pytest.mark.parametrize(
    ("items", "template", "replies"),
    [
        (["a", "b"], None, ["<a>", "<b>"]),
        (pd.Series(["a", "b"], index=[7, 7]), "Say {}!", ["<Say a!>", "<Say b!>"]),
        ({"x": "a"}, None, ["<a>"]),
        (range(2), "{:03}", ["<000>", "<001>"]),
        ((word for word in ("a", "b")), None, ["<a>", "<b>"]),
        ([{"q": "a", "n": 1.5}], "{q} {n:.2f} {q!r}", ["<a 1.50 'a'>"]),
        ([[Message("system", "S"), Message("user", "a")]], None, ["<a>"]),
        (REVIEWS[:1], lambda row: f"{row.text} {row['stars']}", ["<Works. 5>"]),
        (REVIEWS[:1], lambda row: [Message("user", row.text)], ["<Works.>"]),
        (pd.DataFrame({0: ["a"], "a.b [c]": ["d"]}), "{0}{a.b [c]}", ["<ad>"]),
    ],
)
def test_items_and_templates_of_every_kind(model_server, items, template, replies):
    async def main():
        return await agent_of(model_server).map(items, template, view=None)

    assert asyncio.run(main())["reply"].tolist() == replies


@pytest.mark.model_server(reply=echo)
def test_an_async_stream_may_be_slow(model_server):
    async def main():
        async def stream():
            for n in range(5):
                await model_server.until(lambda server, n=n: server.served >= n)
                yield f"q{n}"

        return await agent_of(model_server).map(stream(), view=None)

    assert asyncio.run(main())["reply"].tolist() == [f"<q{n}>" for n in range(5)]


@pytest.mark.parametrize(
    ("template", "options", "error"),
    [
        ("{txt}", {}, TemplateError),
        (None, {}, TemplateError),
        ('{"label": {text}}', {}, TemplateError),
        ("{text}", {"max_at_once": 0}, ConfigurationError),
        ("{text}", {"attempts": 0}, ConfigurationError),
        ("{text}", {"temprature": 1}, ConfigurationError),
        ("{text}", {"deadline": -1}, ConfigurationError),
        ("{text}", {"view": "tall"}, ConfigurationError),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_sent(model_server, template, options, error):
    async def main():
        with pytest.raises(error):
            agent_of(model_server).map(REVIEWS, template, **{"view": None, **options})
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert model_server.received == 0


@pytest.mark.model_server(latency=0.02)
def test_the_server_sees_max_at_once_requests_at_a_time(model_server):
    async def main():
        run = agent_of(model_server).map(range(60), "q{}", max_at_once=12, view=None)
        await run

    asyncio.run(main())
    assert (model_server.peak, model_server.served) == (12, 60)


def test_cancel_aborts_on_the_server_and_resume_asks_for_the_rest_only(model_server):
    async def main():
        model_server.plan = lambda request: faults.hang() if request.prompt in ("q4", "q5", "q6", "q7") else None
        run = agent_of(model_server).map(range(20), "q{}", max_at_once=4, view=None)
        await model_server.until(lambda server: server.received == 8)
        run.cancel()
        frame = await run
        await model_server.until(lambda server: server.aborted == 4)
        assert model_server.active == 0
        assert Counter(frame["status"]) == {"ok": 4, "cancelled": 4, "waiting": 12}
        model_server.plan = None
        run.resume()
        frame = await run
        assert set(frame["status"]) == {"ok"}

    asyncio.run(main())
    asked = Counter(request.prompt for request in model_server.requests)
    assert asked == Counter(f"q{n}" for n in [*range(20), *range(4, 8)])
    assert (model_server.received, model_server.served) == (24, 20)


def test_an_interrupt_leaves_nothing_open_on_the_server(model_server):
    async def main():
        model_server.next(*[None] * 10, *[faults.hang()] * 50)
        run = agent_of(model_server).map(range(1_000), "q{}", max_at_once=50, view=None)

        async def cell():
            await run

        task = asyncio.create_task(cell())
        await model_server.until(lambda server: server.received == 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError, match=r"10 of 1,000 answers are in run\.frame"):
            await task
        await model_server.until(lambda server: server.aborted == 50)
        assert model_server.active == 0
        assert (run.frame["status"] == "ok").sum() == 10

    asyncio.run(main())


def test_pause_sends_nothing_new_and_lets_what_is_in_flight_finish(model_server):
    async def main():
        released = threading.Event()
        model_server.latency = lambda request: 0
        model_server.reply = lambda messages: released.wait(PATIENCE) and "ok"
        run = agent_of(model_server).map(range(10), "q{}", max_at_once=3, view=None)
        await model_server.until(lambda server: server.received >= 1)
        run.pause()
        released.set()
        await model_server.until(lambda server: server.received == server.served)
        async for answer in run.answers():  # they are not aborted
            assert answer.status == "ok"
            if run.counts["ok"] == model_server.received:
                break
        seen = model_server.received
        assert seen <= 3
        run.resume()
        await run
        assert (model_server.served, model_server.aborted) == (10, 0)

    asyncio.run(main())


def test_a_row_that_fails_is_asked_again_by_retry_failed(model_server):
    async def main():
        model_server.next(None, faults.status(400), None)
        run = agent_of(model_server).map(["a", "b", "c"], max_at_once=1, view=None)
        frame = await run
        assert frame["status"].tolist() == ["ok", "failed", "ok"]
        assert frame["error"][1].startswith("BadRequest: ")
        [error] = [answer.error async for answer in run if answer.status == "failed"]
        assert (error.status, error.item, error.attempts) == (400, "b", 1)
        run.retry_failed()
        assert set((await run)["status"]) == {"ok"}

    asyncio.run(main())
    assert [request.prompt for request in model_server.requests] == ["a", "b", "c", "b"]


def test_attempts_are_counted_and_the_last_ones_latency(model_server):
    async def main():
        model_server.next(faults.slow(0.3, faults.status(503)), faults.reset(), None)
        return await agent_of(model_server).map(["a"], view=None)

    row = asyncio.run(main()).iloc[0]
    assert (row["status"], row["attempts"], row["reply"].attempts) == ("ok", 3, 3)
    assert row["latency"] < 0.25


def test_a_model_that_is_not_there_stops_the_batch_after_a_few(model_server):
    async def main():
        agent = LlmAgent("clerk", "ollama::nomodel", base_url=model_server.url)
        run = agent.map(range(500), "q{}", max_at_once=4, view=None)
        with pytest.raises(ModelNotFound, match="ollama pull nomodel") as caught:
            await run
        assert "none succeeded, so the batch stopped" in caught.value.__notes__[0]
        assert 5 <= model_server.received <= 8
        model_server.models = (*model_server.models, "nomodel")
        run.resume()
        assert set((await run)["status"]) == {"ok"}
        assert model_server.served == 500

    asyncio.run(main())


def test_no_backoff_outlasts_the_deadline(model_server):
    async def main():
        model_server.plan = lambda request: faults.rate_limited(retry_after=60)
        run = agent_of(model_server).map(["a", "b"], deadline=1.0, view=None)
        frame = await run
        assert run.elapsed < 5
        assert set(frame["error"].str.partition(":")[0]) <= {"RateLimited"}
        [error, *_] = [answer.error async for answer in run]
        assert isinstance(error, RateLimited)

    asyncio.run(main())


def test_options_of_map_hold_for_the_batch_alone(model_server):
    async def main():
        agent = agent_of(model_server, temperature=0.1)
        await agent.map(["a"], temperature=0.9, max_tokens=7, system_prompt="S", view=None)
        await agent.send_message("b")

    asyncio.run(main())
    first, second = model_server.requests
    assert first.body["options"] == {"temperature": 0.9, "num_predict": 7}
    assert (first.system, second.system) == ("S", None)
    assert second.body["options"] == {"temperature": 0.1}


def test_settings_are_those_of_the_moment_in_which_it_began(model_server):
    async def main():
        agent = agent_of(model_server, system_prompt="first")
        run = agent.map(range(20), "q{}", max_at_once=1, view=None)
        agent.with_system_prompt("second")
        await run
        assert {request.system for request in model_server.requests} == {"first"}

    asyncio.run(main())


def test_a_row_that_cannot_be_asked_about_can_be_shown():
    async def story():
        run = LlmAgent("a", "demo::instant").map([{"a": 1}, {"b": "hello"}], "Say {b}")
        await run
        return [(run.question(position), run.gist(position)) for position in range(2)]

    why = "(InvalidItem: The item has no field 'b'; it has a.)"
    assert asyncio.run(story()) == [(why, why), ("Say hello", "hello")]


def test_in_a_script(model_server):
    run = agent_of(model_server).map(range(20), "q{}", view=None)
    assert set(run.result(PATIENCE)["status"]) == {"ok"}
    assert model_server.served == 20


def test_two_batches_share_the_loop(model_server):
    async def main():
        agent = agent_of(model_server)
        first = agent.map([f"a{n}" for n in range(30)], max_at_once=5, view=None)
        second = agent.map([f"b{n}" for n in range(30)], max_at_once=5, view=None)
        return await asyncio.gather(first, second)

    assert [set(frame["status"]) for frame in asyncio.run(main())] == [{"ok"}, {"ok"}]
    assert model_server.served == 60
    assert model_server.peak <= 10


# -- real input -------------------------------------------------------------------------------------------------------

DOCSTRINGS = """
    import contextlib, importlib, inspect, io, json, pkgutil, sys, warnings

    # opens a browser, a window or pip; prints a poem; is not for this system; is tests
    ODD = {"antigravity", "ensurepip", "idlelib", "lib2to3", "msilib", "nt", "test", "this", "tkinter", "turtle",
           "turtledemo"}
    found, seen = {}, set()

    def look(space, name):
        for key, member in sorted(vars(space).items()):
            if not key.startswith("_") and id(member) not in seen:
                seen.add(id(member))
                if inspect.isclass(member) and getattr(member, "__module__", "") == name:
                    look(member, f"{name}.{key}")
                elif inspect.isroutine(member) and (text := inspect.getdoc(member)):
                    found[f"{name}.{key}"] = text

    def modules():
        for name in sorted(sys.stdlib_module_names - ODD):
            if not name.startswith("_"):
                with contextlib.suppress(ImportError):
                    module = importlib.import_module(name)
                    yield module
                    for part in pkgutil.iter_modules(getattr(module, "__path__", ())):
                        if not part.name.startswith(("_", "test")):
                            with contextlib.suppress(ImportError):
                                yield importlib.import_module(f"{name}.{part.name}")

    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):
        for module in modules():
            look(module, module.__name__)
    json.dump(found, sys.stdout)
"""

SERVER = """
    import json, sys
    from zlib import crc32
    from ceylon_nb.testing import ModelServer, faults

    KINDS = [
        *[faults.rate_limited(retry_after=1)] * 1, *[faults.status(500)] * 6, *[faults.reset()] * 5,
        *[faults.cut()] * 5, *[faults.malformed()] * 3,
    ]

    def plan(request):
        chance, kind = crc32(request.prompt.encode()) % 100, crc32(request.prompt.encode()) // 100 % len(KINDS)
        return KINDS[kind] if chance < 5 and request.attempt == 1 else None

    def reply(messages):
        return f"{crc32(messages[-1]['content'].encode()):08x}"

    with ModelServer(latency=0.05, reply=reply) as server:
        server.plan = plan
        print(server.url, flush=True)
        sys.stdin.readline()
        requests = [(crc32(each.prompt.encode()), each.attempt, each.outcome, each.at, each.ended)
                    for each in server.requests]
        print(json.dumps([server.received, server.peak, requests]), flush=True)
"""
KINDS = ["RateLimited", *["ServerError"] * 6, *["reset"] * 5, *["cut"] * 5, *["BadReply"] * 3]
LATENCY, AT_ONCE = 0.05, 100


def python(script):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def fault_of(prompt):
    chance, kind = crc32(prompt.encode()) % 100, crc32(prompt.encode()) // 100 % len(KINDS)
    return KINDS[kind] if chance < 5 else None


def covered(intervals):
    """Seconds that lie in at least one of the intervals."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def test_a_query_for_each_docstring_of_the_standard_library(record_property):
    """100 at once, 50 ms, faults in 5 % of the first attempts: every row is accounted for, in order, and in good time.

    The ideal is rows × latency / at once, and the seconds for which the server's 429s asked for silence: each from
    the moment it was sent, overlapping ones counted once. The server has a process of its own.
    """
    reading = python(DOCSTRINGS)
    docstrings = pd.Series(json.loads(reading.communicate()[0]))
    assert reading.returncode == 0
    assert len(docstrings) > 3_000
    table = pd.DataFrame({"name": docstrings.index, "doc": docstrings.to_numpy()}, index=docstrings.index)
    template = "Say in one line what {name} does: {doc}"
    prompts = [template.replace("{name}", name).replace("{doc}", doc) for name, doc in docstrings.items()]
    expected = [fault_of(prompt) for prompt in prompts]
    assert set(expected) == {None, *KINDS}

    async def main():
        agent = LlmAgent("reader", "ollama::llama3.2", base_url=url)
        began, cpu = time.monotonic(), time.process_time()
        run = agent.map(table, template, max_at_once=AT_ONCE, view=None)
        answers = [answer async for answer in run]
        return run, answers, time.monotonic() - began, time.process_time() - cpu

    with python(SERVER) as server:
        url = server.stdout.readline().strip()
        run, answers, wall, cpu = asyncio.run(main())
        received, peak, requests = json.loads(server.communicate("\n")[0])

    frame = run.frame
    assert frame.index.equals(table.index)
    statuses = ["failed" if fault == "BadReply" else "ok" for fault in expected]
    assert frame["status"].tolist() == statuses
    replies = [f"{crc32(prompt.encode()):08x}" for prompt in prompts]
    assert frame["reply"].tolist() == [
        reply if status == "ok" else None for reply, status in zip(replies, statuses, strict=True)
    ]
    assert frame["attempts"].tolist() == [1 if fault in (None, "BadReply") else 2 for fault in expected]
    assert all(isinstance(answer.error, BadReply) for answer in answers if answer.status == "failed")
    assert sorted(answer.position for answer in answers) == list(range(len(table)))

    again = sum(fault not in (None, "BadReply") for fault in expected)
    assert received == len(table) + again
    assert 0.9 * AT_ONCE <= peak <= AT_ONCE  # some row may always be waiting for its second attempt
    assert Counter(number for number, *_ in requests) == Counter(
        number
        for prompt, fault in zip(prompts, expected, strict=True)
        for number in [crc32(prompt.encode())] * (1 if fault in (None, "BadReply") else 2)
    )

    limited = {crc32(prompt.encode()) for prompt in prompts if fault_of(prompt) == "RateLimited"}
    cooldown = covered(
        (ended, ended + 1.0) for number, attempt, _, _, ended in requests if number in limited and attempt == 1
    )
    ideal = len(table) * LATENCY / AT_ONCE + cooldown
    report = (
        f"{len(table):,} rows, {received:,} requests, {len(limited)} × 429: {wall:.1f} s, {cooldown:.1f} s of it "
        f"cool-downs; {wall / ideal:.2f} × ideal, {(wall - cooldown) / (ideal - cooldown):.2f} × without the "
        f"cool-downs; {1e6 * cpu / received:.0f} µs of CPU a request"
    )
    record_property("time", report)
    print(report)
    assert wall < 4 * ideal + 10
