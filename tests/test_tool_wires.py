"""Calls of actions on the wire: the official clients read the same streams, and would send what is sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import ollama
import openai
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from ceylon_nb import LlmAgent, errors
from ceylon_nb.messages import CallsMessage, Message, Reply, ResultMessage, Tool, ToolCall
from ceylon_nb.providers.base import Provider, Request
from ceylon_nb.providers.deltas import gather_stream
from ceylon_nb.providers.ollama import Ollama
from ceylon_nb.providers.openai import OpenAI
from ceylon_nb.testing import ModelServer, faults

TOOL = Tool("visit", "Go there.", {"type": "object", "properties": {"place": {"type": "string"}}, "required": []})
OFFERED = [
    {"type": "function", "function": {"name": "visit", "description": "Go there.", "parameters": TOOL.parameters}}
]
ASKED = [{"role": "user", "content": "Go"}]

both_ways = pytest.mark.parametrize("stream", [False, True])


def provider_of(server: ModelServer, wire: str) -> Provider:
    return Ollama(server.url) if wire == "ollama" else OpenAI(server.openai_url, "key")


def request_of(*messages: Message, tools: Sequence[Tool] = (TOOL,)) -> Request:
    return Request("mock", messages or (Message("user", "Go"),), timeout=5.0, tools=tuple(tools))


def said(provider: Provider, request: Request, *, stream: bool) -> Reply:
    async def ask() -> Reply:
        if not stream:
            return await provider.complete(request)
        async with aclosing(provider.stream(request)) as deltas:
            return gather_stream([delta async for delta in deltas])

    return asyncio.run(ask())


def answer(calls: Sequence[tuple[str, Any]], text: str = "") -> dict[str, Any]:
    return {"content": text, "tool_calls": [{"function": {"name": n, "arguments": a}} for n, a in calls]}


def plain(reply: Reply) -> list[tuple[str, Any]]:
    return [(call.name, call.arguments) for call in reply.tool_calls]


# -- what comes, judged by the official clients ----------------------------------------------------------------------

names = st.from_regex(r"[a-zA-Z0-9_-]{1,64}", fullmatch=True)
SPLIT = "\x85\u2028\u2029"  # Ollama's own client ends a line at these, in the midst of the JSON of a stream
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=SPLIT), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
some_calls = st.lists(st.tuples(names, st.dictionaries(texts, values, max_size=3)), min_size=1, max_size=4)
gently = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def by_ollama(server: ModelServer, *, stream: bool) -> tuple[str, list[tuple[str, Any]]]:
    with ollama.Client(host=server.url) as client:
        parts = client.chat("mock", ASKED, tools=OFFERED, stream=True) if stream else [client.chat("mock", ASKED)]
        messages = [part.message for part in parts]
    calls = [call.function for message in messages for call in message.tool_calls or ()]
    return "".join(message.content or "" for message in messages), [(call.name, call.arguments) for call in calls]


def by_openai(server: ModelServer, *, stream: bool) -> tuple[str, list[tuple[str, str, Any]]]:
    with openai.OpenAI(base_url=server.openai_url, api_key="key", max_retries=0) as client:
        if stream:
            with client.chat.completions.stream(model="mock", messages=ASKED, tools=OFFERED) as events:
                message = events.get_final_completion().choices[0].message
        else:
            message = client.chat.completions.create(model="mock", messages=ASKED, tools=OFFERED).choices[0].message
    calls = [(call.id, call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()]
    return message.content or "", calls


@gently
@given(calls=some_calls, text=st.sampled_from(["", "Let me see."]), stream=st.booleans())
def test_as_ollamas_client_reads_it(
    model_server: ModelServer, calls: list[tuple[str, Any]], text: str, stream: bool
) -> None:
    model_server.reply = answer(calls, text)
    reply = said(provider_of(model_server, "ollama"), request_of(), stream=stream)
    assert (str(reply), plain(reply)) == by_ollama(model_server, stream=stream) == (text, calls)
    assert [call.id for call in reply.tool_calls] == [f"call_{n}" for n in range(len(calls))]


@gently
@given(calls=some_calls, text=st.sampled_from(["", "Let me see."]), stream=st.booleans())
def test_as_openais_client_reads_it(
    model_server: ModelServer, calls: list[tuple[str, Any]], text: str, stream: bool
) -> None:
    model_server.reset()
    model_server.reply = answer(calls, text)
    reply = said(provider_of(model_server, "openai"), request_of(), stream=stream)
    theirs, theirs_called = by_openai(model_server, stream=stream)
    assert (str(reply), plain(reply)) == (theirs, [call[1:] for call in theirs_called]) == (text, calls)
    assert [call.id for call in reply.tool_calls] == [f"call_1_{n}" for n in range(len(calls))]
    assert theirs_called[0][0] == "call_2_0"  # the server's own, by the number of the request
    assert reply.finish_reason == "tool_calls"


@pytest.mark.parametrize("wire", ["ollama", "openai"])
@both_ways
def test_what_others_take_for_the_end_of_a_line(model_server: ModelServer, wire: str, stream: bool) -> None:
    model_server.reply = answer([("visit", {"place": SPLIT})], SPLIT)
    reply = said(provider_of(model_server, wire), request_of(), stream=stream)
    assert (str(reply), plain(reply)) == (SPLIT, [("visit", {"place": SPLIT})])


# -- what is sent, judged by the official clients --------------------------------------------------------------------

CALL = ToolCall("call_7", "visit", {"place": "Ella"})
LONG = (
    Message("system", "Be brief."),
    Message("user", "Go"),
    CallsMessage("assistant", "Well,", (CALL, ToolCall("call_8", "visit", "not JSON"))),
    ResultMessage("tool", "Been there.", CALL),
    ResultMessage("tool", "error: no JSON", ToolCall("call_8", "visit", "not JSON")),
)


@both_ways
def test_what_ollama_is_sent(model_server: ModelServer, stream: bool) -> None:
    model_server.reply = "Yes."
    said(provider_of(model_server, "ollama"), request_of(*LONG), stream=stream)
    with ollama.Client(host=model_server.url) as client:
        client.chat("mock", model_server.requests[0].messages, tools=OFFERED)
    ours, theirs = model_server.requests
    assert ours.tools == theirs.tools == OFFERED
    for message in ours.messages:  # newer servers know calls by ids, and their client does not yet
        message.pop("tool_call_id", None)
        for call in message.get("tool_calls", ()):
            del call["id"]
    assert ours.messages == theirs.messages
    assert ours.messages[2] == {
        "role": "assistant",
        "content": "Well,",
        "tool_calls": [
            {"function": {"name": "visit", "arguments": {"place": "Ella"}}},
            {"function": {"name": "visit", "arguments": {}}},
        ],
    }
    assert ours.messages[3] == {"role": "tool", "content": "Been there.", "tool_name": "visit"}


@both_ways
def test_what_openai_is_sent(model_server: ModelServer, stream: bool) -> None:
    model_server.reply = "Yes."
    silent = CallsMessage("assistant", "", (CALL,))
    said(provider_of(model_server, "openai"), request_of(*LONG, silent), stream=stream)
    (sent,) = model_server.requests
    messages = pydantic.TypeAdapter(list[ChatCompletionMessageParam]).validate_python(sent.messages)
    assert len(messages) == len(sent.messages)
    assert pydantic.TypeAdapter(list[ChatCompletionToolParam]).validate_python(sent.tools) == sent.tools == OFFERED
    assert sent.messages[2] == {
        "role": "assistant",
        "content": "Well,",
        "tool_calls": [
            {"id": "call_7", "type": "function", "function": {"name": "visit", "arguments": '{"place":"Ella"}'}},
            {"id": "call_8", "type": "function", "function": {"name": "visit", "arguments": "{}"}},
        ],
    }
    assert sent.messages[3] == {"role": "tool", "content": "Been there.", "tool_call_id": "call_7"}
    assert sent.messages[5]["content"] is None


@pytest.mark.parametrize("wire", ["ollama", "openai"])
def test_without_tools_a_request_is_what_it_was(model_server: ModelServer, wire: str) -> None:
    said(provider_of(model_server, wire), request_of(tools=()), stream=False)
    assert model_server.requests[0].body == {"model": "mock", "messages": ASKED, "stream": False}


def test_calls_without_ids_are_numbered_on(model_server: ModelServer) -> None:
    model_server.reply = answer([("visit", {}), ("visit", {})])
    reply = said(provider_of(model_server, "ollama"), request_of(*LONG), stream=True)
    assert [call.id for call in reply.tool_calls] == ["call_2", "call_3"]


# -- other servers ---------------------------------------------------------------------------------------------------


def streamed(server: ModelServer, *deltas: Any, end: str = "tool_calls") -> Reply:
    """What OpenAI's wire makes of these pieces."""
    events = [{"choices": [{"index": 0, "delta": {"tool_calls": [piece]}}]} for piece in deltas]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": end}]})
    content = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    server.next(faults.body(content.encode(), "text/event-stream"))
    return said(provider_of(server, "openai"), request_of(), stream=True)


