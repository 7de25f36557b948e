"""The reference: what is public is documented, completely and in step with the code; its pages build, and are whole.

What a docstring owes: a summary; each parameter with its type and its meaning, and none that is not there; what comes
back, where parameters go in; each error that the function itself raises; each attribute of a class of values; the unit
of what is measured; and names that exist. One that says "As `this`" owes nothing else, and takes what `this` takes.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable, Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from numpydoc.docscrape import NumpyDocString, get_doc_object
from numpydoc.validate import validate

from ceylon_nb import Agent, LlmAgent, LocalMesh, batch, errors, replay
from ceylon_nb.agents.caller import Options, Settings
from ceylon_nb.testing import ModelServer

from .raising import TREES, reachable

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "docs" / "reference.py"

FORM = set(
    """
    GL03 GL05 GL06 GL07 GL08 GL10 SS01 SS02 SS03 SS04 SS06 PR04 PR05 PR06 PR07 PR08 PR09 PR10 RT02 RT03 RT04 RT05
    """.split()
)
"""Of numpydoc's checks those of form. What has to be there is checked here, against the code."""

UNITS = {
    "timeout deadline latency elapsed waited token_interval interval remaining action_timeout": "second",
    "at ended older_than retry_after seconds": "second",
    "max_per_minute": "requests a minute|calls a minute",
    "max_tokens_per_minute": "tokens a minute",
    "max_tokens tokens input_tokens output_tokens": "tokens",
    "size": "bytes",
    "length": "characters|bytes",
}
"""What is to be said of parameters, attributes and properties of these names."""


