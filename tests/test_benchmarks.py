"""The benchmarks run, count honestly, and speak to nobody outside. What they measure is nobody's pass or fail."""

import asyncio
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import ceylon_nb

from .benchmarks import __main__ as benchmarks
from .benchmarks import child, contestants, disk, environment, messaging, peers, plan, report, server
from .benchmarks.figures import Runs, cpu_each, loop_each, over_ideal
from .benchmarks.meter import Meter

ROOT = Path(__file__).parent.parent
needs_server = pytest.mark.skipif(server.missing() is not None, reason=str(server.missing()))


def run_benchmarks(*options: str, timeout: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


def ran_well(done: subprocess.CompletedProcess[str], results: Path) -> Runs:
    assert done.returncode == 0, done.stderr
    runs = json.loads(results.read_text())["runs"]
    for run in runs:
        assert run["contestant"] in done.stdout
        if run["kind"] == "auto":
            assert run["auto"] > 0, run
        elif run["kind"] != "import":
            assert run["answered"] == run["n"], run
    return Runs(runs)


# -- all of it -------------------------------------------------------------------------------------------------------


@needs_server
def test_a_quick_run_measures_everything_but_the_peers(tmp_path):
    done = run_benchmarks("--quick", "--json", str(tmp_path / "results.json"), timeout=200)

    runs = ran_well(done, tmp_path / "results.json")
    assert "environment" not in done.stderr, "a quick run makes none"
    names = {kind: [name for (name,) in runs.where(kind=kind).distinct("contestant")] for kind in child.KINDS}
    unstored = contestants.OURS + contestants.UNSTORED
    assert names["http"] == [contestants.BARE, contestants.TRANSPORT, contestants.OURS, unstored]
    assert names["tls"] == ([] if server.missing_tls() else names["http"])
    assert names["engine"] == [contestants.POOL, *contestants.STORED]
    for run in [*runs.where(kind="http").runs, *runs.where(kind="tls").runs]:
        assert run["server"]["peak"] == run["at_once"], "a race in which somebody walks"
        assert run["server"]["accepted"] <= run["at_once"] + 1, "connections are kept: one more is /stats' own"
    for lazy in runs.where(kind="lazy").runs:
        assert lazy["tasks"] <= lazy["at_once"] + 4
    (decided,) = runs.where(kind="deciding").runs
    assert decided["found"] == decided["n"], "all of them are in the store"
    (slow,) = runs.where(kind="disk", contestant=plan.SLOW_DISK).runs
    assert slow["commit"] >= plan.QUICK.commit, "the disk is slow indeed"
    assert not list(ROOT.glob("*.sqlite*")), "a run works in a folder of its own"
    (imported,) = runs.where(kind="import", contestant="ceylon_nb").runs
    assert imported["heavy"] == []


@needs_server
@pytest.mark.peers
@pytest.mark.timeout(3600)
def test_a_full_run_measures_the_peers_too(tmp_path):
    done = run_benchmarks("--json", str(tmp_path / "results.json"), timeout=3600)

    runs = ran_well(done, tmp_path / "results.json")
    print(done.stdout)
    assert runs.where(kind="engine", contestant=peers.PEER).runs
    for kind in ("http", "tls"):
        assert [name for (name,) in runs.where(kind=kind).distinct("contestant")] == list(peers.OVER_HTTP)
        for run in runs.where(kind=kind).runs:
            assert run["server"]["peak"] <= run["at_once"]


@needs_server
@pytest.mark.peers
@pytest.mark.timeout(1200)  # the first makes their environment
@pytest.mark.parametrize("peer", peers.PEERS)
def test_a_peer_asks_once_for_each_prompt_and_trusts_no_stranger(peer, tmp_path):
    python = environment.python_with_peers()
    with server.running() as load, disk.shelf() as shelf:
        benchmarks.run(python, {**JOB, "contestant": peer}, load, shelf)  # it would raise
        if server.missing_tls():
            pytest.skip(str(server.missing_tls()))
        job = {**JOB, "kind": "tls", "contestant": peer}
        benchmarks.run(python, job, load, shelf)
        load.authority, _ = server.certify(tmp_path)
        with pytest.raises(benchmarks.ContestantFailed):
            benchmarks.run(python, job, load, shelf)
        assert load.stats()["requests"] == 0


def test_contestants_take_turns():
    (race,) = plan.QUICK.jobs("http", peers=True)

    assert [job["contestant"] for job in race] == list(peers.OVER_HTTP)
    assert {job["at_once"] for job in race} == {8}
    assert all(peers.PEER not in json.dumps(group) for group in plan.FULL.jobs(None, peers=False))


def test_the_part_of_the_store_has_all_that_a_store_takes_part_in():
    jobs = Runs(job for group in plan.QUICK.jobs("store", peers=True) for job in group)

    names = {kind: [name for (name,) in jobs.where(kind=kind).distinct("contestant")] for kind in child.KINDS}
    assert names["http"] == []
    assert names["engine"] == list(contestants.STORED)
    assert names["lazy"] == [plan.IN_STORE]
    assert [len(names[kind]) for kind in ("opening", "deciding", "disk")] == [2, 1, 2]


# -- honest counting -------------------------------------------------------------------------------------------------

MACHINE = {"python": "3", "cpus": 2, "load": 0.0}
JOB = {"kind": "http", "contestant": "somebody", "n": 100, "at_once": 8, "delay": 0.0}
SEEN = {"requests": 100 + child.WARM_UP, "refused": 0, "peak": 8, "accepted": 9, "cpu": 1000}


def test_a_run_that_did_its_job_counts():
    benchmarks.check(JOB, {"answered": 100, "server": SEEN})


@pytest.mark.parametrize(
    ("figures", "fault"),
    [
        pytest.param({"answered": 99, "server": SEEN}, "99 answers", id="an answer lost"),
        pytest.param({"answered": 100, "server": {**SEEN, "requests": 100}}, "92 requests", id="not all asked"),
        pytest.param({"answered": 100, "server": {**SEEN, "refused": 3}}, "103 requests", id="asked again"),
        pytest.param({"answered": 100, "server": {**SEEN, "peak": 9}}, "9 at once", id="more at once than allowed"),
    ],
)
def test_a_run_that_did_not_do_its_job_is_no_figure(figures, fault):
    with pytest.raises(benchmarks.ContestantFailed, match=fault):
        benchmarks.check(JOB, figures)


STORE_JOB = {"contestant": "somebody", "n": 100, "at_once": 8}


@pytest.mark.parametrize(
    ("job", "figures"),
    [
        pytest.param({"kind": "deciding"}, {"found": 100}, id="all of it found"),
        pytest.param({"kind": "opening"}, {"found": 0}, id="nothing found"),
        pytest.param({"kind": "disk", "commit": 0.2}, {"commit": 0.21}, id="a slow disk"),
    ],
)
def test_a_run_with_the_store_that_was_meant_counts(job, figures):
    benchmarks.check({**STORE_JOB, **job}, {"answered": 100, **figures})


@pytest.mark.parametrize(
    ("job", "figures", "fault"),
    [
        pytest.param({"kind": "deciding"}, {"found": 99}, "99 from the store", id="asked for what was there"),
        pytest.param({"kind": "opening"}, {"found": 1}, "1 from the store", id="found what was not there"),
        pytest.param({"kind": "disk", "commit": 0.2}, {"commit": 0.003}, "a commit in 3 ms", id="a quick disk"),
    ],
)
def test_a_run_with_another_store_than_was_meant_is_no_figure(job, figures, fault):
    with pytest.raises(benchmarks.ContestantFailed, match=fault):
        benchmarks.check({**STORE_JOB, **job}, {"answered": 100, **figures})


@needs_server
def test_a_run_that_failed_is_told_and_the_others_go_on(capsys):
    size = replace(plan.QUICK, imports=("no_such_module", "asyncio"))
    failed: list[str] = []

    runs = benchmarks.measure(size, sys.executable, "import", failed, peers=False)

    assert failed == ["import, no_such_module ended with 1:"]
    assert "ModuleNotFoundError" in capsys.readouterr().err
    assert [run["contestant"] for run in runs] == ["asyncio"]
    results = {"full": False, "rounds": 1, "machine": MACHINE, "failed": failed, "runs": runs}
    assert failed[0] in report.write(results)


@needs_server
def test_what_only_shows_its_memory_runs_in_one_round():
    size = replace(plan.QUICK, rounds=2, lazy_n=100, imports=("asyncio",))

    rounds = {
        part: [run["round"] for run in benchmarks.measure(size, sys.executable, part, [], peers=False)]
        for part in ("lazy", "import")
    }

    assert rounds == {"lazy": [0, 0, 0], "import": [0, 1]}


@needs_server
def test_a_contestant_that_breaks_down_is_named_with_its_error():
    job = {**JOB, "contestant": "nobody"}
    broken = pytest.raises(benchmarks.ContestantFailed, match=r"(?s)nobody.*KeyError")
    with server.running() as load, disk.shelf() as shelf, broken:
        benchmarks.run(sys.executable, job, load, shelf)


def test_a_full_store_is_what_batches_leave(tmp_path):
    disk.fill(tmp_path / "answers.sqlite", disk.BATCH + 5)

    kept = ceylon_nb.store(tmp_path / "answers.sqlite")

    assert list(kept.batches()["done"]) == [5, disk.BATCH], "the newest first"
    frame = kept.frame("batch 1")
    assert list(frame["prompt"]) == [contestants.prompt(disk.BATCH + number) for number in range(5)]
    assert set(frame["reply"]) == {contestants.ANSWER}


def test_ratios_are_taken_within_a_round():
    runs = Runs(
        {"round": number, "contestant": name, "n": 1, "cpu": cpu}
        for number, (slow, fast) in enumerate([(2.0, 1.0), (40.0, 10.0), (3.0, 1.0)])
        for name, cpu in (("slow", slow), ("fast", fast))
    )

    ratio = runs.where(contestant="slow").ratio(runs.where(contestant="fast"), cpu_each)

    assert ratio == 3.0, "the noisy second round must not decide"
    assert runs.where(contestant="slow").middle(cpu_each) == 3.0
    assert runs.where(contestant="slow").ratio(runs.where(contestant="absent"), cpu_each) is None
    runs.runs.remove({"round": 2, "contestant": "fast", "n": 1, "cpu": 1.0})
    assert runs.where(contestant="slow").ratio(runs.where(contestant="fast"), cpu_each) == 3.0, "the rounds of both"


def test_differences_are_taken_within_a_round():
    runs = Runs(
        {"round": number, "contestant": name, "n": 1, "loop": loop}
        for number, (stored, bare) in enumerate([(3.0, 1.0), (90.0, 10.0), (4.0, 2.0)])
        for name, loop in (("stored", stored), ("bare", bare))
    )

    assert runs.where(contestant="stored").more(runs.where(contestant="bare"), loop_each) == 2.0
    assert runs.where(contestant="stored").more(runs.where(contestant="absent"), loop_each) is None


def test_walls_are_held_against_whole_waves():
    assert over_ideal({"wall": 3.0, "n": 101, "at_once": 100, "delay": 1.0}) == 1.5


@pytest.mark.parametrize(("seconds", "verdict"), [(200e-6, "met"), (230e-6, "missed")])
def test_the_bar_says_what_was_missed(seconds, verdict):
    run = {"kind": "http", "contestant": contestants.OURS, "at_once": 100, "delay": 0.0, "round": 0}
    figures = {
        "n": 1,
        "cpu": seconds,
        "loop": seconds,
        "wall": 1.0,
        "freeze": 0.0,
        "freeze_cpu": 0.0,
        "memory": 0,
        "server": SEEN,
    }
    machine = {"python": "3", "cpus": 2, "load": 0.0}

    text = report.write({"full": True, "rounds": 1, "machine": machine, "runs": [{**run, **figures}]})

    assert f"| CPU a request, µs, 100 at once | ≤ 220 | {seconds * 1e6:.0f} | {verdict} |" in text


def test_every_bar_of_the_store_is_held_against_something():
    class Ones(dict):
        def __missing__(self, name):
            return 1.0

    jobs = [job for group in plan.FULL.jobs("store", peers=False) for job in group]
    machine = {"python": "3", "cpus": 2, "load": 0.0}

    runs = [Ones(job, round=0) for job in jobs]
    text = report.write({"full": True, "rounds": 1, "machine": machine, "runs": runs})

    bars = text.partition("### The bar")[2].splitlines()
    assert sum(line.endswith(("| met |", "| missed |")) for line in bars) == 4 + 1 + 2 + 2 + 2


@pytest.mark.parametrize(
    "contestant", [job["contestant"] for group in plan.QUICK.jobs("mesh", peers=False) for job in group]
)
def test_agents_handle_as_many_messages_as_they_are_said_to(contestant):
    async def work() -> None:
        play = messaging.stage(contestant, 5 if contestant == messaging.RING else 2)
        assert [await play(n) for n in (10, 2, 40)] == [10, 2, 40]

    asyncio.run(work())


def test_every_bar_of_the_mesh_is_held_against_something():
    figures = {"cpu": 29e-4, "wall": 1.0, "freeze": 0.0, "freeze_cpu": 0.0, "memory": 3e6, "n": 100, "round": 0}
    (jobs,) = plan.FULL.jobs("mesh", peers=False)
    machine = {"python": "3", "cpus": 2, "load": 0.0}

    text = report.write({"full": True, "rounds": 1, "machine": machine, "runs": [{**job, **figures} for job in jobs]})

    bars = text.partition("### The bar")[2].splitlines()
    assert [sum(line.endswith(end) for line in bars) for end in ("| met |", "| missed |")] == [5, 5]


def test_the_meter_sees_a_loop_that_stands_still_and_memory_that_came_and_went():
    async def work() -> dict[str, float]:
        earlier = bytearray(b"x" * 300_000_000)
        del earlier
        with Meter() as meter:
            await asyncio.sleep(0)
            sum(number * number for number in range(300_000))
            block = bytearray(b"x" * 50_000_000)
            del block
        return meter.figures

    figures = asyncio.run(work())

    assert figures["freeze_cpu"] > figures["loop"] / 2, "all of it was in one piece"
    assert figures["freeze"] <= figures["wall"]
    assert 50_000_000 <= figures["memory"] < 150_000_000


# -- nobody outside --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "arguments"),
    [
        ("socket.connect", (None, ("192.0.2.1", 80))),
        ("socket.connect", (None, ("2001:db8::1", 80, 0, 0))),
        ("socket.sendto", (None, ("192.0.2.1", 53))),
        ("socket.getaddrinfo", ("api.example.com", 443, 0, 0, 0)),
    ],
)
def test_a_contestant_reaches_no_other_machine(event, arguments):
    with pytest.raises(PermissionError, match="loopback alone"):
        child.loopback_only(event, arguments)


