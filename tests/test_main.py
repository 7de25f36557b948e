"""`python -m ceylon_nb` as a person runs it: a process, files, a server."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ceylon_nb import store
from ceylon_nb.testing import ModelServer, faults


def ceylon(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ceylon_nb", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.csv"
    texts = ["I love it", 'He said "no", twice\nand left', "{text} {0} <script>", "NA", "", "007"]
    write_csv(path, [{"id": f"{n:03}", "text": text} for n, text in enumerate(texts)])
    return path


def test_demo_needs_nothing() -> None:
    done = ceylon("demo")
    assert done.returncode == 0, done.stderr
    assert "Batch(100 ok of 100)" in done.stdout
    assert re.search(r"Stopped working after a week\.\s+negative\s+ok", done.stdout)
    assert "stand-in" in done.stdout
    assert done.stderr == ""  # no bar where nobody watches


def test_map_labels_a_csv(reviews: Path, tmp_path: Path) -> None:
    out = tmp_path / "labelled.csv"
    with ModelServer(reply=lambda messages: f"<{messages[-1]['content']}>", models=["mock"]) as server:
        done = ceylon(
            "map", str(reviews), "Text: {text}", "--model", "ollama::mock", "--base-url", server.url, "--out", str(out),
            "--system-prompt", "Be brief.", "--temperature", "0", "--max-tokens", "50", "--max-at-once", "2",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        asked = server.requests
        assert server.peak <= 2
    assert {request.system for request in asked} == {"Be brief."}
    assert asked[0].body["options"] == {"temperature": 0.0, "num_predict": 50}
    rows = read_csv(out)
    before = read_csv(reviews)
    assert [(row["id"], row["text"]) for row in rows] == [(row["id"], row["text"]) for row in before]  # to the letter
    assert [row["reply"] for row in rows] == [f"<Text: {row['text']}>" for row in before]
    assert {row["status"] for row in rows} == {"ok"}
    assert "Batch(6 ok of 6)" in done.stderr


def test_the_same_command_again_asks_only_for_what_is_missing(reviews: Path, tmp_path: Path) -> None:
    with ModelServer() as server:
        arguments = ["map", str(reviews), "{text}", "--model", "ollama::mock", "--base-url", server.url,
                     "--store", str(tmp_path / "answers.sqlite"), "--name", "reviews"]  # fmt: skip
        server.next(*[None] * 4, faults.status(400))
        once = ceylon(*arguments, "--max-at-once", "1", "--attempts", "1")
        assert ("4 ok, 2 failed" in once.stderr, server.received) == (True, 5)  # an empty row is not sent
        again = ceylon(*arguments)
        assert ("5 ok, 1 failed" in again.stderr, server.received) == (True, 6)
        assert "4 from the store; fresh=True asks anew" in again.stderr
        ceylon(*arguments, "--fresh")
        assert server.received == 11
    assert list(store(tmp_path / "answers.sqlite").batches()["name"]) == ["reviews"] * 3


def test_map_keeps_its_answers_beside_the_notebook_or_script_unless_told(reviews: Path, tmp_path: Path) -> None:
    for options, kept in ((["--store", "off"], False), ([], True)):
        done = subprocess.run(
            [sys.executable, "-m", "ceylon_nb", "map", str(reviews), "{text}", "--model", "demo::instant", *options],
            cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if name != "CEYLON_NB_STORE"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.count(",ok,") == 5
        assert (tmp_path / ".ceylon_nb" / "answers.sqlite").exists() == kept


def test_map_without_out_writes_csv_to_stdout(reviews: Path) -> None:
    done = ceylon("map", str(reviews), "{text}", "--model", "demo::instant")
    rows = list(csv.DictReader(done.stdout.splitlines(keepends=True)))
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "ok", "failed", "ok"]
    assert rows[4]["error"].startswith("EmptyPrompt")
    assert done.returncode == 1  # a row failed


def test_map_jsonl_both_ways(tmp_path: Path) -> None:
    table, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    table.write_text('{"text": "I love it", "status": "new", "n": 1}\n{"text": "It broke", "status": "old", "n": 2}\n')
    arguments = ["map", str(table), "Classify the review: {text}", "--model", "demo::instant", "--out", str(out)]
    assert ceylon(*arguments).returncode == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["reply"] for row in rows] == ["positive", "negative"]
    assert [(row["status"], row["answer_status"]) for row in rows] == [("new", "ok"), ("old", "ok")]
    assert [row["n"] for row in rows] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{txt}", "--model", "demo::tutor"], "There is no column 'txt'. There are id, text."),
        (["{text}", "--model", "tutor"], "Invalid format. Use 'provider::model-name'. Got: tutor"),
        (["{text}", "--model", "nobody::m"], "Unknown provider: nobody"),
        (["{text}", "--model", "openai::m"], "OPENAI_API_KEY"),
        (
            ["{text}", "--model", "demo::tutor", "--max-at-once", "0"],
            'max_at_once is a whole number from 1, or "auto", not 0',
        ),
        (["{text}", "--model", "demo::tutor", "--out", "nowhere/out.csv"], "There is no folder nowhere"),
        (["{text}", "--model", "demo::tutor", "--out", "out.xlsx"], "neither .csv, .jsonl nor .parquet"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(reviews: Path, arguments: list[str], said: str) -> None:
    done = ceylon("map", str(reviews), *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_file_that_is_not_there() -> None:
    done = ceylon("map", "nothing.csv", "{text}", "--model", "demo::tutor")
    assert done.returncode == 2
    assert "nothing.csv" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_is_down_says_what_to_do(tmp_path: Path) -> None:
    table, out = tmp_path / "in.csv", tmp_path / "out.csv"
    write_csv(table, [{"text": f"row {n}"} for n in range(30)])
    with ModelServer() as server:
        url = server.url  # a port where nobody listens any more
    done = ceylon("map", str(table), "{text}", "--model", "ollama::m", "--base-url", url, "--out", str(out),
                  "--attempts", "1")  # fmt: skip
    assert done.returncode == 1
    assert "ollama serve" in done.stderr
    statuses = [row["status"] for row in read_csv(out)]
    assert len(statuses) == 30
    assert statuses.count("failed") >= 5
    assert "waiting" in statuses  # it stopped: the rest was never sent


def test_ctrl_c_keeps_what_was_answered(tmp_path: Path) -> None:
    table, out = tmp_path / "in.csv", tmp_path / "out.csv"
    write_csv(table, [{"text": f"row {n}"} for n in range(20)])
    with ModelServer(reply="noted", models=["mock"]) as server:
        server.plan = lambda request: faults.hang() if request.number > 5 else None
        command = [sys.executable, "-m", "ceylon_nb", "map", str(table), "{text}", "--model", "ollama::mock",
                   "--base-url", server.url, "--out", str(out), "--max-at-once", "3"]  # fmt: skip
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            server.wait_for(lambda seen: seen.served == 5 and seen.active == 3, timeout=30)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)
        server.wait_for(lambda seen: seen.active == 0, timeout=5)
        assert server.aborted == 3
    assert process.returncode == 130
    assert "Interrupted" in said
    assert "Traceback" not in said
    statuses = [row["status"] for row in read_csv(out)]
    assert (statuses.count("ok"), statuses.count("cancelled"), statuses.count("waiting")) == (5, 3, 12)


def test_serve_speaks_both_formats_until_ctrl_c() -> None:
    command = [sys.executable, "-m", "ceylon_nb", "serve", "--port", "0", "--latency", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as server:
        assert server.stdout is not None
        shown = "".join(server.stdout.readline() for _ in range(4))
        ollama = re.search(r"OLLAMA_HOST=(\S+)", shown)
        openai = re.search(r"OPENAI_BASE_URL=(\S+)", shown)
        assert ollama
        assert openai
        from ceylon_nb import LlmAgent

        model = re.search(r"Models:\s+([\w.:-]+)", shown)
        assert model
        first = LlmAgent("a", f"ollama::{model[1]}", base_url=ollama[1]).send_message_sync("What is JSON?")
        second = LlmAgent("a", f"openai::{model[1]}", base_url=openai[1], api_key="k").send_message_sync(
            "What is JSON?"
        )
        assert first == second
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0
        assert "served 2" in server.stdout.read()


def test_line_ends_of_every_kind_survive_the_csv(tmp_path: Path) -> None:
    table, out = tmp_path / "in.csv", tmp_path / "out.csv"
    texts = ["a\rb", "a\nb", "a\r\nb", 'a"b,c']
    write_csv(table, [{"text": text} for text in texts])
    with ModelServer(reply=lambda messages: f"[{messages[-1]['content']}]", models=["mock"]) as server:
        for target in (["--out", str(out)], []):
            command = ["map", str(table), "{text}", "--model", "ollama::mock", "--base-url", server.url, *target]
            done = subprocess.run(
                [sys.executable, "-m", "ceylon_nb", *command], capture_output=True, timeout=60, check=True
            )
            written = out.read_bytes() if target else done.stdout
            lines = io.StringIO(written.decode(), newline="")
            rows = list(csv.DictReader(lines))
            assert [row["reply"] for row in rows] == [f"[{row['text']}]" for row in rows]
            assert len(rows) == len(texts)


def test_a_disk_that_is_full_loses_no_answer(tmp_path: Path) -> None:
    table, out = tmp_path / "in.csv", tmp_path / "out.csv"
    write_csv(table, [{"text": "I love it"}])
    out.symlink_to("/dev/full")
    done = ceylon("map", str(table), "Classify the review: {text}", "--model", "demo::instant", "--out", str(out))
    assert done.returncode == 2
    assert "No space left" in done.stderr
    assert "I love it,positive,ok" in done.stdout


def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    with ModelServer() as server:
        done = ceylon("serve", "--port", server.url.rpartition(":")[2])
    assert done.returncode == 2
    assert "in use" in done.stderr
    assert len(done.stderr.splitlines()) == 1
