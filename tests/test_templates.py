"""From an item to a prompt: a field is a column's name, a cell is data."""

import math
from datetime import date
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ceylon_nb import Message, frames
from ceylon_nb.errors import InvalidItem, TemplateError
from ceylon_nb.messages import Reply
from ceylon_nb.templates import Template, missing


def prompts(items, template=None):
    source = frames.source(items)
    make = Template(template, source)
    return [make(source.item(position)) for position in range(source.total)]


def refused(items, template=None):
    with pytest.raises(TemplateError) as caught:
        Template(template, frames.source(items))
    return str(caught.value)


ONE = pd.DataFrame({"text": ["fine"], "n": [3]})

# -- fields -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("Classify the review: {text}", "Classify the review: fine"),
        ("{text}{n}{text}", "fine3fine"),
        ("{n:05.1f}|{text:>6}|{text!r}|{text!s:.2}|{text!a}", "003.0|  fine|'fine'|fi|'fine'"),
        ('{{"label": "{text}"}} }}{{', '{"label": "fine"} }{'),
        ("no field at all", "no field at all"),
        ("", ""),
    ],
)
def test_a_field_is_a_column(template, prompt):
    assert prompts(ONE, template) == [prompt]


@pytest.mark.parametrize(
    "name",
    ["a.b", "a b", " a", "a[0]", "0", "a-b", "größe", "__class__", "0.__class__", "a'b\"", "a\nb", "class", "a,b"],
)
def test_a_columns_name_is_taken_as_it_is(name):
    assert prompts(pd.DataFrame({name: ["cell"], "other": ["no"]}), f"<{{{name}}}>") == ["<cell>"]
    assert prompts([{name: "cell"}], f"<{{{name}}}>") == ["<cell>"]


def test_columns_with_names_that_are_no_text():
    table = pd.DataFrame([["a", "b", "c"]], columns=[0, ("x", "y"), pd.Timestamp("2024-01-31")])
    assert prompts(table, "{0}") == ["a"]
    assert prompts(table, "{('x', 'y')}") == ["b"]
    assert prompts(table, lambda row: row[0] + row[("x", "y")]) == ["ab"]
    levels = pd.DataFrame([["a"]], columns=pd.MultiIndex.from_tuples([("x", 1)]))
    assert prompts(levels, "{('x', 1)}") == ["a"]


@pytest.mark.parametrize("attack", ["{0.__class__}", "{text.__class__}", "{text[0]}", "{n.real}"])
def test_attributes_and_indices_are_not_fields(attack):
    assert "There is no column" in refused(ONE, attack)


def test_an_unknown_column_names_those_there_are():
    assert refused(ONE, "{txt}") == (
        "There is no column 'txt'. There are text, n. A field is a column's name, as it is; to send a brace, double "
        "it: {{ or }}."
    )
    assert "There is only text." in refused(ONE[["text"]], "{txt}")
    wide = pd.DataFrame({f"c{n}": [1] for n in range(30)})
    assert "There are c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11 and 18 more." in refused(wide, "{x}")


@pytest.mark.parametrize(
    "template",
    [
        '{"label": "x"} {text}',
        "{'label': 'x'}",
        '{\n  "label": "{text}"\n}',
        '{ "label": "x" }',
        '{"a": {"b": 1}}',
        '{"a": {text}}',
        '{"wow!": 1}',
        'Answer as {"label":"…"}: {text}',
    ],
)
def test_json_in_a_template_says_double_the_braces(template):
    assert "as in JSON, double the braces: {{ and }}" in refused(ONE, template)


@pytest.mark.parametrize("template", ["{text", "text}", "{", "}", "{text!x}", "{text!}", "{text:{n}}", "{text!rx}"])
def test_a_text_that_is_no_template_says_what_to_do(template):
    assert "double it" in refused(ONE, template)


