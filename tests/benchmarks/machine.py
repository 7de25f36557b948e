"""On what, with what and when it was measured."""

import json
import os
import platform
import re
import ssl
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import environment

NAMES = re.compile(r"^[\w.-]+", re.MULTILINE)
"""Of the distributions in a requirements file, on whose lines nothing else begins a line but a comment."""
ASK = "import importlib.metadata as of, json, sys; print(json.dumps({d.name: d.version for d in of.distributions()}))"


def described(python: str) -> dict[str, Any]:
    """Everything that a reader of the figures has to know; `python` is the contestants' interpreter."""
    return {
        "began": time.strftime("%Y-%m-%d %H:%M"),
        "machine": {
            "model": model(),
            "cpus": len(os.sched_getaffinity(0)),
            "system": platform.platform(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "openssl": ssl.OPENSSL_VERSION,
            "load": os.getloadavg()[0],
        },
        "versions": versions(python),
    }


def model() -> str:
    """The processor's name for itself, where it has one."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def versions(python: str, wanted: Sequence[str] = ()) -> dict[str, str]:
    """Of ours, and of what the requirements name (or of what is wanted), as far as it is there."""
    import ceylon_nb

    asked = subprocess.run([python, "-c", ASK], env=environment.bare(), capture_output=True, text=True, check=True)
    found = {_normal(name): version for name, version in json.loads(asked.stdout).items()}
    wanted = wanted or NAMES.findall(environment.REQUIREMENTS.read_text())
    there = {name: found[_normal(name)] for name in wanted if _normal(name) in found}
    return {"ceylon-nb": ceylon_nb.__version__, **there}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def words(results: dict[str, Any]) -> str:
    """The head of the tables: a paragraph."""
    machine, said = results["machine"], results.get("versions", {})
    parts = [
        results.get("began"),
        machine.get("model"),
        f"{machine['cpus']} CPUs",
        f"Linux {'.'.join(machine['kernel'].split('.')[:2])}" if "kernel" in machine else None,
        f"Python {machine['python']}",
        *(f"{name} {version}" for name, version in said.items()),
    ]
    return (
        f"{', '.join(filter(None, parts))}. Load {machine['load']:.1f} at the start; medians of {results['rounds']} "
        "rounds, ratios within a round."
    )