def script() -> Any:
    """The module docs/reference.py."""
    spec = importlib.util.spec_from_file_location("reference", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REFERENCE = script()
PAGES: dict[str, list[str]] = REFERENCE.PAGES
PUBLIC: dict[str, Any] = REFERENCE.public()
HANDED_OUT: set[str] = REFERENCE.HANDED_OUT


def ours(each: type) -> list[type]:
    """The class and its bases, as far as they are this package's."""
    return [base for base in each.__mro__ if base.__module__.startswith("ceylon_nb.")]


def with_members(public: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Public objects, and the public methods and properties of their classes."""
    for name, each in public.items():
        yield name, each
        for attribute in (
            dict.fromkeys(key for base in ours(each) for key in vars(base)) if inspect.isclass(each) else ()
        ):
            value = getattr(each, attribute)
            if not attribute.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)):
                yield f"{name}.{attribute}", value


MEMBERS = dict(with_members(PUBLIC))

Section = dict[str, tuple[str, str]]


@functools.cache
def about(each: Any) -> NumpyDocString:
    return NumpyDocString(inspect.getdoc(each) or "")


def described(each: Any, *sections: str) -> Section:
    """The type and the text of each name in these sections."""
    return {
        name: (entry.type, " ".join(entry.desc))
        for section in sections
        for entry in about(each)[section]
        for name in entry.name.split(", ")
    }


def attributes_of(each: type) -> Section:
    """What is described as an attribute, or as a parameter that becomes one; by private bases, too."""
    found: Section = {}
    for base in ours(each):
        if base is each or base not in PUBLIC.values():
            kept = set(given(base))
            found |= {name: said for name, said in described(base, "Parameters").items() if name in kept}
            found |= described(base, "Attributes")
    return found


def twin(name: str, each: Any) -> Any:
    """That as which it says it is; None if it does not."""
    said = re.match(r"As `([\w.]+)`", inspect.getdoc(each) or "")
    if said is None:
        return None
    near = f"{name.rpartition('.')[0]}.{said[1]}"
    return MEMBERS.get(near) or next(MEMBERS[key] for key in MEMBERS if key.endswith(f".{said[1]}"))


def takes(each: Any) -> list[inspect.Parameter]:
    """Its parameters, without ``self``, and without what pytest gives to a fixture."""
    calls = callable(each) and not getattr(each, "_is_protocol", False)
    if not calls or (inspect.isclass(each) and issubclass(each, BaseException)):
        return []
    taken = inspect.signature(each).parameters.values()
    return [one for one in taken if one.name != "self" and one.annotation is not pytest.FixtureRequest]


# -- what is complained of ---------------------------------------------------------------------------------------------


def form(name: str, each: Any) -> Iterator[str]:
    yield from (f"{code}: {text}" for code, text in validate(get_doc_object(each))["errors"] if code in FORM)


def parameters(name: str, each: Any) -> Iterator[str]:
    same, taken, told = twin(name, each), takes(each), list(described(each, "Parameters"))
    if same is not None:
        if takes(same) != taken:
            yield f"takes {taken}, and not {takes(same)}"
        return
    if inspect.isclass(each) and not told:
        fields = {field.name for field in dataclasses.fields(each)} if dataclasses.is_dataclass(each) else set()
        kept = {attribute for base in ours(each) for attribute in attributes_of(base)}
        if fields - kept or (taken and not fields and name not in HANDED_OUT):
            yield f"says nothing of {taken}"
        return
    wanted: list[str] = []
    for one in taken:
        if one.kind is one.VAR_KEYWORD and f"**{one.name}" not in told and str(one.annotation) == "Unpack[Options]":
            wanted += Options.__annotations__
        else:
            wanted.append({one.VAR_KEYWORD: "**", one.VAR_POSITIONAL: "*"}.get(one.kind, "") + one.name)
    if told != wanted:
        yield f"takes {', '.join(wanted) or 'nothing'}; describes {', '.join(told) or 'nothing'}"


def returns(name: str, each: Any) -> Iterator[str]:
    if not inspect.isfunction(each) or twin(name, each) is not None:
        return
    told = about(each)["Returns"] or about(each)["Yields"]
    nothing = inspect.signature(each).return_annotation in (None, "None")
    if nothing and told:
        yield "returns nothing, and describes it"
    if takes(each) and not nothing and not told:
        yield "does not say what it returns"


def raised(each: Any) -> Iterator[type[BaseException]]:
    """What stands in its own code behind ``raise``, and what `check_options` raises."""
    codes = [each]
    if isinstance(each, property) or inspect.isclass(each):
        codes = [each.fget, each.fset] if isinstance(each, property) else [vars(each).get("__init__")]
    for code in codes:
        if (
            not inspect.isfunction(code)
            or not code.__module__.startswith("ceylon_nb.")
            or dataclasses.is_dataclass(each)
        ):
            continue
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(code)))):
            call = node.exc if isinstance(node, ast.Raise) else node
            if isinstance(call, ast.Call):
                called = getattr(call.func, "attr", getattr(call.func, "id", ""))
                kind = getattr(errors, called, None) or getattr(builtins, called, None)
                if isinstance(node, ast.Raise) and kind not in (None, AssertionError):
                    yield kind
                elif called == "check_options":
                    yield errors.ConfigurationError


def errors_told(name: str, each: Any) -> Iterator[str]:
    if twin(name, each) is not None:
        return
    told = [kind for entry in about(each)["Raises"] for kind in (entry.type or entry.name).split(", ")]
    kinds = [getattr(errors, kind, None) or getattr(builtins, kind, None) for kind in told]
    yield from (f"there is no error {kind}" for kind, found in zip(told, kinds, strict=True) if found is None)
    for error in raised(each):
        if not any(found is not None and issubclass(error, found) for found in kinds):
            yield f"raises {error.__name__}"
    for kind, found in zip(told, kinds, strict=True):
        if found is not None and f"{name}: {kind}" not in RAISED_BY_OTHERS and not _may_raise(each, found):
            yield f"nothing in it raises {kind}"


def _may_raise(each: Any, told: type[BaseException]) -> bool:
    return told is Exception or any(issubclass(found, told) for found in reachable(each))


RAISED_BY_OTHERS = {
    "ceylon_nb.Batch.plot: ConfigurationError": "by the import of what draws",
    "ceylon_nb.LocalMesh.query: NoHandler": "by the handler, in a task of its own",
    "ceylon_nb.providers.Provider.complete: RequestError": "by whoever keeps to the protocol",
    "ceylon_nb.providers.Provider.stream: RequestError": "likewise",
    "ceylon_nb.replay: NotRecorded": "by what is asked while it is replayed",
    "ceylon_nb.testing.ModelServer: OSError": "by the operating system",
    "ceylon_nb.testing.ModelServer.start: OSError": "likewise",
}
"""Errors that are told of, and who raises them: no code that the one who tells of them calls by name."""


def attributes(name: str, each: Any) -> Iterator[str]:
    if not inspect.isclass(each):
        return
    told = attributes_of(each)
    yield from (f"{attribute} means nothing" for attribute, (_, text) in told.items() if not text)
    there = set(given(each)) - {one for base in ours(each)[1:] if base in PUBLIC.values() for one in given(base)}
    for attribute in sorted(there - set(told)):
        if not isinstance(getattr(each, attribute, None), property):
            yield f"does not describe {attribute}"


def given(each: type) -> Iterator[str]:
    """The public attributes that its fields, its slots and its constructor give it."""
    found: list[str] = [field.name for field in dataclasses.fields(each)] if dataclasses.is_dataclass(each) else []
    for base in ours(each):
        found += vars(base).get("__slots__", ())
        if inspect.isfunction(code := vars(base).get("__init__")) and not dataclasses.is_dataclass(base):
            found += re.findall(r"\bself\.(\w+)(?:: [^=\n]+)? = ", inspect.getsource(code))
    return (attribute for attribute in found if not attribute.startswith("_"))


def units(name: str, each: Any) -> Iterator[str]:
    known = described(each, "Parameters", "Attributes")
    said, kinds = {one: text for one, (_, text) in known.items()}, {one: kind for one, (kind, _) in known.items()}
    if isinstance(each, property):
        said[name.rpartition(".")[2]] = inspect.getdoc(each) or ""
    for names, unit in UNITS.items():
        for measured in set(names.split()) & set(said):
            told = re.search(unit, said[measured], re.IGNORECASE) or kinds.get(measured) in ("as in `batch`", "bool")
            if not told:
                yield f"{measured}, in what unit? {said[measured]}"


def references(name: str, each: Any) -> Iterator[str]:
    """A name between single backticks is a parameter, an attribute, or public; code is between double ones."""
    near = {*described(each, "Parameters", "Attributes"), *(one.name for one in takes(each))}
    here = max((page for page in PAGES if f"{name}.".startswith(f"{page}.")), key=len, default="")
    module = getattr(each.fget if isinstance(each, property) else each, "__module__", None) or each.__name__
    for found in re.findall(r"`([^`]+)`", re.sub(r"``.*?``|>>> .*", "", inspect.getdoc(each) or "", flags=re.DOTALL)):
        if found in near or found in PAGES:
            continue
        own = [found, *(f"{start}.{found}" for start in (name, name.rpartition(".")[0], here))]
        there = [one for one in own if one in ANCHORS][:1] or [
            one for page in PAGES if (one := f"{page}.{found}") in ANCHORS
        ]
        meant = REFERENCE.meant(found, module) if module in sys.modules else None
        if not there:
            yield f"there is no `{found}`"
        elif len(there) > 1:
            yield f"`{found}` may be {' or '.join(there)}"
        elif inspect.isclass(meant) and there[0] in PUBLIC and PUBLIC[there[0]] is not meant:
            yield f"`{found}` is {there[0]}, and {meant} is meant"


def anchors() -> Iterator[str]:
    """What there is a place for in the reference."""
    yield from MEMBERS
    for name, each in PUBLIC.items():
        for base in ours(each) if inspect.isclass(each) else []:
            if base is each or base not in PUBLIC.values():
                fields = described(base, "Parameters") if dataclasses.is_dataclass(base) else {}
                yield from (f"{name}.{attribute}" for attribute in {**fields, **described(base, "Attributes")})


ANCHORS = set(anchors())

CHECKS: list[Callable[[str, Any], Iterable[str]]] = [
    form, parameters, returns, errors_told, attributes, units, references
]  # fmt: skip


def test_who_else_raises_is_named_only_where_needed() -> None:
    for each in RAISED_BY_OTHERS:
        name, _, kind = each.partition(": ")
        assert kind in [told for entry in about(MEMBERS[name])["Raises"] for told in entry.type.split(", ")], each
        assert not _may_raise(MEMBERS[name], getattr(errors, kind, OSError)), each


def complaints(check: Callable[[str, Any], Iterable[str]], of: dict[str, Any]) -> list[str]:
    return [f"{name}: {said}" for name, each in of.items() for said in check(name, each)]


@pytest.mark.parametrize("check", CHECKS)
def test_every_docstring_is_complete_and_true(check: Callable[[str, Any], Iterable[str]]) -> None:
    wrong = complaints(check, MEMBERS)
    assert not wrong, "\n".join(wrong)


def test_what_the_pages_say_of_others_is_there() -> None:
    wrong = complaints(references, {page: importlib.import_module(page) for page in PAGES})
    assert not wrong, "\n".join(wrong)


MAIN = [f"ceylon_nb.{name}" for name in PAGES["ceylon_nb"]] + ["ceylon_nb.testing.ModelServer"]


@pytest.mark.parametrize("name", MAIN)
def test_the_main_names_have_an_example(name: str) -> None:
    assert ">>> " in (inspect.getdoc(PUBLIC[name]) or "")


# -- what users are handed ---------------------------------------------------------------------------------------------


FOR_VIEWS = {
    "Answers": "`Batch.rows`, the columns as they grow: what the panel draws, and `Batch.frame` is a copy of",
    "Options": "keyword by keyword among the parameters of `LlmAgent`",
}
"""Types of this package that stand in public annotations, and on no page."""


def annotated(public: dict[str, Any]) -> Iterator[tuple[str, type]]:
    """The classes of this package in the annotations of what is public: of parameters, results, properties, fields."""
    for name, each in public.items():
        codes = [each.fget if isinstance(each, property) else each]
        if inspect.isclass(each):
            codes = [*ours(each), *((each.__init__,) if REFERENCE.has_constructor(name, each) else ())]
        for code in codes:
            for told, annotation in getattr(code, "__annotations__", {}).items():
                if not told.startswith("_"):
                    yield from ((f"{name}: {told}", found) for found in classes(annotation, code.__module__))


def classes(annotation: Any, module: str) -> Iterator[type]:
    """The classes of this package in an annotation, and in the types that it has by another name."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    for name in re.findall(r"(?<![\w.])[A-Za-z_][\w.]*", text):
        home, _, last = name.rpartition(".")
        if not home.startswith("ceylon_nb"):
            home = getattr(REFERENCE.meant(home, module), "__name__", "") if home else module
        found = REFERENCE.meant(last, home) if home.startswith("ceylon_nb") else None
        if inspect.isclass(found):
            if found.__module__.startswith("ceylon_nb."):
                yield found
        elif hasattr(found, "__args__"):
            yield from classes(str(found), home)


def test_every_type_that_users_are_handed_is_public() -> None:
    public = set(map(id, PUBLIC.values()))
    handed = {(where, each.__name__) for where, each in annotated(MEMBERS) if id(each) not in public}
    wrong = sorted(f"{where} is {name}" for where, name in handed if name not in FOR_VIEWS)
    assert not wrong, "\n".join(wrong)
    assert {name for _, name in handed} == set(FOR_VIEWS)


@pytest.mark.parametrize("taken_off", ["Done", "Flight", "Trace", "Completions", "Delta", "Wire", "Tool", "Stats"])
def test_a_type_that_has_no_page_is_found(taken_off: str) -> None:
    (name,) = (name for name in PUBLIC if name.endswith(f".{taken_off}"))
    assert any(each is PUBLIC[name] for where, each in annotated(MEMBERS) if not where.startswith(name))


# -- that they complain ------------------------------------------------------------------------------------------------


class Planted:
    """Something whose docstrings are wrong, each in one way."""

    def __init__(self) -> None:
        self.untold = 1

    def form(self, number: int) -> None:
        """do something.

        Parameters
        ----------
        number
            A number
        """

    def parameters(self, number: int, other: int = 0) -> None:
        """Do something.

        Parameters
        ----------
        other : int
            A number.
        number : int
            Another.
        """

    def returns(self, number: int) -> int:
        """Do something.

        Parameters
        ----------
        number : int
            A number.
        """
        return number

    def errors_told(self) -> None:
        """Do something.

        Raises
        ------
        NoSuchError
            There is none.
        StoreCorrupt
            Never.
        """
        raise errors.MeshError("It is not told of.")

    @property
    def units(self) -> None:
        """How long it took."""

    latency = units

    def references(self) -> None:
        """Do as `Batch.lost` does, or `Batch.frame`; of a `Request`."""

    def references_of_its_own(self) -> None:
        """Do as an `Answer`."""


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (form, ["SS02", "PR04", "PR09"]),
        (parameters, ["takes number, other; describes other, number"]),
        (returns, ["does not say what it returns"]),
        (errors_told, ["there is no error NoSuchError", "raises MeshError", "nothing in it raises StoreCorrupt"]),
        (attributes, ["does not describe untold"]),
        (units, ["latency, in what unit?"]),
        (
            references,
            [
                "there is no `Batch.lost`",
                "`Request` may be ceylon_nb.providers.Request or ceylon_nb.testing.Request",
                "`Answer` is ceylon_nb.Answer, and <class 'ceylon_nb.testing.wire.Answer'> is meant",
            ],
        ),
    ],
)
def test_a_wrong_docstring_is_complained_of(
    check: Callable[[str, Any], Iterable[str]], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TREES, "ceylon_nb.planted", ast.parse(inspect.getsource(Planted)))
    for each in [Planted, *vars(Planted).values()]:
        if inspect.isfunction(each) or inspect.isclass(each):
            monkeypatch.setattr(each, "__module__", "ceylon_nb.planted")
    monkeypatch.setattr(Planted.references_of_its_own, "__module__", "ceylon_nb.testing.exchange")
    planted = {
        "ceylon_nb.Planted": Planted,
        **{f"ceylon_nb.Planted.{name}": each for name, each in vars(Planted).items() if not name.startswith("_")},
    }
    found = complaints(check, planted)
    assert len(found) == len(said), found
    assert all(one in line for one, line in zip(said, found, strict=True)), found


