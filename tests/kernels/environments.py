"""An environment for each kernel: made once, kept in pytest's cache, made anew when the dependencies change."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import findpython

ROOT = Path(__file__).parents[2]

IPYKERNELS = ("6.31", "7.3", "7.4")
PYTHONS = ("3.11", "3.12", "3.13")


class CannotBeMade(Exception):
    """There is no such Python here, or pip could not install into it."""


def interpreter(name: str, cache: Path) -> Path:
    """The Python of an environment by its name: ``"here"``, the one that runs the tests; or ``"6.31-3.11"``."""
    if name == "here":
        return Path(sys.executable)
    ipykernel, version = name.split("-")
    base = findpython.find(*map(int, version.split(".")))
    if base is None:
        raise CannotBeMade(f"no Python {version} here")
    folder = cache / f"{name}-{_fingerprint(base.executable)}"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    made = folder / "made"
    if not made.exists():
        shutil.rmtree(folder, ignore_errors=True)
        _run(base.executable, "-m", "venv", folder)
        _run(python, "-m", "pip", "install", "-q", f"ipykernel=={ipykernel}.*", "nest-asyncio", "-e", ROOT)
        made.touch()
    return python


def _fingerprint(base: Path) -> str:
    """Changes with what is to be installed, with the Python it is for, and with the place it stands in."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return hashlib.sha256(f"{base} {ROOT} {dependencies}".encode()).hexdigest()[:8]


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBeMade(f"{' '.join(map(str, command))}\n{done.stderr}")