def piece(index: Any, name: str | None, arguments: Any, id: str | None = None) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    parts = {"index": index, "id": id, "function": function}
    return {key: value for key, value in parts.items() if value is not None}


@gently
@given(
    called=some_calls,
    cuts=st.lists(st.integers(1, 9), min_size=1),
    order=st.randoms(use_true_random=False),
)
def test_fragments_in_any_order_of_calls(model_server: ModelServer, called: Any, cuts: Any, order: Any) -> None:
    """Pieces of several calls may take turns; those of one call are in order."""
    queues = []
    for index, (name, arguments) in enumerate(called):
        text, pieces, at = json.dumps(arguments), [piece(index, name, "", f"id{index}")], 0
        for n in range(len(text)):
            size = cuts[n % len(cuts)]
            if at < len(text):
                pieces.append(piece(index, None, text[at : at + size]))
            at += size
        queues.append(pieces)
    firsts = [queue.pop(0) for queue in queues]
    rest = []
    while any(queues):
        rest.append(order.choice([queue for queue in queues if queue]).pop(0))
    reply = streamed(model_server, *firsts, *rest)
    assert plain(reply) == called
    assert [call.id for call in reply.tool_calls] == [f"id{n}" for n in range(len(called))]


@pytest.mark.parametrize(
    "pieces",
    [
        [piece(0, "a", '{"x":1}', "i"), piece(0, "b", "{}", "j")],  # one index for all: Gemini
        [piece(None, "a", '{"x":1}', "i"), piece(None, "b", "{}", "j")],  # none at all
        [piece([0], "a", '{"x":1}', "i"), piece([0], "b", "{}", "j")],  # nor this
        [piece(0, "a", '{"x"', "i"), piece(0, "a", ":1}", "i"), piece(1, "b", "", "j")],  # name and id each time
        [piece(0, "a", '{"x"', "i"), piece(0, None, ":1}", "other"), piece(1, "b", None, "j")],  # a new id each time
        [piece(0, "a", {"x": 1}, "i"), piece(1, "b", {}, "j")],  # an object
    ],
)
def test_servers_that_stream_calls_in_their_own_way(model_server: ModelServer, pieces: Any) -> None:
    reply = streamed(model_server, *pieces)
    assert [(call.id, call.name, call.arguments) for call in reply.tool_calls] == [("i", "a", {"x": 1}), ("j", "b", {})]


