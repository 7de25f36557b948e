"""The API reference, as HTML, from the docstrings: ``python docs/reference.py [FOLDER]`` (site/, unless told).

pdoc makes it. What it is told here: which names are public, and under which one of their names; to show types as they
are written, and attributes one by one, with a place of their own to point to.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pdoc
from numpydoc.docscrape import NumpyDocString

import ceylon_nb
from ceylon_nb import errors
from ceylon_nb.agents.caller import Options, Settings
from ceylon_nb.testing import faults

PAGES: dict[str, list[str]] = {
    "ceylon_nb": ceylon_nb.__all__,
    "ceylon_nb.errors": [name for name in vars(errors) if name in errors.__all__ and name not in ceylon_nb.__all__],
    "ceylon_nb.agents": "Context Stream Action Stats AgentStats Passage Pending Result".split(),
    "ceylon_nb.messages": "Tool ToolCall Done CallsMessage ResultMessage".split(),
    "ceylon_nb.tasks": ["Completions"],
    "ceylon_nb.trace": "Trace Flight Spans".split(),
    "ceylon_nb.frames": ["Row"],
    "ceylon_nb.recording": ["Recording"],
    "ceylon_nb.providers": "Provider Request Delta".split(),
    "ceylon_nb.testing": "ModelServer Request Fault Exchange".split(),
    "ceylon_nb.testing.faults": [
        name
        for name, each in vars(faults).items()
        if inspect.isfunction(each) and each.__module__ == faults.__name__ and not name.startswith("_")
    ],
    "ceylon_nb.testing.wire": "Wire Answer".split(),
    "ceylon_nb.testing.plugin": "model_server replay".split(),
}
"""Module by module, the names that are public there. A name stands on one page."""

HANDED_OUT = set(
    """
    ceylon_nb.Answer ceylon_nb.Batch ceylon_nb.Conversation ceylon_nb.Store ceylon_nb.agents.Action
    ceylon_nb.agents.AgentStats ceylon_nb.agents.Context ceylon_nb.agents.Passage ceylon_nb.agents.Pending
    ceylon_nb.agents.Result ceylon_nb.agents.Stats ceylon_nb.agents.Stream ceylon_nb.frames.Row ceylon_nb.messages.Done
    ceylon_nb.messages.ToolCall ceylon_nb.messages.CallsMessage ceylon_nb.messages.ResultMessage
    ceylon_nb.providers.Request ceylon_nb.recording.Recording ceylon_nb.tasks.Completions ceylon_nb.testing.Exchange
    ceylon_nb.testing.Request ceylon_nb.testing.wire.Answer ceylon_nb.testing.wire.Wire ceylon_nb.trace.Flight
    ceylon_nb.trace.Spans ceylon_nb.trace.Trace
    """.split()
)
"""Classes whose objects the library makes: their constructors are nobody else's business."""

ATTRIBUTES = re.compile(r"\n*^Attributes\n-+\n(?:.*\n?)*?(?=^\S.*\n---|\Z)", re.MULTILINE)


def public() -> dict[str, Any]:
    """Every public object, by its public name; pytest's fixtures as the functions that they are made of."""
    return {f"{page}.{name}": _get(page, name) for page, names in PAGES.items() for name in names}


def _get(page: str, name: str) -> Any:
    each = getattr(importlib.import_module(page), name)
    return each._get_wrapped_function() if hasattr(each, "_get_wrapped_function") else each


def build(folder: Path) -> None:
    """Write the pages.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    """
    homes = {each: name for name, each in public().items() if inspect.isclass(each)}
    pdoc.doc.safe_eval_type = lambda annotation, _, __, module, *___: _as_written(annotation, module.__name__, homes)
    pdoc.doc.resolve_annotations = lambda found, module, *_: {
        name: _as_written(each, module.__name__, homes) for name, each in found.items()
    }
    pages = {name: _page(name, homes) for name in PAGES}
    theme = Path(__file__).parent / "theme"
    pdoc.render.configure(docformat="numpy", include_undocumented=False, show_source=False, template_directory=theme)
    for name, page in pages.items():
        file = folder / f"{name.replace('.', '/')}.html"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_linked(pdoc.render.html_module(page, pages), name, pages), encoding="utf-8")
    (folder / "index.html").write_text(pdoc.render.html_index(pages), encoding="utf-8")
    (folder / "search.js").write_text(pdoc.render.search_index(pages), encoding="utf-8")


# -- what pdoc is told -------------------------------------------------------------------------------------------------