def test_two_columns_of_one_name():
    doubled = pd.DataFrame([[1, 2, 3], [4, 5, 6]], columns=["a", "a", "b"])
    assert refused(doubled, "{a}") == "Several columns are called 'a': rename them, so that one can be named."
    assert prompts(doubled, "{b}") == ["3", "6"]
    assert "'1'" in refused(pd.DataFrame([[1, 2]], columns=[1, "1"]), "{1}")


def test_a_table_needs_a_template():
    assert refused(ONE) == (
        'A table needs a template that says which columns to ask about, for example "{text}". Its columns are text, n.'
    )
    assert "for example" in refused(pd.DataFrame())
    assert refused(ONE, "{}") == "{} stands for a whole row: name a column. There are text, n."


def test_a_template_is_text_or_a_function():
    assert refused(ONE, 7) == "A template is a str or a function of the item, not int."


# -- items without columns --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [None, "{}"])
@pytest.mark.parametrize(("item", "prompt"), [("text", "text"), (7, "7"), (1.5, "1.5"), (None, ""), (math.nan, "")])
def test_the_item_itself(item, prompt, template):
    assert prompts([item], template) == [prompt]


def test_the_item_within_a_text():
    assert prompts(["a", "b"], "<{}> {{}} {!r:>5}") == ["<a> {}   'a'", "<b> {}   'b'"]
    assert prompts(pd.Series(["x"]), "{}!") == ["x!"]


def test_a_field_where_there_are_no_columns():
    text = refused(["a"], "{text}")
    assert text.startswith("The items have no columns, so {text} stands for nothing: {} is the item.")
    assert "double the braces" in refused(["a"], '{"label": "{}"}')
    assert "{0} stands for nothing" in refused(["a"], "{0}")


@pytest.mark.parametrize(
    "conversation",
    [
        [{"role": "user", "content": "hi"}],
        ({"role": "system", "content": "s"}, {"role": "user", "content": "hi"}),
        [Message("user", "hi")],
    ],
)
def test_messages_are_a_prompt_as_they_are(conversation):
    assert prompts([conversation])[0] is conversation
    assert prompts([conversation], "{}")[0] is conversation


def test_what_is_neither_text_nor_messages_is_sent_as_text():
    assert prompts([["a", 1], {"a": 1}, [], date(2024, 1, 31)]) == ["['a', 1]", "{'a': 1}", "[]", "2024-01-31"]
    assert type(prompts([Reply("a")])[0]) is Reply


def test_a_list_of_mappings_has_the_fields_of_all():
    items = [{"a": 1}, {"a": 2, "b": 3}]
    assert prompts(items, "{a}") == ["1", "2"]
    assert "There is no column 'c'. There are a, b." in refused(items, "{a} {c}")
    make = Template("{b}", frames.source(items))
    assert make(items[1]) == "3"
    with pytest.raises(InvalidItem, match=r"The item has no field 'b'; it has a\."):
        make(items[0])
    with pytest.raises(InvalidItem, match=r"The item has no field 'b'; it is a str\."):
        make("text")


def test_a_stream_is_checked_item_by_item():
    make = Template("{text}", frames.source(iter([])))
    assert make({"text": "x"}) == "x"
    with pytest.raises(InvalidItem, match="has no field 'text'"):
        make({"txt": "x"})
    assert Template("{}", frames.source(iter([])))("a") == "a"
    assert Template("{text}", frames.source([]))({"text": "x"}) == "x"
    assert "double" in refused(iter([]), "{text")


# -- functions --------------------------------------------------------------------------------------------------------


def test_a_function_makes_text_or_messages():
    assert prompts(ONE, lambda row: f"{row.text} and {row['n']}") == ["fine and 3"]
    messages = [Message("user", "hi")]
    assert prompts(["a"], lambda item: messages)[0] is messages
    assert prompts(["{text}"], str.upper) == ["{TEXT}"]


def test_what_a_function_raises_is_its_own():
    with pytest.raises(KeyError, match="txt"):
        prompts(ONE, lambda row: row["txt"])