async def never(messages: object) -> str:
    await asyncio.Event().wait()
    return ""


async def to_nobody() -> None:
    async with LocalMesh() as mesh:
        await mesh.send_to("nobody", "Hello")


async def to_one_without_handler() -> None:
    async with LocalMesh() as mesh:
        mesh.add_agent(Agent("mute"))
        await mesh.query("mute", "Hello")


async def to_one_that_takes_long() -> None:
    async with LocalMesh() as mesh:
        mesh.add_agent(LlmAgent("slow", never))
        await mesh.query("slow", "Hello", 0.01)


async def after_the_end() -> None:
    mesh = LocalMesh()
    mesh.add_agent(LlmAgent("slow", never))
    await mesh.stop()
    await mesh.submit("slow", "Hello")


async def a_row_that_is_not_there(position: int) -> None:
    run = batch(never, [1, 2], view=None, store=None)
    try:
        run.row(position)
    finally:
        run.cancel()
        await run


async def without_a_frame() -> object:
    run = LlmAgent("clerk", "demo::instant").map(["Hello"], keep=False, view=None)
    await run
    return run.frame


async def unrecorded(ask: Callable[[LlmAgent], Awaitable[object]]) -> None:
    with replay("recorded.jsonl", record="all"):
        await LlmAgent("clerk", "demo::instant").send_message("Hello")
    with replay("recorded.jsonl"):
        await ask(LlmAgent("clerk", "demo::instant"))