def _page(name: str, homes: dict[Any, str]) -> pdoc.doc.Module:
    """A module as it is to be shown: its public names, and nothing else."""
    page = pdoc.doc.Module(importlib.import_module(name))
    page._member_objects = {each: _get(name, each) for each in PAGES[name]}
    page.submodules = [
        pdoc.doc.Module(importlib.import_module(each)) for each in PAGES if each.rpartition(".")[0] == name
    ]
    for shown in page.classes:
        _show_class(shown, homes)
    for each in [page, *page.members.values(), *(each for shown in page.classes for each in shown.members.values())]:
        each.docstring = re.sub(
            r"^::\n|(?<=\S:):$", "", each.docstring, flags=re.MULTILINE
        )  # a block is seen to be one
    return page


def _show_class(shown: pdoc.doc.Class, homes: dict[Any, str]) -> None:
    """Give a class what its private bases hold, its attributes one by one, and its constructor if users may call it."""
    ours = [base for base in shown.obj.__mro__ if base.__module__.startswith("ceylon_nb.")]
    own = [base for base in ours if base is shown.obj or base not in homes]
    for name, member in list(shown.members.items()):
        holder = next((base for base in ours if name in vars(base)), None)
        if holder is not None and isinstance(member, pdoc.doc.Function) and not inspect.isfunction(member.obj):
            made = getattr(shown.obj, name)  # what a descriptor gives
            member = shown.members[name] = pdoc.doc.Function(shown.modulename, member.qualname, made, member.taken_from)
        if holder in own:
            member.taken_from = shown.taken_from[0], f"{shown.taken_from[1]}.{name}"
        elif holder is not None:
            page, _, base = homes[holder].rpartition(".")
            member.taken_from = page, f"{base}.{name}"
        if isinstance(member, pdoc.doc.Function) and name not in ("__init__", member.obj.__name__):
            member.docstring = f"The same as `{member.obj.__name__}`."
    shown.bases = [_base(base, shown.modulename, homes) for base in _bases(shown.obj, homes)]
    shown.decorators = []
    about_parameters = bool(NumpyDocString(shown.docstring)["Parameters"])
    for base in own:
        about = NumpyDocString(inspect.getdoc(base) or "")
        fields = about["Parameters"] if dataclasses.is_dataclass(base) else []
        for names, kind, text in about["Attributes"] + fields:
            for name in names.split(", "):
                if name not in shown.members or not shown.members[name].docstring:
                    shown.members[name] = _attribute(shown, name, kind, text)
    made = shown.members.get("__init__")
    if "__init__" not in vars(shown.obj) and "__new__" in vars(shown.obj):
        qualname = f"{shown.qualname}.__init__"
        made = pdoc.doc.Function(shown.modulename, qualname, shown.obj.__new__, (shown.modulename, qualname))
        shown.members["__init__"] = made
    if isinstance(made, pdoc.doc.Function) and has_constructor(shown.fullname, shown.obj):
        made.docstring = f"Its parameters {'are described above' if about_parameters else 'become its attributes'}."
        made.__dict__["signature"] = _constructor(made.signature)
    else:
        shown.members.pop("__init__", None)
    shown.docstring = ATTRIBUTES.sub("\n\n", shown.docstring).strip()


def has_constructor(name: str, each: type) -> bool:
    """Whether users may make such objects."""
    return not (name in HANDED_OUT or issubclass(each, BaseException) or getattr(each, "_is_protocol", False))


def _constructor(found: inspect.Signature) -> inspect.Signature:
    """A constructor's signature, with the options of an agent one by one."""
    taken: list[inspect.Parameter] = []
    for one in found.parameters.values():
        if one.kind is one.VAR_KEYWORD and str(one.annotation).endswith("Unpack[Options]"):
            told = {field.name: field.default for field in dataclasses.fields(Settings)}
            taken += [
                one.replace(name=name, kind=one.KEYWORD_ONLY, default=told[name], annotation=Written(_text(kind)))
                for name, kind in Options.__annotations__.items()
            ]
        else:
            taken.append(one)
    return found.replace(parameters=taken)


def _text(annotation: Any) -> str:
    forward = getattr(annotation, "__forward_arg__", None)
    return forward if isinstance(forward, str) else pdoc.doc.formatannotation(annotation)


def _bases(each: type, homes: dict[Any, str]) -> Iterator[type]:
    """The bases of a class; in place of a private one its own."""
    for base in each.__bases__:
        if base in homes or not base.__module__.startswith("ceylon_nb."):
            yield from [] if base is object else [base]
        else:
            yield from _bases(base, homes)