# -- cells are data ---------------------------------------------------------------------------------------------------

HOSTILE = [
    "{text}",
    "{0.__class__}",
    "{{double}}",
    "}{",
    "%s %(x)s $x ${x}",
    "<script>alert(1)</script>",
    "'; DROP TABLE x; --",
    '"quoted" \\ \\n',
    "\x00\x1b[31m",
    "\u202e right to left",
    "half \ud83d",
]


@pytest.mark.parametrize("cell", HOSTILE, ids=range(len(HOSTILE)))
def test_a_cell_is_never_formatted(cell):
    table = pd.DataFrame({"text": pd.Series([cell], dtype=object), "n": 1})
    assert prompts(table, "<{text}{n}>") == [f"<{cell}1>"]
    assert prompts([cell], "<{}>") == [f"<{cell}>"]
    assert prompts([cell]) == [cell]


@given(st.text(), st.text(), st.integers())
def test_any_cell_and_any_text_come_through(cell, around, number):
    escaped = around.replace("{", "{{").replace("}", "}}")
    items = [{"a": cell, "b": number}]
    assert prompts(items, f"{escaped}{{a}}{escaped}{{b}}") == [f"{around}{cell}{around}{number}"]


class Evil:
    def __format__(self, spec):
        return f"formatted with {spec!r}"


def test_a_format_spec_that_does_not_fit_is_the_items_fault():
    assert prompts([{"x": Evil()}], "{x:y}") == ["formatted with 'y'"]
    make = Template("{x:.2f}", frames.source([{"x": 1}]))
    with pytest.raises(InvalidItem, match=r"The value of \{x\}, a str, does not fit ':\.2f'"):
        make({"x": "text"})
    with pytest.raises(InvalidItem, match=r"a list, does not fit"):
        make({"x": []})


EMPTY = [
    None,
    math.nan,
    np.nan,
    np.float32("nan"),
    np.float64("nan"),
    pd.NA,
    pd.NaT,
    np.datetime64("NaT", "s"),
    np.timedelta64("NaT", "s"),
    Decimal("NaN"),
]
FULL = ["", "nan", "None", 0, 0.0, False, [], {}, math.inf, np.array([math.nan]), np.int64(0), pd.DataFrame(), object()]


@pytest.mark.parametrize("value", EMPTY, ids=repr)
def test_an_empty_cell_is_no_text(value):
    assert missing(value)
    assert prompts([{"x": value}], "<{x}{x!r}{x:>5}>") == ["<>"]
    assert prompts([value]) == [""]


@pytest.mark.parametrize("value", FULL, ids=lambda value: type(value).__name__)
def test_a_cell_that_is_not_empty(value):
    assert not missing(value)
    assert prompts([{"x": value}], "<{x}>") == [f"<{value}>"]


def test_empty_cells_of_a_table():
    table = pd.DataFrame(
        {
            "text": ["a", None],
            "n": [1.5, None],
            "t": pd.to_datetime(["2024-01-31", None]),
            "i": pd.array([1, None], dtype="Int64"),
            "c": pd.Categorical(["x", None]),
        }
    )
    assert prompts(table, "{text}|{n}|{t:%Y}|{i}|{c}") == ["a|1.5|2024|1|x", "||||"]


def test_the_gist_is_the_cells_alone():
    rows = frames.source(pd.DataFrame({"text": ["<b>good", None], "stars": [3.5, 1.0]}))
    template = Template("Classify: {text} ({stars:.0f} stars)", rows)
    assert template.gist(rows.item(0)) == "<b>good · 4"
    assert template.gist(rows.item(1)) == " · 1"
    assert Template("Classify: {}", frames.source(["a"])).gist("a") == "a"
    assert Template("Say hello", frames.source(["a"])).gist("a") == "Say hello"
    assert Template(None, frames.source(["a"])).gist("a") == "a"
    assert Template(lambda item: f"{item}?", frames.source(["a"])).gist("a") == "a"
