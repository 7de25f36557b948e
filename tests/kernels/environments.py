"""An environment for each kernel: made once, kept in pytest's cache, made anew when the dependencies change."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from itertools import product
from pathlib import Path

import findpython

ROOT = Path(__file__).parents[2]

IPYKERNELS = ("6.31", "7.3", "7.4")
PYTHONS = ("3.11", "3.12", "3.13")
RUNNING = f"{sys.version_info[0]}.{sys.version_info[1]}"
"""The Python that runs the tests."""
MATRIX = [f"{ipykernel}-{python}" for ipykernel, python in product(IPYKERNELS, PYTHONS)]
OLDEST = f"{IPYKERNELS[0]}-{RUNNING}"
ALONE = [f"{ROOT}[plot]", "fastapi", "nbclient", "nbconvert", "nbval", "nest-asyncio", "pytest", "uvicorn"]
"""What tests and tutorials need of an environment that borrows nothing."""


class NoSuchPython(Exception):
    """It is not installed on this machine."""


def interpreter(name: str, cache: Path) -> Path:
    """The Python of an environment by its name: ``"here"``, the one that runs the tests; or ``"6.31-3.11"``."""
    if name == "here":
        return Path(sys.executable)
    ipykernel, version = name.split("-")
    base = _base(version)
    folder = cache / f"{name}-{_fingerprint(base, sys.prefix if version == RUNNING else '')}"
    if not folder.exists():
        making = folder.with_name(f"{folder.name}-{os.getpid()}")  # another run may be making it, too
        _run(base, "-m", "venv", "--clear", making)
        wanted: list[str | Path] = [f"ipykernel=={ipykernel}.*"]
        if version == RUNNING:
            _lend(making)
        else:
            wanted += ["-e", *ALONE]
        _run(_python(making), "-m", "pip", "install", "-q", *wanted)
        try:
            making.rename(folder)
        except OSError:  # the other one was faster
            shutil.rmtree(making)
    return _python(folder)


def _lend(environment: Path) -> None:
    """Let it see what the running environment has, behind its own: then it needs but a kernel, a minute less."""
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)}))
    lent = sysconfig.get_path("purelib")
    (packages / "lent.pth").write_text(f"import site; site.addsitedir({lent!r})\n")


def _base(version: str) -> Path:
    """A Python of that version; of the running one's it is that one, which is always there."""
    if version == RUNNING:
        return Path(sys.executable)
    found = findpython.find(*map(int, version.split(".")))
    if found is None:
        raise NoSuchPython(f"no Python {version} here")
    return Path(found.executable)


def _python(environment: Path) -> Path:
    return environment / ("Scripts" if os.name == "nt" else "bin") / "python"


def _fingerprint(base: Path, lender: str) -> str:
    """Changes with what is to be installed, with the Python it is for, with who lends, and with the place."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    # many environments may stand on one Python: it is that which counts
    return hashlib.sha256(f"{base.resolve()} {lender} {ALONE} {dependencies}".encode()).hexdigest()[:8]


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stderr}")