async def started_twice() -> None:
    with ModelServer() as server:
        server.start()


PROVOKED: list[tuple[str, type[Exception], Callable[[], Awaitable[object]]]] = [
    ("ceylon_nb.LlmAgent.send_message", errors.MissingAPIKey, lambda: LlmAgent("a", "openai::x").send_message("Hello")),
    ("ceylon_nb.LlmAgent.send_message", errors.EmptyPrompt, lambda: LlmAgent("a", "demo::instant").send_message("")),
    ("ceylon_nb.LlmAgent.on_message", errors.MissingAPIKey, lambda: LlmAgent("a", "openai::x").on_message("Hello")),
    ("ceylon_nb.Conversation.send", errors.MissingAPIKey, lambda: LlmAgent("a", "openai::x").conversation().send("Hi")),
    (
        "ceylon_nb.Conversation.send",
        errors.NotRecorded,
        lambda: unrecorded(lambda a: a.conversation().send("Hi")),
    ),
    ("ceylon_nb.LlmAgent.on_message", errors.NotRecorded, lambda: unrecorded(lambda a: a.on_message("Hi"))),
    ("ceylon_nb.LocalMesh.send_to", errors.NoSuchAgent, to_nobody),
    ("ceylon_nb.LocalMesh.query", errors.NoHandler, to_one_without_handler),
    ("ceylon_nb.LocalMesh.query", errors.QueryTimeout, to_one_that_takes_long),
    ("ceylon_nb.LocalMesh.submit", errors.MeshStopped, after_the_end),
    ("ceylon_nb.Batch.row", IndexError, lambda: a_row_that_is_not_there(2)),
    ("ceylon_nb.Batch.row", IndexError, lambda: a_row_that_is_not_there(-1)),
    ("ceylon_nb.Batch.frame", errors.ConfigurationError, without_a_frame),
    ("ceylon_nb.testing.ModelServer.start", RuntimeError, started_twice),
]


