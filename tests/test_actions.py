"""Actions: what a model is told of a function, what arguments it takes, and what a wrong one is told."""

import asyncio
import dataclasses
import datetime
import decimal
import enum
import functools
import inspect
import json
import subprocess
import sys
import threading
import typing
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import orjson
import pydantic
import pytest
import typing_extensions
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field

from ceylon_nb import Agent, LlmAgent, errors
from ceylon_nb.agents.actions import as_text
from ceylon_nb.agents.context import Context
from ceylon_nb.messages import Reply, Tool


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Size(pydantic.BaseModel):
    """How big."""

    width: float = Field(gt=0)
    title: str = "none"


class Options(typing_extensions.TypedDict, total=False):
    limit: typing_extensions.Required[int]
    order: Literal["up", "down"]


def action_of(function, **options):
    agent = Agent()
    agent.register_action(function, **options)
    [action] = agent.actions.values()
    return action


def parameters_of(function):
    return action_of(function).parameters


def run(function, arguments=None, context=None):
    return asyncio.run(action_of(function).run(arguments, context))


def refusal(function, arguments):
    with pytest.raises(errors.InvalidArguments) as raised:
        run(function, arguments)
    return str(raised.value)


# ---- schemas ----


def test_a_schema_is_what_openai_and_ollama_take():
    def weather(city: str, days: int = 3, unit: Literal["C", "F"] = "C"):
        """The weather.

        Args:
            city: Its name,
                in English.
            unit: Of the temperature.
        """

    action = action_of(weather)
    assert action.tool() == Tool(
        "weather",
        "The weather.",
        {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Its name, in English."},
                "days": {"type": "integer", "default": 3},
                "unit": {"type": "string", "enum": ["C", "F"], "default": "C", "description": "Of the temperature."},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    )
    assert action.parameters == action.tool().parameters
    assert action.description == "The weather."
    assert json.loads(orjson.dumps(action.parameters)) == action.parameters


def test_no_parameters():
    assert parameters_of(lambda_named("none")) == {"type": "object", "properties": {}, "additionalProperties": False}


def lambda_named(name):
    function = lambda: name  # noqa: E731
    function.__name__ = name
    return function


NUMBER = {"type": "number"}


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (inspect.Parameter.empty, {}),
        (Any, {}),
        (int | str, {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        (Optional[int], {"anyOf": [{"type": "integer"}, {"type": "null"}]}),  # noqa: UP045
        (list[float], {"type": "array", "items": NUMBER}),
        (dict[str, float], {"type": "object", "additionalProperties": NUMBER}),
        (set[float], {"type": "array", "items": NUMBER, "uniqueItems": True}),
        (Literal[1, "a"], {"enum": [1, "a"]}),
        (datetime.date, {"type": "string", "format": "date"}),
        (bool, {"type": "boolean"}),
        (None, {"type": "null"}),
        (Annotated[int, Field(description="Years.", ge=0)], {"type": "integer", "minimum": 0, "description": "Years."}),
    ],
)
def test_type_hints(hint, schema):
    def act(it): ...

    act.__annotations__ = {} if hint is inspect.Parameter.empty else {"it": hint}
    assert parameters_of(act)["properties"]["it"] == schema


def test_models_dataclasses_and_enums_go_into_defs():
    def act(points: list[Point], size: Size, color: Color, options: Options): ...

    schema = parameters_of(act)
    assert schema["properties"] == {
        "points": {"type": "array", "items": {"$ref": "#/$defs/Point"}},
        "size": {"$ref": "#/$defs/Size"},
        "color": {"$ref": "#/$defs/Color"},
        "options": {"$ref": "#/$defs/Options"},
    }
    assert schema["$defs"]["Color"] == {"enum": ["red", "blue"], "type": "string"}
    assert schema["$defs"]["Point"]["required"] == ["x"]
    assert schema["$defs"]["Size"]["description"] == "How big."
    assert schema["$defs"]["Options"]["required"] == ["limit"]
    assert '"title":' not in json.dumps({**schema, "$defs": {**schema["$defs"], "Size": {}}})
    assert schema["$defs"]["Size"]["properties"]["title"] == {"type": "string", "default": "none"}  # an own field
    arguments = {"points": [{"x": "1"}], "size": {"width": 2}, "color": "blue", "options": {"limit": 1}}

    def give(points: list[Point], size: Size, color: Color, options: Options):
        return points, size, color, options

    assert run(give, arguments) == ([Point(1, 0)], Size(width=2), Color.BLUE, {"limit": 1})


@pytest.mark.skipif(sys.version_info < (3, 12), reason="before that pydantic takes those of typing_extensions alone")
def test_typed_dicts_of_typing():
    class Wish(typing.TypedDict):
        name: str

    def act(wish: Wish):
        return wish

    assert run(act, {"wish": {"name": "x"}}) == {"name": "x"}


NAMES = (
    "schema json copy dict model_config model_fields model_dump _x __y p0 p1 title type properties validate "
    "construct default const enum examples context_ cls self function arguments named größe name timeout"
).split()


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_may_have_any_name(name):
    source = f"def act({name}: int, other: str = 'o'):\n    return {name}, other"
    names: dict[str, Any] = {}
    exec(source, names)
    action = action_of(names["act"])
    assert action.parameters["properties"][name] == {"type": "integer"}
    assert action.parameters["required"] == [name]
    assert asyncio.run(action.run({name: "7"})) == (7, "o")
    assert f"{name}: " in refusal(names["act"], {name: "x"})
    assert f"{name} is missing" in refusal(names["act"], {})


def test_hints_that_are_text():
    names: dict[str, Any] = {}
    exec(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "def act(point: Point, more: list['Point'] | None = None) -> Nowhere: return point, more\n"
        "@dataclass\n"
        "class Point:\n"
        "    x: int\n",
        names,
    )
    assert run(names["act"], {"point": {"x": "1"}, "more": [{"x": 2}]}) == (names["Point"](1), [names["Point"](2)])


def test_a_hint_that_names_what_a_function_around_it_has():
    class Local(enum.Enum):
        A = "a"

    def act(it: "Local"):
        return it is Local.A

    assert run(act, {"it": "a"}) is True


def test_a_hint_that_names_nothing_is_said_when_it_is_registered():
    def act(a: int, b: "Nowhere"): ...  # noqa: F821

    with pytest.raises(errors.ConfigurationError, match=r"Action 'act': the type hint of b cannot be read .*'Nowhere'"):
        Agent().register_action(act)


@pytest.mark.parametrize("hint", [threading.Lock, typing.Callable[[], int], 5], ids=repr)
def test_a_hint_that_no_schema_can_say(hint):
    def act(a: int, b): ...

    act.__annotations__["b"] = hint
    with pytest.raises(errors.ConfigurationError, match="Action 'act': b has a type hint that no JSON schema can say"):
        Agent().register_action(act)


def test_defaults_that_json_cannot_say_are_the_functions_own():
    thing, things = object(), [1]

    def act(a=thing, b: list[int] = things, c: float = float("nan"), d: Color = Color.RED, e: Any = threading):
        return a is thing, b is things, c, d, e is threading

    a, b, c, d, e = run(act, {})
    assert (a, b, d, e) == (True, True, Color.RED, True)
    assert c != c
    schema = parameters_of(act)
    assert schema["properties"]["a"] == {}
    assert schema["properties"]["d"]["default"] == "red"
    assert "required" not in schema


def test_a_default_of_none_allows_null():
    def act(a: int = None, b: Annotated[int, Field(description="B", gt=0)] = None):  # noqa: RUF013
        return a, b

    assert run(act, {"a": None, "b": None}) == (None, None)
    assert run(act, {"a": "1"}) == (1, None)
    assert parameters_of(act)["properties"]["b"]["description"] == "B"
    assert "b: Input should be greater than 0" in refusal(act, {"b": 0})


def test_defaults_in_pydantics_way():
    def act(
        a: int = Field(description="A"), b: int = Field(5, description="B"), c: Annotated[int, Field(default=6)] = 7
    ):
        return a, b, c

    assert run(act, {"a": 1}) == (1, 5, 7)
    assert parameters_of(act)["required"] == ["a"]
    assert parameters_of(act)["properties"]["b"] == {"type": "integer", "description": "B", "default": 5}
    assert "a is missing" in refusal(act, {})


def test_further_arguments():
    def act(a: int, **more):
        return a, more

    def numbers(**more: int):
        return more

    assert parameters_of(act)["additionalProperties"] is True
    assert parameters_of(numbers)["additionalProperties"] == {"type": "integer"}
    assert run(act, {"a": 1, "p0": 2, "model_config": 3, "b": [4]}) == (1, {"p0": 2, "model_config": 3, "b": [4]})
    assert run(numbers, {"x": "1"}) == {"x": 1}
    assert "x: Input should be a valid integer" in refusal(numbers, {"x": "y"})


def test_further_arguments_that_are_named():
    def act(a: int, **more: typing.Unpack[Options]):
        return a, more

    schema = parameters_of(act)
    assert schema["required"] == ["a", "limit"]
    assert schema["properties"]["order"] == {"enum": ["up", "down"], "type": "string"}
    assert run(act, {"a": 1, "limit": "2"}) == (1, {"limit": 2})
    assert run(act, {"a": 1, "limit": "2", "order": "up"}) == (1, {"limit": 2, "order": "up"})
    assert "b is no argument of it" in refusal(act, {"a": 1, "limit": 2, "b": 3})


def test_a_further_argument_cannot_take_the_place_of_self_or_the_context():
    class Clerk(Agent):
        @Agent.action
        def note(self, context, **more):
            return more

    class Callable:
        def __call__(me, **more):  # noqa: N805
            return more

    clerk = Clerk()
    clerk.register_action(Callable(), "object")
    clerk.register_action(functools.partial(clerk.act_sync), "partial")
    assert asyncio.run(clerk.act("note", {"me": 1})) == {"me": 1}
    with pytest.raises(errors.InvalidArguments, match=r"self is no argument of it; context is no argument of it"):
        asyncio.run(clerk.act("note", {"self": 1, "context": 2}))
    with pytest.raises(errors.InvalidArguments, match="me is no argument of it"):
        asyncio.run(clerk.act("object", {"me": 1}))


# ---- docstrings ----

GOOGLE = """What it costs.

More of it.

Args:
    item (str): What
        it is.
    n: How many.

Returns:
    A number.
"""
NUMPY = """What it costs.

More of it.

Parameters
----------
item : str
    What
    it is.
n : int, optional
    How many.

Returns
-------
float
    A number.
"""
REST = """What it costs.

More of it.

:param str item: What
    it is.
:param n: How many.
:returns: A number.
"""


@pytest.mark.parametrize("doc", [GOOGLE, NUMPY, REST], ids=["google", "numpy", "rest"])
def test_descriptions_from_docstrings(doc):
    def cost(item: str, n: int = 1): ...

    cost.__doc__ = "\n    ".join(doc.splitlines())  # indented, as in a source
    action = action_of(cost)
    assert action.description == "What it costs.\n\nMore of it."
    properties = action.parameters["properties"]
    assert [each["description"] for each in properties.values()] == ["What it is.", "How many."]


def test_two_parameters_in_one_line_of_numpys_way():
    def act(a, b):
        """Do.

        Parameters
        ----------
        a, b : int
            Two of them.
        """

    properties = parameters_of(act)["properties"]
    assert properties == {"a": {"description": "Two of them."}, "b": {"description": "Two of them."}}


def test_what_is_said_comes_before_the_docstring():
    def act(a: Annotated[int, Field(description="said")]):
        """The docstring.

        Args:
            a: written
        """

    action = action_of(act, description="said of the action")
    assert action.description == "said of the action"
    assert action.parameters["properties"]["a"]["description"] == "said"


@given(st.text() | st.sampled_from([":param", "Args:\n  x", "Parameters\n----------\n", "Args:\n a (: b", "@param"]))
def test_any_docstring_will_do(doc):
    def act(a: int):
        return a

    act.__doc__ = doc
    assert isinstance(action_of(act).description, str)


# ---- arguments ----


def test_arguments_are_coerced():
    def act(a: int, b: float, c: str, d: bool, e: datetime.date, f: tuple[int, ...], g: Path, h: uuid.UUID):
        return a, b, c, d, e, f, g, h

    name = "12345678-1234-5678-1234-567812345678"
    given = {"a": "3", "b": 1, "c": 5, "d": "yes", "e": "2026-01-02", "f": ["1", 2], "g": "x/y", "h": name}
    expected = (3, 1.0, "5", True, datetime.date(2026, 1, 2), (1, 2), Path("x/y"), uuid.UUID(name))
    assert run(act, given) == expected
    assert run(act, json.dumps(given)) == expected


@pytest.mark.parametrize("nothing", [None, {}, "", " \n", "{}"], ids=repr)
def test_no_arguments(nothing):
    assert run(lambda_named("x"), nothing) == "x"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "a is missing"),
        ({"a": "x"}, "a: Input should be a valid integer, unable to parse string as an integer, not 'x'"),
        ({"a": 1, "z": 2}, "z is no argument of it"),
        ({"a": 1, "b": [{"x": "q"}]}, "b.0.x: Input should be a valid integer"),
        ({"a": 1, "b": [{}]}, "b.0.x is missing"),
        ({"a": 1, 5: 2}, "5"),
        ("{", "they are no JSON (EOF while parsing an object at line 1 column 1)"),
        ("[1]", "they are an object, by name, and not [1]"),
        ([1], "they are an object, by name, and not [1]"),
        ("7", "they are an object, by name, and not 7"),
    ],
)
def test_a_wrong_argument_is_named(given, said):
    def act(a: int, b: list[Point] = ()): ...

    text = refusal(act, given)
    assert text.startswith("The arguments of 'act' do not fit: ")
    assert said in text
    assert text.endswith(" It takes a, b (optional).")
    assert "\n" not in text


