"""The pytest plugin's recordings: tests and notebooks of a user's own, run by a pytest of their own."""

import json
import os
import re
import subprocess
import sys

import nbformat.v4 as v4
import pytest

TEST = """
from ceylon_nb import LlmAgent

def test_one(replay):
    assert LlmAgent("a", "ollama::llama3.2").send_message_sync("{prompt}") == "Hi!"
"""


@pytest.fixture
def project(tmp_path, model_server):
    """A folder whose tests ask the model server; `run` runs them."""
    model_server.reply = lambda messages: f"{messages[-1]['content']}!"
    return Project(tmp_path, model_server)


class Project:
    def __init__(self, folder, server):
        self.folder = folder
        self.server = server
        (folder / "pytest.ini").write_text("[pytest]")  # whatever lies in the folders above

    def write(self, text, name="test_mine.py"):
        (self.folder / name).write_text(text, encoding="utf-8")

    def run(self, *options, **environ):
        """Run pytest there; returns the counts of its last line, and all it says."""
        command = [sys.executable, "-m", "pytest", "-W", "error", "--strict-markers", "--color=no"]
        command += "-p no:cacheprovider -p no:asyncio".split()
        personal = {"OLLAMA_HOST": self.server.url, "IPYTHONDIR": str(self.folder / ".ipython")}
        if "--nbval" not in options:  # several seconds less
            command += ["-p", "ceylon_nb.testing.plugin"]
            personal["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        done = subprocess.run(
            [*command, *options],
            cwd=self.folder,
            env={**os.environ, **personal, **environ},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        last_line = done.stdout.strip().rpartition("\n")[2]
        counts = {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", last_line)}
        counts.pop("in", None)
        return counts, done.stdout + done.stderr

    def recordings(self):
        """The files below, but those of pytest and IPython; each with what was asked in it."""
        return {
            str(path.relative_to(self.folder)): [json.loads(line)["prompt"] for line in path.read_text().splitlines()]
            for path in self.folder.rglob("*.jsonl")
        }


def test_a_test_is_recorded_and_replayed_without_a_server(project):
    project.write(TEST.format(prompt="Hi"))
    counts, output = project.run()
    assert counts == {"error": 1}, output
    assert "There is no recording recordings/test_mine/test_one.jsonl to replay" in output
    assert "run pytest with --ceylon-record" in output
    assert "Traceback" not in output
    counts, output = project.run("--ceylon-record")
    assert counts == {"passed": 1}, output
    assert project.recordings() == {"recordings/test_mine/test_one.jsonl": ["Hi"]}
    project.server.stop()
    counts, output = project.run()
    assert counts == {"passed": 1}, output
    project.write(TEST.format(prompt="Hi there"))
    counts, output = project.run()
    assert counts == {"failed": 1}, output
    assert "    Hi{+ there+}" in output
    assert "To record it: run pytest with --ceylon-record." in output


def test_all_is_asked_anew_and_only_a_test_that_passes_drops_answers(project):
    project.write(TEST.format(prompt="Hi"))
    project.run("--ceylon-record")
    project.write(TEST.format(prompt="Ho"))
    counts, output = project.run("--ceylon-record=all")
    assert counts == {"failed": 1}, output
    assert project.recordings() == {"recordings/test_mine/test_one.jsonl": ["Hi", "Ho"]}
    project.write(TEST.format(prompt="Hi"))
    counts, output = project.run("--ceylon-record=all")
    assert counts == {"passed": 1}, output
    assert project.recordings() == {"recordings/test_mine/test_one.jsonl": ["Hi"]}
    assert project.server.received == 3


def test_each_test_has_a_file_of_its_own(project):
    project.write(
        """
import pytest
from ceylon_nb import LlmAgent
agent = LlmAgent("a", "ollama::llama3.2")

class TestHere:
    def test_it(self, replay):
        agent.send_message_sync("here")

class TestThere:
    def test_it(self, replay):
        agent.send_message_sync("there")

@pytest.mark.parametrize("text", ["a/b", "a b", "a-b", "x" * 300])
def test_many(replay, text):
    agent.send_message_sync(text)

@pytest.mark.replay("shared/mine.jsonl")
def test_marked(replay):
    agent.send_message_sync("marked")
    assert (replay.path.name, replay.replayed + replay.recorded) == ("mine.jsonl", 1)

def test_without():
    from ceylon_nb import recording
    assert recording.current() is None
"""
    )
    counts, output = project.run("--ceylon-record")
    assert counts == {"passed": 8}, output
    project.server.stop()
    counts, output = project.run()
    assert counts == {"passed": 8}, output
    recordings = project.recordings()
    assert recordings.pop("shared/mine.jsonl") == ["marked"]
    names = {path.removeprefix("recordings/test_mine/"): asked for path, (asked,) in recordings.items()}
    assert names["TestHere.test_it.jsonl"] == "here"
    assert names["TestThere.test_it.jsonl"] == "there"
    assert names["test_many-a-b.jsonl"] == "a-b"
    assert sorted(names.values()) == sorted(["here", "there", "a/b", "a b", "a-b", "x" * 300])
    assert all(re.fullmatch(r"[\w.-]{1,120}", name) for name in names)


def test_an_option_that_takes_a_path_for_its_value_says_so(project):
    project.write(TEST.format(prompt="Hi"))
    _, output = project.run("--ceylon-record", "test_mine.py")
    assert "missing or all, not 'test_mine.py'; before a path, say =missing" in output
    counts, output = project.run("--ceylon-record=missing", "test_mine.py")
    assert counts == {"passed": 1}, output


# -- notebooks -------------------------------------------------------------------------------------------------------


def notebook(prompt="Paris"):
    """A notebook as it was saved when the server was there."""
    sources = [
        ("import pandas as pd\nfrom ceylon_nb import LlmAgent\nagent = LlmAgent('a', 'ollama::llama3.2')", None),
        (f"await agent.send_message({prompt!r})", "Paris!"),
        ("run = agent.map(['a', 'b', 'b'], 'Say {}', view=None)", None),
        ("list((await run)['reply'])", "['Say a!', 'Say b!', 'Say b!']"),
        ("agent.send_message_sync('Rome')", "Rome!"),
        ("[text async for text in agent.stream('Be so kind')]", "['Be', ' so', ' kind!']"),
    ]
    cells = []
    for count, (source, output) in enumerate(sources, start=1):
        outputs = [v4.new_output("execute_result", {"text/plain": output}, execution_count=count)] if output else []
        cells.append(v4.new_code_cell(source, execution_count=count, outputs=outputs))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    return v4.writes(v4.new_notebook(cells=cells, metadata=kernel))


def test_a_notebook_replays_under_nbval_with_the_server_stopped(project):
    (project.folder / "notebooks").mkdir()
    name = "notebooks/mine.ipynb"
    project.write(notebook(), name)
    options = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=60"]
    environ = {"CEYLON_NB_REPLAY": "answers.jsonl", "CEYLON_NB_VIEW": "off"}
    counts, output = project.run(*options, "--ceylon-record", **environ)
    assert counts == {"passed": 6}, output
    prompts = ["Be so kind", "Paris", "Rome", "Say a", "Say b", "Say b"]
    assert project.recordings() == {"notebooks/answers.jsonl": prompts}
    project.server.stop()
    counts, output = project.run(*options, **environ)
    assert counts == {"passed": 6}, output
    project.write(notebook("Paris, please"), name)
    counts, output = project.run(*options, **environ)
    assert counts == {"failed": 1, "passed": 5}, output
    assert "    Paris{+, please+}" in output
    assert "set CEYLON_NB_RECORD=missing" in output