@pytest.mark.parametrize(
    ("event", "arguments"),
    [
        ("socket.connect", (None, ("127.0.0.1", 80))),
        ("socket.connect", (None, "/run/some.socket")),
        ("socket.sendmsg", (None, None)),
        ("socket.getaddrinfo", ("localhost", 80, 0, 0, 0)),
        ("open", ("192.0.2.1", "r", 0)),
    ],
)
def test_a_contestant_may_use_the_loopback(event, arguments):
    child.loopback_only(event, arguments)


# -- the load server -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def load() -> Iterator[server.LoadServer]:
    with server.running() as running:
        yield running


@pytest.fixture
def connection(load) -> Iterator[http.client.HTTPConnection]:
    load.stats()
    address = load.base_url(0).split("/")[2]
    connection = http.client.HTTPConnection(address, timeout=10)
    yield connection
    connection.close()


def post(connection: http.client.HTTPConnection, path: str) -> tuple[int, bytes]:
    connection.request("POST", path, body=b'{"messages": []}')
    response = connection.getresponse()
    return response.status, response.read()


@needs_server
def test_the_load_server_answers_on_one_connection_and_counts(load, connection):
    bodies = [post(connection, f"/d{delay}/v1/chat/completions") for delay in (0, 1, 0)]

    assert {status for status, _ in bodies} == {200}
    choice = json.loads(bodies[0][1])["choices"][0]
    assert choice["message"]["content"].startswith(contestants.ANSWER)
    stats = load.stats()
    assert 0 < stats.pop("cpu") < 1_000_000, "microseconds of its own"
    assert stats == {"requests": 3, "refused": 0, "accepted": 2, "peak": 1}
    assert load.stats()["requests"] == 0, "counts begin anew when they were asked for"