def test_each_wrong_argument_is_named_and_none_is_said_too_often():
    def act(a: int, b: list[int], c: str): ...

    text = refusal(act, {"a": "x", "b": ["y"] * 1000, "d": "z" * 10_000})
    assert "a: " in text
    assert "b.2: " in text
    assert "b.3: " not in text
    assert "and 997 more of this kind" in text
    assert "c is missing" in text
    assert "d is no argument of it" in text
    assert len(text) < 1000


def test_it_takes_none():
    assert refusal(lambda_named("x"), {"a": 1}).endswith("a is no argument of it. It takes none.")


def test_a_refused_call_is_not_made():
    calls = []

    def act(a: int):
        calls.append(a)

    refusal(act, {"a": "x"})
    assert calls == []


def sample(
    a: int,
    b: float | None = None,
    c: Literal["x", "y"] = "x",
    d: list[Point] | dict[str, Color] | None = None,
    e: datetime.datetime | decimal.Decimal | bytes | None = None,
    f: str = "",
    g: set[int] | tuple[Size, ...] = (),
    _h: Annotated[int, Field(ge=0)] = 0,
    context=None,
    *,
    schema: Any = None,
): ...


def open_sample(context=None, *, a: int = 1, **more: int | str):
    return more


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=8,
)
PARAMETERS = st.sampled_from(["a", "b", "c", "d", "e", "f", "g", "_h", "schema", "context", "p0", "self"])
ACTIONS = [action_of(sample), action_of(open_sample)]


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.name)
@given(arguments=st.dictionaries(PARAMETERS | st.text(st.characters()), JSON, max_size=6))
@example(arguments={"\ud800": 1})
@example(arguments={"f": "\ud800", "a": 1})
@example(arguments={"a": 10**400})
@example(arguments={"a": 1, "e": 1e300})
@example(arguments={"a": 1, "e": float("nan")})
def test_any_json_fits_or_is_refused_by_name(action, arguments):
    """Nothing else is ever raised, and every argument that a refusal names was given, or is missing."""
    try:
        asyncio.run(action.run(arguments))
    except errors.InvalidArguments as refused:
        said = str(refused)
        said.encode()
        assert "It takes" in said
        assert "is missing" in said or any(shown(name) in said for name in arguments)
    else:
        assert action.name == "open_sample" or "a" in arguments