@pytest.mark.parametrize(("name", "error", "provoke"), PROVOKED)
def test_what_goes_wrong_is_told_of(
    name: str,
    error: type[Exception],
    provoke: Callable[[], Awaitable[object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Errors that come from further below than `errors_told` asks for: a look at the code does not tell which do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CEYLON_NB_STORE", str(tmp_path / "answers.sqlite"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(error) as caught:
        asyncio.run(waiting(provoke))
    assert type(caught.value) is error
    told = [kind for entry in about(MEMBERS[name])["Raises"] for kind in entry.type.split(", ")]
    kinds = [getattr(errors, kind, None) or getattr(builtins, kind) for kind in told]
    assert any(issubclass(error, kind) for kind in kinds if kind is not Exception), told


async def waiting(provoke: Callable[[], Awaitable[object]]) -> None:
    await provoke()


# -- the pages ---------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page has places for, and where it points to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.said: dict[str, str] = {"": ""}
        """What stands at each place, up to the next one."""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        if "id" in told:
            self.places.add(told["id"])
            self.said[told["id"]] = ""
        if tag == "a" and "href" in told:
            self.links.add(told["href"])
        for name in ("src", "srcset", "data", "action", "poster") + (() if tag == "a" else ("href",)):
            if name in told:
                self.loaded.add(told[name])

    def handle_data(self, data: str) -> None:
        self.said[next(reversed(self.said))] += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference, built as a user would build it; a warning is an error, and nothing is printed."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT, folder], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


def test_every_public_name_has_its_place_in_the_reference(site: Path) -> None:
    for page in PAGES:
        places = Page(site / f"{page.replace('.', '/')}.html").places
        wanted = {
            name.removeprefix(f"{page}.")
            for name in ANCHORS
            if name.startswith(tuple(f"{page}.{each}" for each in PAGES[page]))
        }
        assert wanted <= places, wanted - places


def test_a_constructor_is_shown_with_its_defaults(site: Path) -> None:
    shown = {page: Page(site / f"{page.replace('.', '/')}.html").said for page in PAGES}
    made = {
        name: each for name, each in PUBLIC.items() if inspect.isclass(each) and REFERENCE.has_constructor(name, each)
    }
    assert {"ceylon_nb.LlmAgent", "ceylon_nb.LocalMesh", "ceylon_nb.testing.ModelServer"} <= set(made)
    for name, each in made.items():
        page = max((page for page in PAGES if name.startswith(f"{page}.")), key=len)
        said = shown[page][f"{name.removeprefix(f'{page}.')}.__init__"]
        wanted = [one for one in inspect.signature(each).parameters.values() if one.kind is not one.VAR_KEYWORD]
        if each is LlmAgent:
            fields = {field.name: field.default for field in dataclasses.fields(Settings)}
            assert set(fields) == set(Options.__annotations__)
            wanted += [
                inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=default)
                for option, default in fields.items()
            ]
        for one in wanted:
            assert re.search(rf"[(,*]\s*{one.name}:", said), f"{name} without {one.name}: {said}"
            if isinstance(one.default, str | int | float | bool | tuple | None):
                assert re.search(rf"\b{one.name}: [^:]+ = {re.escape(repr(one.default))}", said), f"{one}: {said}"
        if any(one.kind is one.KEYWORD_ONLY for one in wanted):
            assert re.search(r"[(,]\s*\*,", said), said


def test_a_name_stands_on_one_page() -> None:
    assert len(set(map(id, PUBLIC.values()))) == len(PUBLIC)


def test_every_link_in_the_reference_leads_somewhere(site: Path) -> None:
    pages = {file: Page(file) for file in site.rglob("*.html")}
    assert len(pages) == len(PAGES) + 1
    for file, page in pages.items():
        for link in page.links:
            if not link.startswith("https://"):
                path, _, place = unquote(link).partition("#")
                target = (file.parent / path).resolve() if path else file
                assert target in pages, f"{file.name}: {link}"
                assert not place or place in pages[target].places, f"{file.name}: {link}"


def test_the_reference_tells_nothing_of_this_machine_and_loads_nothing_from_others(site: Path) -> None:
    for file in site.rglob("*.*"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"\bat 0x[0-9a-f]+|<[\w.]+ object", text), file
        assert str(ROOT) not in text, file
        assert str(Path.home()) + "/" not in text, file
        assert sys.prefix not in text, file
        if file.suffix == ".html":
            assert all(one.startswith("data:") or "://" not in one for one in Page(file).loaded), file
            assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", text), file
