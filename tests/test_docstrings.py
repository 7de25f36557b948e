"""Every example in a docstring runs, on a loop and with ``await`` at the top level, as in a notebook.

Examples stand behind ``>>>``, each docstring's in a namespace of its own. No other code stands in docstrings, but for
what is no Python, and the test file that the pytest plugin shows, which is run as one.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import contextlib
import doctest
import inspect
import io
import os
import re
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ceylon_nb
from ceylon_nb.testing import ModelServer, plugin

PACKAGE = Path(ceylon_nb.__file__).parent


def docstrings(file: Path) -> Iterator[tuple[str, int, str]]:
    """Whose it is, the line on which it begins, and the text: of each docstring, also of variables and in functions."""

    def walk(node: ast.AST, name: str) -> Iterator[tuple[str, int, str]]:
        for child in ast.iter_child_nodes(node):
            inner = (
                f"{name}.{child.name}"
                if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                else name
            )
            if (
                isinstance(child, ast.Expr)
                and isinstance(child.value, ast.Constant)
                and isinstance(child.value.value, str)
            ):
                yield name, child.lineno, inspect.cleandoc(child.value.value)
            yield from walk(child, inner)

    where = file.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    return walk(ast.parse(file.read_text(encoding="utf-8")), where)


EVERY = [found for file in sorted(PACKAGE.rglob("*.py")) for found in docstrings(file)]
PARSER = doctest.DocTestParser()
EXAMPLES = {f"{name}:{line}": examples for name, line, text in EVERY if (examples := PARSER.get_examples(text))}


async def run(examples: list[doctest.Example]) -> list[str]:
    """What went otherwise than the examples say."""
    names: dict[str, Any] = {"__name__": "__main__"}
    wrong = []
    for example in examples:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                code = compile(example.source, "<example>", "single", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                pending = eval(code, names)
                if inspect.iscoroutine(pending):
                    await pending
            except Exception:  # noqa: BLE001 - whatever it is, the example is wrong; one that is meant is caught in it
                printed.write(traceback.format_exc())
        if not doctest.OutputChecker().check_output(example.want, printed.getvalue(), 0):
            wrong.append(f"{example.source}expected:\n{example.want}got:\n{printed.getvalue()}")
    return wrong


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In a folder of its own, with a store in it, as beside a notebook."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CEYLON_NB_STORE", str(tmp_path / "answers.sqlite"))
    yield
    vars(builtins).pop("_", None)  # what an expression was, by Python's prompt: it would live on


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_does_what_it_shows(name: str) -> None:
    if any("enable_nesting" in example.source for example in EXAMPLES[name]):  # it patches asyncio, for good
        command = [sys.executable, "-W", "error", __file__, name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    else:
        wrong = asyncio.run(run(EXAMPLES[name]))
        assert not wrong, "\n".join(wrong)


def unseen(text: str, examples: int) -> list[str]:
    """The prompts in a file's text beyond so many examples: in a comment, an f-string, a block that is no docstring."""
    shown = [line for line in text.splitlines() if re.match(r"\W*>>> ", line)]
    return shown[examples:]


def test_every_prompt_is_one_that_is_run() -> None:
    for file in PACKAGE.rglob("*.py"):
        prompts = sum(len(PARSER.get_examples(text)) for _, _, text in docstrings(file))
        assert not unseen(file.read_text(encoding="utf-8"), prompts), file
    assert unseen("# >>> nobody\n", 0) == ["# >>> nobody"]


def blocks(text: str) -> list[str]:
    """Python that stands in a docstring without a prompt: behind ``::`` or a directive, between fences, or indented."""
    found = re.findall(r"(?:^|\n)(?:[^\n]*::|\.\. code[^\n]*)\n\n((?:(?: +[^\n]*)?(?:\n|\Z))+?)(?=\S|\Z)", text)
    found += re.findall(r"```[^\n]*\n(.*?)```", text, re.DOTALL)
    paragraphs = text.partition("\nExamples\n---")[2].split("\n\n")
    found += [each for each in paragraphs[1:] if each.startswith(" ")]
    return [code for block in found if (code := textwrap.dedent(block).strip()) and _is_python(code)]


def _is_python(code: str) -> bool:
    try:
        compile(code, "<block>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError:
        return False
    return True


def test_no_other_code_stands_in_docstrings() -> None:
    found = {name for name, _, text in EVERY if blocks(text)}
    assert found == {"ceylon_nb.testing.plugin"}  # which is run below
    for planted in (
        "::\n\n    await run\n",
        "So::\n\n    x = 1\n\nAnd so.",
        "```python\nx = 1\n```",
        "A.\n\nExamples\n---\n\n    x = 1",
    ):
        assert blocks(planted), planted
    assert not blocks("::\n\n    a ──► b\n")


@pytest.mark.parametrize(
    ("shown", "wrong"),
    [
        (">>> 1 + 1\n2\n", 0),
        (">>> 1 + 1\n3\n", 1),
        (">>> 1 + 1\n", 1),
        (">>> x = 1\n1\n", 1),
        (">>> await __import__('asyncio').sleep(0, 'awake')\n'awake'\n", 0),
        (">>> print('a')\n... print('b')\na\nb\n", 1),
        (">>> raise ValueError('no')\n", 1),
    ],
)
def test_an_example_that_shows_something_else_is_found(shown: str, wrong: int) -> None:
    assert len(asyncio.run(run(PARSER.get_examples(shown)))) == wrong


def test_the_test_file_that_the_plugin_shows_passes(tmp_path: Path) -> None:
    """Recorded, and then replayed without a model."""
    (shown,) = blocks(inspect.getdoc(plugin) or "")
    (tmp_path / "test_reviews.py").write_text(shown + "\n", encoding="utf-8")

    def pytest_there(*options: str) -> str:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
        done = subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=100
        )
        return done.stdout.splitlines()[-1] + done.stderr

    with ModelServer(reply="Yes.") as server:
        environ = {**os.environ, "OLLAMA_HOST": server.url}
        assert "4 passed" in pytest_there("--ceylon-record")
        assert server.served == 2
    assert "4 passed" in pytest_there()
    assert (tmp_path / "reviews.jsonl").exists()


if __name__ == "__main__":
    told = "\n".join(asyncio.run(run(EXAMPLES[sys.argv[1]])))
    sys.exit(told or None)
