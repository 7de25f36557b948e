"""What the README shows is what happens."""

import ast
import asyncio
import contextlib
import inspect
import io
import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_example_prints_what_the_readme_shows() -> None:
    code = compile(blocks("python")[0], "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    printed = io.StringIO()

    async def cell() -> None:
        with contextlib.redirect_stdout(printed):
            outcome = eval(code, {})
            if inspect.isawaitable(outcome):
                await outcome

    asyncio.run(cell())
    assert printed.getvalue() == blocks("text")[0]


def test_the_first_screen_has_exactly_two_commands() -> None:
    first_screen = README.split("## A first batch")[0]
    assert len(re.findall(r"```bash\n.*?```", first_screen, re.DOTALL)) == 2


def test_the_snippets_for_real_models_build() -> None:
    for snippet in blocks("python")[1:]:
        exec("from ceylon_nb import LlmAgent\n" + snippet + "agent.build()")
