"""What the README shows is what happens."""

import ast
import asyncio
import contextlib
import inspect
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import nbformat.v4 as v4
import pandas as pd
import pytest

import ceylon_nb
from ceylon_nb.agents.caller import Settings
from ceylon_nb.errors import NotRecorded
from ceylon_nb.testing import ModelServer

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


BATCH, AGAIN, RECORD, ACT, TALK, *MODELS = blocks("python")


def run(*cells: str) -> list[str]:
    """What each cell prints, run one after the other, as in a notebook."""
    printed: list[str] = []
    names: dict[str, object] = {}

    async def notebook() -> None:
        for cell in cells:
            code = compile(cell, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            with contextlib.redirect_stdout(io.StringIO()) as out:
                outcome = eval(code, names)
                if inspect.isawaitable(outcome):
                    await outcome
            printed.append(out.getvalue())

    asyncio.run(notebook())
    return printed


def test_the_example_prints_what_the_readme_shows() -> None:
    assert run(BATCH) == blocks("text")[:1]


def test_nothing_is_paid_for_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CEYLON_NB_STORE", str(tmp_path / "answers.sqlite"))
    assert run(BATCH, AGAIN) == blocks("text")[:2]
    assert run(BATCH, AGAIN) == blocks("text")[:2]  # after a restart, too


def test_agents_act_and_talk() -> None:
    assert run("from ceylon_nb import LlmAgent", ACT, TALK)[1:] == blocks("text")[2:]


def test_a_recording_is_replayed_without_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CEYLON_NB_STORE", str(tmp_path / "answers.sqlite"))
    monkeypatch.chdir(tmp_path)
    run(BATCH, RECORD)
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [line["reply"] for line in lines] == ["neutral", "negative", "positive"]
    replay = RECORD.replace(', record="missing"', "")
    assert run(BATCH, replay + 'print(*frame["reply"])')[1] == "positive negative neutral None\n"
    with pytest.raises(NotRecorded, match=r"\{\+Is it good\? \+\}"):
        run(BATCH, replay.replace("{text}", "Is it good? {text}"))


def test_the_defaults_that_the_readme_tells() -> None:
    settings = Settings()
    assert f"{settings.timeout:.0f} s an attempt" in README
    assert f"({settings.max_rounds}) and `action_timeout=` ({settings.action_timeout:.0f} s)" in README
    assert (settings.attempts, "Three attempts for each answer" in README) == (3, True)


def test_the_names_that_the_readme_tells_are_there() -> None:
    """Of what stands in its text, not in its code."""
    for name in re.findall(r"`ceylon_nb\.(\w+)", README):
        assert hasattr(ceylon_nb, name), name


def test_what_the_readme_links_to_is_there() -> None:
    linked = re.findall(r"""(?:\]\(|(?:src|srcset)=")(?!https?:|#)([^)"]+)""", README)
    assert len(linked) > 40
    assert [path for path in linked if not (ROOT / path).exists()] == []


def test_the_first_screen_has_exactly_two_commands() -> None:
    first_screen = README.split("## A first batch")[0]
    assert len(re.findall(r"```bash\n.*?```", first_screen, re.DOTALL)) == 2


def test_the_snippets_for_real_models_build() -> None:
    assert len(MODELS) == 2
    for snippet in MODELS:
        exec("from ceylon_nb import LlmAgent\n" + snippet + "agent.build()")


def test_the_same_command_again_sends_only_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text("text\nWorks like a charm.\nIt boils water.\n")
    environ = {name: value for name, value in os.environ.items() if name != "CEYLON_NB_STORE"}

    def ask(*options: str) -> str:
        command = "-m ceylon_nb map reviews.csv {text} --model demo::instant".split()
        done = subprocess.run(
            [sys.executable, *command, *options], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
        )
        return done.stderr

    assert "from the store" not in ask()
    assert (tmp_path / ".ceylon_nb" / "answers.sqlite").exists()
    assert "2 from the store; fresh=True asks anew" in ask()
    assert "from the store" not in ask("--fresh", "--name", "anew")
    assert "from the store" not in ask("--store", "off")
    assert "from the store" not in ask("--store", "elsewhere.sqlite")
    names = ceylon_nb.store(tmp_path / ".ceylon_nb" / "answers.sqlite").batches()["name"]
    assert list(names) == ["anew", "{text}", "{text}"]
    assert len(ceylon_nb.store(tmp_path / "elsewhere.sqlite").batches()) == 1


def test_a_notebook_becomes_a_test_without_a_model(tmp_path: Path, model_server: ModelServer) -> None:
    """By the commands that the tutorial shows."""
    lesson = nbformat.read(ROOT / "notebooks" / "04-nothing-lost.ipynb", as_version=4)
    prose = "\n".join(cell.source for cell in lesson.cells if cell.cell_type == "markdown")
    (shown,) = re.findall(r"```bash\n(.*?)```", prose, re.DOTALL)
    where, record, replay = shown.splitlines()
    ask = v4.new_code_cell("from ceylon_nb import LlmAgent\nawait LlmAgent('a', 'ollama::mock').send_message('Who?')")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(v4.new_notebook(cells=[ask], metadata=kernel), tmp_path / "mine.ipynb")
    environ = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "JUPYTER_PREFER_ENV_PATH": "1",
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "OLLAMA_HOST": model_server.url,
    }

    def terminal(*commands: str) -> subprocess.CompletedProcess[str]:
        script = "\n".join(["set -e", *commands])
        return subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
        )

    model_server.reply = "Me."
    recorded = terminal(where, record)
    assert recorded.returncode == 0, recorded.stderr
    assert model_server.received == 1
    model_server.stop()
    replayed = terminal(where, replay)
    assert replayed.returncode == 0, replayed.stdout
    assert "1 passed" in replayed.stdout
    mine = (tmp_path / "mine.ipynb").read_text()
    (tmp_path / "mine.ipynb").write_text(mine.replace("Who?", "Who are you?"))
    changed = terminal(where, replay)
    assert "Who{+ are you+}?" in changed.stdout
    assert "1 failed" in changed.stdout


def test_a_million_rows_begin_with_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (million,) = blocks("py")
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"text": ["Works like a charm.", "It boils water.", "Awful smell."]}).to_parquet("reviews.parquet")
    names: dict[str, object] = {"pd": pd, "agent": ceylon_nb.LlmAgent("clerk", "demo::instant")}
    code = compile(million, "README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    async def cell() -> None:
        pending = eval(code, names)
        await pending

    asyncio.run(cell())
    answers = names["answers"]
    assert isinstance(answers, pd.DataFrame)
    assert answers["position"].tolist() == [0, 1, 2]
    assert answers["status"].eq("ok").all()