def shown(name):
    return " ".join(name.encode("utf-16", "surrogatepass").decode("utf-16", "replace").split())


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.name)
@given(text=st.text(st.characters()) | JSON.map(json.dumps))
@example(text="\ud800")
@example(text='{"a": ' + "[" * 100_000)
@example(text='{"a": 1, "f": "\\ud800"}')
def test_any_text_for_arguments_fits_or_is_refused(action, text):
    try:
        asyncio.run(action.run(text))
    except errors.InvalidArguments as refused:
        str(refused).encode()


# ---- running ----


def test_sync_functions_run_in_a_thread_and_async_ones_on_the_loop():
    def sync():
        return threading.current_thread()

    async def asynchronous():
        return threading.current_thread()

    async def main():
        here = threading.current_thread()
        return [await action_of(each).run() is here for each in (sync, asynchronous)]

    assert asyncio.run(main()) == [False, True]


def test_an_own_error_is_the_very_one():
    mistake = TimeoutError("mine")

    async def act():
        raise mistake

    with pytest.raises(TimeoutError) as raised:
        asyncio.run(action_of(act, timeout=60).run())
    assert raised.value is mistake


async def hang():
    await asyncio.Event().wait()


def test_a_timeout_cancels_an_async_action():
    ended = []

    async def act():
        try:
            await hang()
        finally:
            ended.append(True)

    with pytest.raises(errors.ActionTimeout, match=r"^The action 'act' was not done within 0\.01 s\.$"):
        asyncio.run(action_of(act, timeout=0.01).run())
    assert ended == [True]