def test_a_stream_that_does_not_say_why_it_ended(model_server: ModelServer) -> None:
    event = {"choices": [{"index": 0, "delta": {"tool_calls": [piece(0, "a", "{}", "i")]}}]}
    content = f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n"
    model_server.next(faults.body(content.encode(), "text/event-stream"))
    reply = said(provider_of(model_server, "openai"), request_of(), stream=True)
    assert (plain(reply), reply.finish_reason) == ([("a", {})], "stop")


def test_a_stream_that_breaks_off_among_its_calls(model_server: ModelServer) -> None:
    event = {"choices": [{"index": 0, "delta": {"tool_calls": [piece(0, "a", '{"x', "i")]}}]}
    model_server.next(faults.body(f"data: {json.dumps(event)}\n\n".encode(), "text/event-stream"))
    with pytest.raises(errors.IncompleteReply):
        said(provider_of(model_server, "openai"), request_of(), stream=True)


def test_a_plain_answer_in_place_of_a_stream(model_server: ModelServer) -> None:
    message = {"content": None, "tool_calls": [{"id": "i", "function": {"name": "a", "arguments": "{}"}}]}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}]})
    model_server.next(faults.body(body.encode()))
    assert plain(said(provider_of(model_server, "openai"), request_of(), stream=True)) == [("a", {})]