def _base(base: type, page: str, homes: dict[Any, str]) -> tuple[str, str, str]:
    """Where a base is, and how it is called from a page."""
    home = homes.get(
        base, base.__qualname__ if base.__module__ == "builtins" else f"{base.__module__}.{base.__qualname__}"
    )
    return *home.rpartition(".")[::2], home.removeprefix(f"{page}.")


def _attribute(shown: pdoc.doc.Class, name: str, kind: str, text: list[str]) -> pdoc.doc.Variable:
    qualname = f"{shown.qualname}.{name}"
    taken_from = shown.taken_from[0], f"{shown.taken_from[1]}.{name}"
    docstring = "\n".join(text)
    return pdoc.doc.Variable(
        shown.modulename, qualname, taken_from=taken_from, docstring=docstring, annotation=Written(kind)
    )


class Written(str):
    """A type as it is written; Python shows it without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


@functools.cache
def _imports(module: str) -> dict[str, tuple[str, str]]:
    """Where a module has its names from, also those that it imports for types alone."""
    code = importlib.import_module(module)
    found: dict[str, tuple[str, str]] = {}
    for node in ast.walk(ast.parse(inspect.getsource(code))):
        if isinstance(node, ast.ImportFrom):
            home = importlib.util.resolve_name("." * node.level + (node.module or ""), code.__package__)
            found |= {one.asname or one.name: (home, one.name) for one in node.names}
    return found


def meant(name: str, module: str) -> Any:
    """What a name stands for in a module; None if for nothing."""
    found = vars(importlib.import_module(module)).get(name)
    if found is None and name in _imports(module):
        home, there = _imports(module)[name]
        found = getattr(importlib.import_module(home), there, None)
    return found


def _as_written(annotation: Any, module: str, homes: dict[Any, str]) -> Any:
    """A type as the code has it, with public names: pdoc would resolve aliases, which get long."""
    if annotation is pdoc.doc.empty:
        return annotation
    text = annotation if isinstance(annotation, str) else pdoc.doc.formatannotation(annotation)
    wholly = {f"{each.__module__}.{each.__qualname__}": home for each, home in homes.items()}
    text = re.sub(r"\bceylon_nb(?:\.\w+)*\.([A-Z]\w*)\b", lambda found: wholly.get(found[0], found[0]), text)

    def public_name(found: re.Match[str]) -> str:
        each = meant(found[0], module)
        return homes.get(each, found[0]) if inspect.isclass(each) else found[0]

    def without_module(found: re.Match[str]) -> str:
        home = getattr(meant(found[1], module), "__name__", "")
        return found[2] if home.startswith("ceylon_nb.") else found[0]

    text = re.sub(r"(?<![\w.])([a-z]\w*)\.([A-Z]\w*)\b", without_module, text)
    return Written(re.sub(r"(?<![\w.])[A-Z]\w*\b", public_name, text))


def _linked(html: str, here: str, pages: dict[str, pdoc.doc.Module]) -> str:
    """The same page, with links to what it names of other pages; pdoc knows those by their whole names only."""

    def place(name: str) -> str:
        """Of this page; else of the only one that has it."""
        there = [page for page in pages.values() if (each := page.get(name)) is not None and each.docstring]
        own = [page for page in there if page.modulename == here]
        if not own and len(there) != 1:
            return ""
        page = (own or there)[0]
        return f'<a href="{pdoc.render_helpers.relative_link(here, page.modulename)}#{name}">'

    def code(found: re.Match[str]) -> str:
        to = place(found[1].removesuffix("()"))
        return f"<code>{to}{found[1]}</a></code>" if to else found[0]

    def errors_raised(found: re.Match[str]) -> str:
        names = [f"{to}{name}</a>" if (to := place(name)) else name for name in found[1].split(", ")]
        return f"<strong>{', '.join(names)}</strong>"

    html = re.sub(r"(?<=\()(https://[^\s<)]+)(?=\))", r'<a href="\1">\1</a>', html)
    html = re.sub(r"<code>([A-Z][\w.]*(?:\(\))?)</code>", code, html)
    return re.sub(r"<strong>([A-Z]\w+(?:, [A-Z]\w+)*)</strong>", errors_raised, html)


if __name__ == "__main__":
    build(Path(sys.argv[1] if len(sys.argv) > 1 else "site"))