def test_a_timeout_leaves_a_sync_action_behind():
    free = threading.Event()

    def act():
        free.wait(60)

    try:
        with pytest.raises(errors.ActionTimeout):
            asyncio.run(action_of(act, timeout=0.01).run())
    finally:
        free.set()


def test_the_actions_own_timeout_wins():
    with pytest.raises(errors.ActionTimeout, match=r"within 0\.01 s"):
        asyncio.run(action_of(hang, timeout=0.01).run(timeout=60))
    with pytest.raises(errors.ActionTimeout, match=r"within 0\.02 s"):
        asyncio.run(action_of(hang).run(timeout=0.02))


def test_a_cancelled_call_is_cancelled():
    async def main():
        task = asyncio.ensure_future(action_of(hang, timeout=60).run())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


# ---- the context ----


def test_the_context_is_given_and_is_no_argument():
    def plain(a: int, context):
        return a, context

    def optional(a: int, context: Any = None):
        return a, context

    def text(a: int, context: "Nowhere" = None):  # noqa: F821 - imported for type checkers alone
        return a, context

    def hinted(a: int, it: Context):
        return a, it

    def perhaps(a: int, it: Optional["Context"] = None):
        return a, it

    def noted(a: int, it: Annotated[Context | None, "of the mesh"], **more):
        return a, it

    for act in (plain, optional, text, hinted, perhaps, noted):
        assert list(parameters_of(act)["properties"]) == ["a"]
        assert run(act, {"a": 1}, "the context") == (1, "the context")
        assert run(act, {"a": 1}) == (1, None)
        name = next(each for each in inspect.signature(act).parameters if each != "a")
        assert f"{name} is no argument of it" in refusal(act, {"a": 1, name: 2})