@needs_server
def test_the_load_server_refuses_what_it_does_not_know(load, connection):
    assert post(connection, "/v1/responses")[0] == 404
    assert load.stats()["refused"] == 1


@needs_server
def test_the_load_server_counts_who_is_waiting_and_forgets_who_left(load):
    address = load.base_url(0).split("/")[2]
    waiting = [http.client.HTTPConnection(address, timeout=10) for _ in range(3)]
    load.stats()
    for connection in waiting:
        connection.request("POST", "/d60000/v1/chat/completions", body=b"{}")
    while load.stats()["peak"] < 3:
        pass
    for connection in waiting:
        connection.close()
    while load.stats()["peak"]:
        pass


@needs_server
def test_the_load_server_reads_a_request_in_pieces_and_two_in_one(connection):
    connection.connect()
    whole = b"POST /d0/v1/chat/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
    for piece in (whole[:10], whole[10:-1], whole[-1:] + whole + whole):
        connection.sock.sendall(piece)
    received = b""
    while received.count(b"HTTP/1.1 200 OK") < 3 or not received.endswith(b"}"):
        received += connection.sock.recv(65536)


@needs_server
def test_the_load_server_ends_with_whoever_started_it():
    with server.running() as load:
        load.stats()
    with pytest.raises(OSError, match="refused"):
        load.stats()
