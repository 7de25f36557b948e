"""``python -m tests.benchmarks``: runs all of it, prints tables, writes a file, draws it. ``--quick``: seconds."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import disk, environment, machine, plan, plot, report, server, summary
from .child import WARM_UP
from .figures import Run

RESULTS = environment.HERE / "results.json"
PLOT = environment.ROOT / "docs" / "benchmarks.svg"
LONGEST_RUN = 600
"""Seconds, for one contestant in one round."""
UNAVAILABLE = 69
"""`os.EX_UNAVAILABLE`: no compiler, or not Linux."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 whatever the figures say, 1 if a contestant failed, UNAVAILABLE if nothing can be measured here."""
    arguments = parse(argv)
    if arguments.figures is not None:
        show(json.loads(arguments.figures.read_text()), arguments)
        return 0
    lacking = server.missing()
    if lacking:
        print(f"benchmarks: {lacking}.", file=sys.stderr)
        return UNAVAILABLE
    results = measured(arguments)
    whole = not (arguments.quick or arguments.without_peers or arguments.part)
    arguments.json = arguments.json or (RESULTS if whole else None)
    arguments.plot = arguments.plot or (PLOT if whole else None)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1))
    show(results, arguments)
    return 1 if results["failed"] else 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny size, without peers: see that it works")
    parser.add_argument("--without-peers", action="store_true", help="only what this environment has; makes none")
    parser.add_argument("--rounds", type=int, default=plan.FULL.rounds, help="how often each contestant runs")
    parser.add_argument("--part", choices=plan.PARTS, help="only this; and no file is written unless asked for")
    parser.add_argument("--json", type=Path, metavar="FILE", help=f"where all figures go, else {RESULTS.name}")
    parser.add_argument("--plot", type=Path, metavar="FILE", help=f"draw what the README shows, else docs/{PLOT.name}")
    parser.add_argument("--summary", action="store_true", help="print the README's small table instead of all tables")
    parser.add_argument(
        "--from", type=Path, metavar="FILE", dest="figures", help="measure nothing: these figures, written earlier"
    )
    return parser.parse_args(argv)


def show(results: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Print tables, and draw."""
    print((summary if arguments.summary else report).write(results))
    if arguments.plot is not None:
        plot.save(results, arguments.plot)


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all that was asked for; a contestant that failed has a sentence instead of figures."""
    size = plan.QUICK if arguments.quick else replace(plan.FULL, rounds=arguments.rounds)
    peers = not (arguments.quick or arguments.without_peers)
    python = environment.python_with_peers() if peers else sys.executable
    described, failed = machine.described(python), []
    runs = measure(size, python, arguments.part, failed, peers=peers)
    return {**described, "full": not arguments.quick, "rounds": size.rounds, "failed": failed, "runs": runs}


class ContestantFailed(Exception):
    """A run gave no figures, or did not do what it was asked."""


def measure(size: plan.Plan, python: str, part: str | None, failed: list[str], *, peers: bool) -> list[Run]:
    """Run every group of contestants in turns, every round; adds a sentence to `failed` for each run that did."""
    runs = []
    with server.running() as load, disk.shelf() as shelf:
        for group in size.jobs(part, peers=peers):
            if group[0]["kind"] == "tls" and load.authority is None:
                print(f"benchmarks: no TLS: {server.missing_tls()}.", file=sys.stderr)
                continue
            for number in range(1 if group[0]["kind"] in plan.ONCE else size.rounds):
                for job in group:
                    print(f"round {number + 1} of {size.rounds}: {_title(job)}", file=sys.stderr)
                    began = time.perf_counter()
                    try:
                        figures = run(python, job, load, shelf)
                    except ContestantFailed as error:
                        print(f"benchmarks: {error}", file=sys.stderr)
                        failed.append(str(error).splitlines()[0])
                        continue
                    runs.append({**job, "round": number, "took": time.perf_counter() - began, **figures})
    return runs


def run(python: str, job: plan.Job, load: server.LoadServer, shelf: disk.Shelf) -> dict[str, Any]:
    """One contestant, once.

    Raises
    ------
    ContestantFailed
        It ended with an error, or did not do what it was asked.
    """
    if job["kind"] == "import":
        return _child([python, "-P", str(environment.HERE / "importing.py"), job["contestant"]], job)
    load.stats()
    told, variables = dict(job), dict[str, str]()
    over_http = job["kind"] in ("http", "tls")
    if over_http:
        told["base_url"] = load.base_url(job["delay"], tls=job["kind"] == "tls")
    if job["kind"] == "tls":
        variables["SSL_CERT_FILE"] = str(load.authority)  # all of them trust whom it names, and verify
    if job["kind"] == "stream":
        told["base_url"] = load.stream_url(job["apart"], job["tokens"])
    if job["kind"] == "start":
        told["base_url"] = load.base_url(job["delay"])
    if job.get("stored"):
        told["store"] = str(shelf.store(job["stored"]))
    if job.get("commit"):
        variables |= shelf.slow_disk(job["commit"])
    figures = _child([python, "-m", "tests.benchmarks.child", json.dumps(told)], job, variables)
    if over_http:
        figures["server"] = load.stats()
    check(job, figures)
    return figures


def check(job: plan.Job, figures: dict[str, Any]) -> None:
    """Hold a run against its job: figures of half a job are no figures.

    Raises
    ------
    ContestantFailed
        Not every prompt was answered, or not by one request, or more at once than allowed; or not by the store, or the
        disk was quicker than it should be.
    """
    faults = []
    if "n" in job and figures["answered"] != job["n"]:
        faults.append(f"{figures['answered']:,} answers")
    if "server" in figures:
        seen = figures["server"]
        asked = seen["requests"] + seen["refused"] - WARM_UP
        if asked != job["n"]:
            faults.append(f"{asked:,} requests")
        if seen["peak"] > job["at_once"]:
            faults.append(f"{seen['peak']:,} at once")
    if "found" in figures and figures["found"] != (job["n"] if job["kind"] == "deciding" else 0):
        faults.append(f"{figures['found']:,} from the store")
    if figures.get("commit", 0.0) < job.get("commit", 0.0):
        faults.append(f"a commit in {figures['commit'] * 1000:.0f} ms")
    if faults:
        raise ContestantFailed(f"{_title(job)}: {', '.join(faults)}.")


def _child(command: list[str], job: plan.Job, variables: dict[str, str] | None = None) -> dict[str, Any]:
    try:
        with disk.folder() as folder:  # with it goes whatever store was made there
            done = subprocess.run(
                command,
                cwd=folder,
                env={**environment.bare(), **(variables or {})},
                capture_output=True,
                text=True,
                timeout=LONGEST_RUN,
                check=True,
            )
    except subprocess.CalledProcessError as error:
        raise ContestantFailed(f"{_title(job)} ended with {error.returncode}:\n{error.stderr}") from error
    except subprocess.TimeoutExpired as error:
        raise ContestantFailed(f"{_title(job)} did not end within {LONGEST_RUN} s.") from error
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _title(job: plan.Job) -> str:
    parts = [job["kind"], job["contestant"]]
    if "n" in job:
        parts.append(f"{job['n']:,} prompts, {job['at_once']:,} at once")
    if "delay" in job:
        parts.append(f"{job['delay'] * 1000:g} ms")
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