def test_a_context_with_a_type_of_its_own_is_an_argument():
    def answer(question: str, context: str):
        return question, context

    assert run(answer, {"question": "q", "context": "c"}, "the mesh's") == ("q", "c")


def test_what_is_called_context_elsewhere_is_not_the_meshs():
    @dataclasses.dataclass
    class Context:
        x: int

    def act(it: Context):
        return it

    assert run(act, {"it": {"x": "1"}}) == Context(1)


# ---- what can be an action ----


def generator():
    yield 1


async def async_generator():
    yield 1


class Yields:
    def __call__(self):
        yield 1


@pytest.mark.parametrize(
    ("function", "name", "said"),
    [
        (generator, None, "yields"),
        (async_generator, None, "yields"),
        (functools.partial(generator), "x", "yields"),
        (Yields(), "x", "yields"),
        (lambda *args: 0, "x", r"'\*args' can have none"),
        (lambda a, /: 0, "x", "'a' can have none"),
        (lambda: 0, None, "not '<lambda>': say another with name="),
        (functools.partial(lambda: 0), None, "not None"),
        (print, "größe", "not 'größe'"),
        (print, "", "not ''"),
        (print, "x" * 65, "1 to 64 letters"),
        (print, "a b", "not 'a b'"),
        (print, "a\n", r"not 'a\\n'"),
        (print, 5, "not 5"),
        (Point, None, "An action is a function, not"),
        ("name", None, "An action is a function, not 'name': write @agent.action"),
        (5, None, "An action is a function, not 5"),
        (min, "least", "Python does not know its parameters"),
    ],
)
def test_what_cannot_be_an_action(function, name, said):
    with pytest.raises(errors.ConfigurationError, match=said):
        Agent().register_action(function, name)