def test_ollamas_content_may_be_missing_beside_calls(model_server: ModelServer) -> None:
    message = {"role": "assistant", "tool_calls": [{"id": "i", "function": {"name": "a", "arguments": '{"x": 1}'}}]}
    model_server.next(faults.body(json.dumps({"message": message, "done": True}).encode()))
    reply = said(provider_of(model_server, "ollama"), request_of(), stream=False)
    assert [(call.id, call.name, call.arguments) for call in reply.tool_calls] == [("i", "a", {"x": 1})]


@pytest.mark.parametrize("wire", ["ollama", "openai"])
@pytest.mark.parametrize(
    "found", ["a", {"a": 1}, ["a"], [{}], [{"function": {"name": ""}}], [{"function": {"name": 1}}]]
)
@both_ways
def test_calls_that_cannot_be_read(model_server: ModelServer, wire: str, found: Any, stream: bool) -> None:
    message = {"role": "assistant", "content": "Hm", "tool_calls": found}
    choice = {"message": message, "finish_reason": "stop"}
    whole = {"message": message, "done": True} if wire == "ollama" else {"choices": [choice]}
    model_server.next(faults.body(json.dumps(whole).encode()))
    with pytest.raises(errors.BadReply, match="calls an action in a way that cannot be read"):
        said(provider_of(model_server, wire), request_of(), stream=stream)


def test_calls_of_several_frames(model_server: ModelServer) -> None:
    message = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "a", "arguments": {}}}]}
    lines = [{"message": message}, {"message": message}, {"message": message | {"tool_calls": None}, "done": True}]
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    model_server.next(faults.body(content, "application/x-ndjson"))
    reply = said(provider_of(model_server, "ollama"), request_of(), stream=True)
    assert [call.id for call in reply.tool_calls] == ["call_0", "call_1"]


def test_fragments_that_cannot_be_read(model_server: ModelServer) -> None:
    for bad in ("a", piece(0, None, "{}"), {"index": 0}, {"index": 0, "function": {"name": 3}}):
        with pytest.raises(errors.BadReply):
            streamed(model_server, bad)


@pytest.mark.parametrize("wire", ["ollama", "openai"])
@both_ways
def test_neither_text_nor_calls(model_server: ModelServer, wire: str, stream: bool) -> None:
    model_server.reply = ""
    with pytest.raises(errors.EmptyReply):
        said(provider_of(model_server, wire), request_of(), stream=stream)


def test_half_a_surrogate_in_arguments(model_server: ModelServer) -> None:
    reply = streamed(model_server, piece(0, "a", '{"x": "\\ud83d!"}', "i"))
    assert plain(reply) == [("a", {"x": "\ufffd!"})]
    reply = streamed(model_server, piece(0, "a", "{\ud83d", "i"))
    assert plain(reply) == [("a", "{\ufffd")]


# -- the server for tests --------------------------------------------------------------------------------------------


def test_what_the_server_saw(model_server: ModelServer) -> None:
    """A further round of one prompt is no further attempt."""
    model_server.reply = lambda messages: answer([("go", {})]) if len(messages) == 1 else "Yes."
    agent = LlmAgent("a", "ollama::mock", base_url=model_server.url)
    agent.register_action(lambda: "gone", name="go")
    for _ in range(2):
        assert asyncio.run(agent.send_message("Go")) == "Yes."
    assert [(seen.prompt, seen.results, seen.attempt) for seen in model_server.requests] == [
        ("Go", [], 1),
        ("Go", ["gone"], 1),
        ("Go", [], 2),
        ("Go", ["gone"], 2),
    ]
    assert [tool["function"]["name"] for tool in model_server.requests[0].tools] == ["go"]
