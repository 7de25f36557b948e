"""Messages: a reply is a str and more, what servers send is mended, and a prompt that is none is refused clearly."""

import copy
import io
import json
import pickle
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.lib.pretty import pretty

from ceylon_nb import Message, Reply, Usage
from ceylon_nb.errors import EmptyPrompt, InvalidItem
from ceylon_nb.messages import Done, Text, ToolCall, as_messages, decode_json, sendable

FIELDS = ("usage", "model", "latency", "finish_reason", "attempts", "raw")


def a_reply(text: str = "Paris.\nIt is the capital.") -> Reply:
    return Reply(
        text,
        usage=Usage(3, 5),
        model="mock",
        latency=0.25,
        finish_reason="stop",
        attempts=2,
        raw=b'{"done": true}',
    )


# ---- Reply ----


def test_a_reply_is_a_str():
    reply = a_reply()
    assert isinstance(reply, str)
    assert reply == "Paris.\nIt is the capital."
    assert hash(reply) == hash("Paris.\nIt is the capital.")
    assert reply in {"Paris.\nIt is the capital."}
    assert reply[:5] == "Paris"
    assert type(reply[:5]) is str
    assert f"{reply!s:.5}" == "Paris"
    assert json.dumps(reply) == '"Paris.\\nIt is the capital."'
    assert "".join([reply]) == str(reply)
    assert type(str(reply)) is str


def test_what_a_reply_knows():
    reply = a_reply()
    assert [getattr(reply, name) for name in FIELDS] == [Usage(3, 5), "mock", 0.25, "stop", 2, {"done": True}]


def test_a_bare_reply():
    assert [getattr(Reply("x"), name) for name in FIELDS] == [Usage(None, None), None, None, None, 1, None]


def test_a_reply_takes_no_other_attributes():
    with pytest.raises(AttributeError):
        a_reply().useage = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, *(lambda x, p=p: pickle.loads(pickle.dumps(x, p)) for p in range(2, 6))],
)
def test_a_copy_knows_the_same(copied):
    reply = a_reply()
    again = copied(reply)
    assert type(again) is Reply
    assert again == reply
    assert [getattr(again, name) for name in FIELDS] == [getattr(reply, name) for name in FIELDS]


def test_a_notebook_shows_its_text():
    assert pretty(a_reply()) == "Paris.\nIt is the capital."
    assert pretty(Text("two\nlines")) == "two\nlines"
    assert repr(a_reply("It's")) == '"It\'s"'


def test_inside_other_things_it_is_quoted():
    assert pretty([a_reply("Paris."), "x"]) == "['Paris.', 'x']"
    assert pretty({"city": a_reply("a\nb")}) == "{'city': 'a\\nb'}"


def test_print_shows_its_text():
    out = io.StringIO()
    print(a_reply(), file=out)
    assert out.getvalue() == "Paris.\nIt is the capital.\n"


def test_values_are_frozen():
    for value, name in ((Message("user", "x"), "content"), (Usage(1, 2), "input_tokens")):
        with pytest.raises(AttributeError):
            setattr(value, name, "other")


# ---- what servers send ----

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(values)
def test_json_is_decoded(value):
    assert decode_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        (rb'"half \ud83d"', "half \ufffd"),
        (rb'"\ude00 half"', "\ufffd half"),
        (b'"as bytes \xed\xa0\x80"', "as bytes \ufffd"),
        (rb'"whole \ud83d\ude00"', "whole \U0001f600"),
        (rb'["\ud83d", {"\ud83d": ["\udc00x", 1, null]}]', ["\ufffd", {"\ufffd": ["\ufffdx", 1, None]}]),
    ],
)
def test_half_surrogate_pairs_are_mended(sent, found):
    value = decode_json(sent)
    assert value == found
    orjson.dumps(value)


@given(st.text(st.characters(categories=["Cs", "Lu", "So"])))
def test_whatever_is_sent_can_be_stored(text):
    value = decode_json(json.dumps([text]).encode())
    assert orjson.loads(orjson.dumps(value)) == value
    assert value == [sendable(text)]


@given(st.text())
def test_good_text_is_sent_as_it_is(text):
    assert sendable(text) == text


@pytest.mark.parametrize("sent", [b"", b"{", b"not json", b'{"a": 1', b"<html>", b'"\xff"', b"\xed\xa0\x80"])
def test_what_is_not_json(sent):
    with pytest.raises(ValueError, match=r"."):
        decode_json(sent)


def test_raw_is_mended_too():
    assert Reply("x", raw=rb'{"content": "\ud83d"}').raw == {"content": "\ufffd"}


# ---- prompts ----


def test_text_is_what_the_user_says():
    assert as_messages("Hi") == (Message("user", "Hi"),)
    assert as_messages("Hi", "Be brief.") == (Message("system", "Be brief."), Message("user", "Hi"))
    assert as_messages(Reply("Hi")) == (Message("user", "Hi"),)


def test_messages_in_either_form():
    told: list[Any] = [Message("user", "Hi"), {"role": "assistant", "content": "Hello"}, Message("user", "Bye")]
    found = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Bye"))
    assert as_messages(told) == found
    assert as_messages(iter(told)) == found
    assert as_messages(told, "Be brief.") == (Message("system", "Be brief."), *found)


def test_a_system_message_of_ones_own_is_the_only_one():
    told = [Message("system", "Mine"), Message("user", "Hi")]
    assert as_messages(told, "The agent's") == tuple(told)


def test_lone_surrogates_are_not_sent():
    said = as_messages([Message("user", "a\ud83d"), {"role": "user", "content": "b\ud83d"}], "c\ud83d")
    assert [each.content for each in said] == ["c\ufffd", "a\ufffd", "b\ufffd"]
    assert as_messages("d\ud83d")[0].content == "d\ufffd"
    orjson.dumps([each.content for each in said])


@pytest.mark.parametrize("prompt", ["", "  \n\t", [], [{"role": "user", "content": " "}], iter(())])
def test_an_empty_prompt_is_not_sent(prompt):
    with pytest.raises(EmptyPrompt, match="was not sent"):
        as_messages(prompt)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (None, "A prompt is a str or a list of messages, not NoneType."),
        (5, "A prompt is a str or a list of messages, not int."),
        (b"Hi", "A prompt is a str or a list of messages, not bytes."),
        ({"role": "user", "content": "Hi"}, "A prompt is a str or a list of messages, not dict."),
        (["Hi"], "with text in both, not str."),
        ([{"role": "user"}], "with text in both, not dict."),
        ([{"role": "user", "content": 5}], "with text in both, not dict."),
        ([Message("user", 5)], "with text in both, not Message."),  # type: ignore[arg-type]
        ([Message("tool", "x")], "A message's role is one of system, user, assistant, not 'tool'."),
        ([{"role": "User", "content": "x"}], "A message's role is one of system, user, assistant, not 'User'."),
    ],
)
def test_what_is_no_prompt(prompt, said):
    with pytest.raises(InvalidItem) as raised:
        as_messages(prompt)
    assert str(raised.value).endswith(said)


def test_what_was_done_says_so_on_one_line():
    call = ToolCall("call_0", "price", {"item": "tea", "count": 2})
    assert str(call) == "price(item='tea', count=2)"
    assert str(Done(call, "2.5", None, 0.1, 1)) == "price(item='tea', count=2) → 2.5"
    assert str(Done(ToolCall("call_1", "price", "{tea"), "error: no", "no", 0.1, 1)) == "price({tea) → error: no"