@pytest.mark.parametrize("timeout", [0, -1, "5", True])
def test_a_timeout_that_makes_no_sense(timeout):
    with pytest.raises(errors.ConfigurationError, match="timeout is a number above 0"):
        Agent().register_action(lambda_named("x"), timeout=timeout)


def test_callables_of_other_kinds():
    class Adder:
        """Adds."""

        async def __call__(self, a: int, b: int = 1):
            return a + b

    def wrapped(function):
        @functools.wraps(function)
        def wrapper(*args, **named):
            return ("wrapped", function(*args, **named))

        return wrapper

    @wrapped
    def double(a: int):
        """Twice."""
        return 2 * a

    assert asyncio.run(action_of(Adder(), name="adder").run({"a": "1"})) == 2
    assert run(double, {"a": "2"}) == ("wrapped", 4)
    assert action_of(double).description == "Twice."
    add = functools.partial(Adder().__call__, b=5)
    assert asyncio.run(action_of(add, name="five").run({"a": "1"})) == 6
    assert action_of(add, name="five").description == ""


# ---- what a model is told of a result ----


class Loud(str, enum.Enum):  # noqa: UP042 - str() of a StrEnum is its value, of this it is not
    A = "a"


class Odd:
    def __str__(self):
        return "odd"


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (None, "done"),
        ("a \n'b'", "a \n'b'"),
        ("", ""),
        (Reply("r"), "r"),
        (Loud.A, "a"),
        (Color.RED, "red"),
        ("half \ud83d", "half \ufffd"),
        (3, "3"),
        (True, "true"),
        ([1, "a", None], '[1,"a",null]'),
        ({"a": Point(1, 2)}, '{"a":{"x":1,"y":2}}'),
        (Size(width=1), '{"width":1.0,"title":"none"}'),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        ({"at": datetime.date(2026, 1, 2)}, '{"at":"2026-01-02"}'),
        ("größe", "größe"),
        ({"g": "größe"}, '{"g":"größe"}'),
        (Odd(), "odd"),
        ([Odd()], '["odd"]'),
        (b"abc", "abc"),
        (b"\xff", "b'\\xff'"),
        (CIRCLE, "[[...]]"),
        (Path("a/b"), "a/b"),
    ],
)
def test_a_result_as_text(result, text):
    said = as_text(result)
    assert said == text
    assert type(said) is str


@given(JSON)
def test_any_result_is_text_that_can_be_sent(result):
    as_text(result).encode()


# ---- what is not imported ----


def test_an_import_of_the_library_imports_no_pydantic():
    source = (
        "import sys, ceylon_nb\n"
        "class A(ceylon_nb.Agent):\n"
        "    @ceylon_nb.Agent.action\n"
        "    def add(self, a: int): return a + 1\n"
        "a = A()\n"
        "a.name()\n"
        "assert a.actions\n"
        "assert not {'pydantic', 'pydantic_core', 'docstring_parser', 'pandas', 'IPython'} & set(sys.modules)\n"
        "print(a.act_sync('add', {'a': '1'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert done.stdout == "2\n", done.stderr


def test_llm_agents_are_not_given_actions_by_being_made():
    assert not LlmAgent("a", "demo::tutor").actions
