"""The embedded model calls tools: which, with what arguments, and what it says of the results."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ceylon_nb.providers import demo, demo_tasks
from ceylon_nb.providers.demo_tools import reply
from ceylon_nb.testing import ModelServer

TEXT, NUMBER, WHOLE, FLAG = {"type": "string"}, {"type": "number"}, {"type": "integer"}, {"type": "boolean"}


def tool(name: str, description: str = "", optional: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    required = [each for each in properties if each not in optional]
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


UNIT = {"enum": ["celsius", "fahrenheit"], "type": "string"}
WEATHER = tool("get_weather", "Tell the weather of a city.", ("unit",), city=TEXT, unit=UNIT)
TOOLS = [
    WEATHER,
    tool("add", "Add two numbers.", a=NUMBER, b=NUMBER),
    tool("multiply", "Multiply two numbers.", a=WHOLE, b=WHOLE),
    tool("calculate", "Work out an expression.", expression=TEXT),
    tool("current_time", "Tell the time."),
    tool("search_docs", "Search the documentation.", ("limit",), query=TEXT, limit=WHOLE),
    tool("lookup_order", "Find an order by its number.", order_id=TEXT),
    tool("sendEmail", "Send a mail.", ("urgent", "copies"), to=TEXT, subject=TEXT, urgent=FLAG, copies=WHOLE),
    tool("average", "The mean.", numbers={"type": "array", "items": NUMBER}),
    tool("forecast_days", "A forecast.", ("days",), town=TEXT, days={"anyOf": [WHOLE, {"type": "null"}]}),
]


def asked(prompt: str, tools: Any = TOOLS) -> list[tuple[str, dict[str, Any]]]:
    calls = reply([{"role": "user", "content": prompt}], tools)["tool_calls"]
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


@pytest.mark.parametrize(
    ("prompt", "calls"),
    [
        ("What's the weather in Paris and in Rome?", [("get_weather", {"city": city}) for city in ("Paris", "Rome")]),
        ("what is the weather in paris?", [("get_weather", {"city": "paris"})]),
        ("Is it raining in Rio de Janeiro on Monday?", [("get_weather", {"city": "Rio de Janeiro"})]),
        ("Oslo's weather in Celsius, please", [("get_weather", {"city": "Oslo", "unit": "celsius"})]),
        (
            "Weather in Lima and New York, in fahrenheit",
            [("get_weather", {"city": city, "unit": "fahrenheit"}) for city in ("Lima", "New York")],
        ),
        (
            "Weather in Lima in celsius and in fahrenheit",
            [("get_weather", {"city": "Lima", "unit": unit}) for unit in ("celsius", "fahrenheit")],
        ),
        ("What is 17 times 23?", [("multiply", {"a": 17, "b": 23})]),
        ("Multiply 1,000 by -3", [("multiply", {"a": 1000, "b": -3})]),
        ("add 2 and 3.5", [("add", {"a": 2, "b": 3.5})]),
        ("add 2 and 3 and 4 and 5", [("add", {"a": 2, "b": 3}), ("add", {"a": 4, "b": 5})]),
        ("add 2 and 3 and 4", [("add", {"a": 2, "b": 3})]),
        ("What is 12 * (7 + 1)?", [("calculate", {"expression": "12 * (7 + 1)"})]),
        (
            "What is 2 + 3, and the weather in New York?",
            [("add", {"a": 2, "b": 3}), ("get_weather", {"city": "New York"})],
        ),
        ("What time is it?", [("current_time", {})]),
        ("Search for asyncio tutorials.", [("search_docs", {"query": "asyncio tutorials"})]),
        ('search "cats: limit" with limit=5', [("search_docs", {"query": "cats: limit", "limit": 5})]),
        ("Where is order A-17?", [("lookup_order", {"order_id": "A-17"})]),
        ("Where is order number 1234?", [("lookup_order", {"order_id": "1234"})]),
        (
            'Email ada@example.org with the subject "Hello you", urgent',
            [("sendEmail", {"to": "ada@example.org", "subject": "Hello you", "urgent": True})],
        ),
        (
            'Email ada@example.org, subject="Hi", not urgent, 2 copies',
            [("sendEmail", {"to": "ada@example.org", "subject": "Hi", "urgent": False, "copies": 2})],
        ),
        ("The average of 1, 2 and 3.5", [("average", {"numbers": [1, 2, 3.5]})]),
        ("The forecast for Kyiv for 5 days", [("forecast_days", {"town": "Kyiv", "days": 5})]),
        ("Forecast for the coming days in Kyiv", [("forecast_days", {"town": "Kyiv"})]),
        ("What is Python?", []),
        ("Classify the review: I love it on 2026-11-22", []),
        ("", []),
    ],
)
def test_what_is_called(prompt: str, calls: list[tuple[str, dict[str, Any]]]) -> None:
    tools = [each for each in TOOLS if "orecast" not in prompt or each is not WEATHER]
    assert asked(prompt, tools) == calls


def test_without_a_tool_that_fits_it_answers_as_ever() -> None:
    for prompt in ("What is Python?", "Classify the review: I love this phone", "Hello"):
        messages = [{"role": "user", "content": prompt}]
        assert reply(messages, TOOLS) == {"content": demo_tasks.answer(messages), "tool_calls": []}
        assert reply(messages) == reply(messages, [])


def test_it_says_what_it_needs() -> None:
    lacking = reply([{"role": "user", "content": "multiply 6"}], TOOLS)
    assert lacking == {"content": "To use multiply I need: b.", "tool_calls": []}


def test_what_may_be_left_out_is_given_where_it_is_named() -> None:
    book = tool("book_room", "", ("note", "nights", "size"), hotel=TEXT, note=TEXT, nights=WHOLE, size=NUMBER)
    assert asked("Book a room at the Ritz and the Savoy for 2 nights", [book]) == [
        ("book_room", {"hotel": "Ritz", "nights": 2}),
        ("book_room", {"hotel": "Savoy", "nights": 2}),
    ]
    assert asked("Book a room at the Ritz, note: late", [book]) == [("book_room", {"hotel": "Ritz", "note": "late"})]


def test_parameters_are_found_where_a_schema_points() -> None:
    parameters = {
        "type": "object",
        "properties": {"size": {"$ref": "#/$defs/Size"}, "count": {"type": ["integer", "null"]}, "kind": {"const": 1}},
        "required": ["size", "count", "kind"],
        "$defs": {"Size": {"enum": ["small", "large"]}},
    }
    pizza = {"type": "function", "function": {"name": "order_pizza", "parameters": parameters}}
    assert asked("Order 2 large pizzas", [pizza]) == [("order_pizza", {"size": "large", "count": 2, "kind": 1})]


# ---- what it says of the results ----


def turn(prompt: str, *results: str, wire: str = "ollama") -> list[dict[str, Any]]:
    """A conversation up to the results of the calls that the prompt leads to."""
    calls = reply([{"role": "user", "content": prompt}], TOOLS)["tool_calls"]
    calls = [{"id": f"call_{at}", **call} for at, call in enumerate(calls)]
    told = [{"role": "tool", "content": text, "tool_name": "get_weather"} for text in results]
    if wire == "openai":
        for call in calls:
            call["function"] = {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}
        told = [{"role": "tool", "content": text, "tool_call_id": f"call_{at}"} for at, text in enumerate(results)]
    said: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
    return [*said, {"role": "assistant", "content": None if wire == "openai" else "", "tool_calls": calls}, *told]


@pytest.mark.parametrize("wire", ["ollama", "openai"])
def test_results_are_quoted_in_order(wire: str) -> None:
    messages = turn("The weather in Paris and Rome", "sunny, 21 °C", "error: no such city", wire=wire)
    said = "get_weather(Paris) says: sunny, 21 °C. get_weather(Rome) failed: no such city."
    assert reply(messages, TOOLS) == {"content": said, "tool_calls": []}
    if wire == "openai":  # there it is the id that counts
        messages[2:] = reversed(messages[2:])
        assert reply(messages)["content"].startswith("get_weather(Rome) failed")


def test_only_this_turn_counts() -> None:
    messages = turn("The weather in Paris", "sunny")
    messages += [{"role": "assistant", "content": "It is sunny."}, {"role": "user", "content": "The weather in Rome"}]
    calls = reply(messages, TOOLS)["tool_calls"]
    assert [call["function"]["arguments"] for call in calls] == [{"city": "Rome"}]
    messages[-1] = {"role": "user", "content": "What was my first question?"}
    assert reply(messages, TOOLS)["content"] == 'You asked: "The weather in Paris"'
    messages[-1] = {"role": "user", "content": "What is Python?"}
    assert reply(messages)["content"] == demo_tasks.answer(messages[-1:])


def test_a_long_result_is_cut() -> None:
    assert len(reply(turn("The weather in Paris", "wet " * 100_000))["content"]) < 3_000


# ---- whatever it is given ----

KEYS = st.sampled_from("type function name parameters properties required enum $ref anyOf items".split()) | st.text()
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
ODD_TEXT = st.text(st.characters(exclude_categories=()), max_size=200)
WORDS = st.lists(
    st.sampled_from('weather Paris and add 2 3 -4.5 multiply "x y" order A-17 + * ( ) , . ? time in'.split())
)


@given(ANYTHING, st.lists(ANYTHING, max_size=3))
def test_no_offer_breaks_it(schema: Any, tools: Any) -> None:
    offer = [{"type": "function", "function": {"name": "add", "parameters": schema}}, *tools]
    said = reply([{"role": "user", "content": 'add 2 and "three" and Four'}], offer)
    assert said["content"] or said["tool_calls"]


@given(ODD_TEXT | WORDS.map(" ".join))
def test_no_text_breaks_it(prompt: str) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
    said = reply(messages, TOOLS)
    assert said == reply(messages, TOOLS)
    assert bool(said["content"]) != bool(said["tool_calls"])
    required = {each["function"]["name"]: set(each["function"]["parameters"]["required"]) for each in TOOLS}
    for call in said["tool_calls"]:
        assert required[call["function"]["name"]] <= set(call["function"]["arguments"])
    assert reply([*messages, {"role": "tool", "content": prompt}], TOOLS)["content"]


@pytest.mark.parametrize("unit", ["(", "1", "1 + ", "a", "a@", "A ", '"', "weather ", "- ", "1-", "add 2 and 3, "])
def test_long_texts_are_read_in_time(unit: str) -> None:
    start = time.process_time()
    reply([{"role": "user", "content": unit * 200_000}], TOOLS)
    assert time.process_time() - start < 2.0


# ---- on the wire ----


def through_demo(**ask: Any) -> list[dict[str, Any]]:
    """The lines that the embedded model sends."""

    async def run() -> list[dict[str, Any]]:
        body = orjson.dumps({"model": "instant", "tools": TOOLS, **ask})
        status, _, sent = await demo._serve("/api/chat", body)
        assert status == 200
        raw = sent if isinstance(sent, bytes) else b"".join([part async for part in sent])
        return [orjson.loads(line) for line in raw.splitlines()]

    return asyncio.run(run())


ROME = {"function": {"name": "get_weather", "arguments": {"city": "Rome"}}}


@pytest.mark.parametrize("stream", [False, True])
def test_the_demo_sends_calls_as_ollama_does(stream: bool) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "The weather in Rome"}]
    lines = through_demo(messages=messages, stream=stream)
    assert len(lines) == (2 if stream else 1)
    assert lines[0]["message"] == {"role": "assistant", "content": "", "tool_calls": [ROME]}
    assert [line["done"] for line in lines] == ([False, True] if stream else [True])
    assert (lines[-1]["done_reason"], lines[-1]["eval_count"]) == ("stop", 2)

    messages += [{"role": "assistant", "tool_calls": [ROME]}, {"role": "tool", "content": "wet", "tool_name": "x"}]
    lines = through_demo(messages=messages, stream=stream)
    assert "".join(line["message"]["content"] for line in lines) == "get_weather(Rome) says: wet."
    assert not any("tool_calls" in line["message"] for line in lines)


@pytest.mark.parametrize("path", ["api/chat", "v1/chat/completions"])
def test_a_model_server_calls_tools_by_default(path: str, model_server: ModelServer) -> None:
    def post(**ask: Any) -> dict[str, Any]:
        body = json.dumps({"model": "mock", "stream": False, **ask}).encode()
        with urllib.request.urlopen(f"{model_server.url}/{path}", body, timeout=10) as response:
            answer = json.load(response)
        message: dict[str, Any] = answer["choices"][0]["message"] if "choices" in answer else answer["message"]
        return message

    messages = [{"role": "user", "content": "The weather in Rome"}]
    (call,) = post(messages=messages, tools=TOOLS)["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert "tool_calls" not in post(messages=messages)
    model_server.reply = "no"
    assert post(messages=messages, tools=TOOLS)["content"] == "no"
