"""Which errors may come of a call, as far as the names in the package's code tell.

Nobody knows the type of what stands before a dot: a name stands for everything of that name in the module itself and in
those that it imports. So there are rather more errors than can come, and one that is not there comes from elsewhere: of
the operating system, of a task, of the code of others.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ceylon_nb import errors

PACKAGE = Path(errors.__file__).parent
TREES = {
    ".".join(["ceylon_nb", *file.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): ast.parse(
        file.read_text(encoding="utf-8")
    )
    for file in PACKAGE.rglob("*.py")
}
"""The package's code, by module."""

Code = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

ENTRY = ("__init__", "__new__", "__post_init__", "__enter__", "__aenter__", "__call__", "__iter__", "__aiter__")
"""What is done when an object is made, or used without naming a method."""

ELSEWHERE = ("create_task", "ensure_future", "call_in", "call_soon", "add_done_callback")
"""What is handed to these raises nothing here."""


@functools.cache
def _near(module: str) -> frozenset[str]:
    """The modules that a module imports, also by a text that names one, and where packages have their names from."""
    is_package = any(other.startswith(f"{module}.") for other in TREES)
    package = module if is_package else module.rpartition(".")[0]
    found = {module}
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ImportFrom):
            home = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            found |= {home, *(f"{home}.{one.name}" for one in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value.partition(":")[0])
    found &= set(TREES)
    passed_on = (one for one in found if any(other.startswith(f"{one}.") for other in TREES) and one != module)
    return frozenset(found.union(*(_near(one) for one in passed_on if one != "ceylon_nb")))


@functools.cache
def _defined(module: str) -> dict[str, list[Code]]:
    """The functions, methods and classes of a module, by name."""
    found: dict[str, list[Code]] = {}
    for node in ast.walk(TREES[module]):
        if isinstance(node, Code):
            found.setdefault(node.name, []).append(node)
    return found


@functools.cache
def _texts(module: str) -> dict[str, str]:
    """The constants of a module that name something elsewhere: ``PLOT = "ceylon_nb.views.plots:draw"``."""
    return {
        node.targets[0].id: node.value.value.partition(":")[2]
        for node in TREES[module].body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


def _named(node: Any) -> Iterator[str]:
    """The names in some code, but for types, what is caught, and what is done elsewhere."""
    if isinstance(node, ast.Name | ast.Attribute):
        yield node.id if isinstance(node, ast.Name) else node.attr
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "bases") or (field == "type" and isinstance(node, ast.ExceptHandler)):
            continue
        if field == "args" and isinstance(node, ast.Call) and _called(node) in ELSEWHERE:
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, ast.AST):
                yield from _named(each)


def _called(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _error(name: str) -> type[BaseException] | None:
    found = getattr(errors, name, None) or getattr(builtins, name, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


@functools.cache
def _step(module: str, code: Code) -> tuple[frozenset[type[BaseException]], frozenset[tuple[str, Code]]]:
    """The errors that some code names, and what it names of the modules that are near."""
    body: list[ast.AST] = [code]
    bases: set[str] = set()
    if isinstance(code, ast.ClassDef):  # one that is made
        body = [each for each in code.body if isinstance(each, Code) and each.name in ENTRY]
        bases = {getattr(base, "id", getattr(base, "attr", "")) for base in code.bases}
    named = {name for each in body for name in _named(each)} | bases
    named = {_texts(module).get(name, name) for name in named}
    made = {kind for name in named if (kind := _error(name)) is not None}
    called = {
        (near, there)
        for near in _near(module)
        for name in named
        if not name.startswith("__") and not (near == errors.__name__ and _error(name))
        for there in _defined(near).get(name, ())
    }
    return frozenset(made), frozenset(called)


def reachable(each: Any) -> set[type[BaseException]]:
    """The errors that its code names, and the code that it calls: as far as names tell, so more than can come."""
    found: set[type[BaseException]] = set()
    codes = [each.fget, each.fset] if isinstance(each, property) else [each]
    todo = [(code.__module__, there) for code in codes if code for there in _defined(code.__module__)[code.__name__]]
    seen = set(todo)
    while todo:
        made, called = _step(*todo.pop())
        found |= made
        todo += called - seen
        seen |= called
    return found
