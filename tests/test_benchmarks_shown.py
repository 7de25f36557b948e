"""What the benchmarks show: the picture and the small table of the README, and on what it was measured."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from .benchmarks import contestants, environment, machine, peers, plot, summary

ROOT = Path(__file__).parent.parent
NAMES = list(peers.OVER_HTTP)


def results(**wanted: Any) -> dict[str, Any]:
    """Of a run in which each contestant took 100 µs more than the one before, and twice as much over TLS."""
    races = [(10, 0.0), (100, 0.0), (1_000, 0.0), (100, 0.05), (1_000, 0.2)]
    runs = [
        {"kind": kind, "contestant": name, "at_once": at_once, "delay": delay, "n": 1_000, "round": 0}
        | {"cpu": (number + 1) * factor * 0.1, "loop": 0.1, "wall": 1.0, "freeze": 0.042, "freeze_cpu": 0.0}
        | {"memory": 0, "server": {"requests": 1_008, "accepted": at_once + 1, "peak": at_once, "cpu": 10_080}}
        for kind, factor in (("http", 1), ("tls", 2))
        for at_once, delay in races
        for number, name in enumerate(NAMES)
    ]
    kept = [run for run in runs if all(run[key] in value for key, value in wanted.items())]
    on = {"model": "Some CPU", "cpus": 2, "kernel": "6.18.44-some", "python": "3.11.7", "load": 0.0}
    versions = {"ceylon-nb": "1.2", "aiohttp": "3.14.5"}
    return {
        "began": "2026-11-30 12:00", "machine": on, "versions": versions, "full": True, "rounds": 1, "runs": kept,
    }  # fmt: skip


# -- the picture -----------------------------------------------------------------------------------------------------


def test_the_picture_has_every_contestant_at_every_width():
    figure = plot.draw(results())

    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == NAMES
    assert [axes.get_title() for axes in figure.axes] == ["10 at once", "100 at once", "1,000 at once"]
    for axes in figure.axes:
        values = [text.get_text() for text in axes.texts]
        assert sorted(values) == sorted(f"{(at + 1) * us:,}" for at in range(len(NAMES)) for us in (100, 200))


def test_the_picture_marks_ours():
    axes = plot.draw(results()).axes[0]

    bold = {label.get_text() for label in axes.get_yticklabels() if label.get_fontweight() == "bold"}
    assert bold == {contestants.OURS, contestants.OURS + contestants.UNSTORED}


def test_the_same_figures_give_the_same_small_file(tmp_path):
    first, second = tmp_path / "first.svg", tmp_path / "second.svg"
    for file in (first, second):
        plot.save(results(), file)

    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size < 150_000
    assert ET.parse(first).getroot().tag.endswith("svg")


def test_a_picture_without_tls_has_the_rest():
    (values, *_) = [[text.get_text() for text in axes.texts] for axes in plot.draw(results(kind=["http"])).axes]

    assert values == [f"{(at + 1) * 100:,}" for at in range(len(NAMES))]


def test_there_is_no_picture_of_what_was_not_measured():
    with pytest.raises(ValueError, match="over HTTP at 10, 1,000 at once"):
        plot.draw(results(at_once=[100]))


# -- the small table -------------------------------------------------------------------------------------------------


def test_the_summary_has_a_row_for_every_contestant():
    lines = summary.write(results()).splitlines()

    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2 : 2 + len(NAMES)]] == NAMES
    ours = NAMES.index(contestants.OURS)
    cost, secure = (ours + 1) * 100, (ours + 1) * 200
    plain = f"{cost:,} ({ours + 1}.0)"
    assert lines[2 + ours] == (
        f"| {contestants.OURS} | {plain} | {plain} | {plain} | {secure:,} ({ours + 1}.0) | 2.00 | 42 |"
    )


def test_the_summary_has_dashes_for_what_was_not_measured():
    lines = summary.write(results(kind=["http"], delay=[0.0])).splitlines()

    assert lines[2] == "| bare aiohttp | 100 (1.0) | 100 (1.0) | 100 (1.0) | – | – | – |"


def test_figures_written_earlier_are_shown_and_drawn_without_measuring(tmp_path):
    earlier, picture = tmp_path / "results.json", tmp_path / "picture.png"
    earlier.write_text(json.dumps(results()))
    command = [sys.executable, "-m", "tests.benchmarks", "--from", earlier, "--summary", "--plot", picture]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == summary.write(results()).strip()
    assert "round" not in done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")


# -- on what ---------------------------------------------------------------------------------------------------------


def test_the_head_says_when_on_what_and_with_which_versions():
    said = machine.words(results())

    for part in ("2026-11-30 12:00", "Some CPU", "2 CPUs", "Linux 6.18,", "Python 3.11.7", "aiohttp 3.14.5"):
        assert part in said


def test_this_machine_is_described():
    described = machine.described(sys.executable)

    assert described["machine"]["model"]
    assert {"ceylon-nb", "aiohttp", "httpx-aiohttp", "openai"} <= described["versions"].keys()


def test_every_version_is_pinned():
    lines = [line for line in environment.REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]

    assert all("==" in line for line in lines)
    assert len(machine.NAMES.findall(environment.REQUIREMENTS.read_text())) == len(lines)
