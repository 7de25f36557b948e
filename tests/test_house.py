"""The house stands, and its walls hold: bad imports are planted in a copy of the package and refused."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = "Each floor knows only the floors below it"
DOOR = "Nobody inside goes out by the front door"
HTTP = "Only http and what is below it touch the HTTP libraries, and the test server aiohttp's server side"
PANDAS = "Only frames and tables touch pandas"
NOTEBOOK = "Only views and kernel touch IPython and the widgets"
TQDM = "Only views touch tqdm"
PLOTS = "Only views touch matplotlib"


@pytest.fixture
def house(tmp_path):
    """A copy of the package, to plant in."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "ceylon_nb", tmp_path / "ceylon_nb", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def broken_contracts(house: Path) -> tuple[set[str], str]:
    """What lint-imports finds broken there, and all it says."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--no-cache", "--no-logo"],
        cwd=house,  # comes first on the linter's path, before the installed package
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert "Contracts: " in output, output
    return set(re.findall(r"^(.+) BROKEN", output, re.MULTILINE)), output


def test_the_house_stands(house):
    broken, output = broken_contracts(house)
    assert not broken, output


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        pytest.param("errors.py", "import ceylon_nb.messages", FLOORS, id="up one floor"),
        pytest.param("engine.py", "from .agents import LlmAgent", FLOORS, id="up, relative"),
        pytest.param("frames.py", "def late():\n    from .views import panel", FLOORS, id="up, inside a function"),
        pytest.param("limits.py", "from . import retry", FLOORS, id="next door"),
        pytest.param("agents/planted.py", "import ceylon_nb.views", FLOORS, id="next door, from a package"),
        pytest.param("stray.py", "", FLOORS, id="a new module without a floor"),
        pytest.param("stray/__init__.py", "", FLOORS, id="a new package without a floor"),
        pytest.param("views/planted.py", "from ceylon_nb import batch", DOOR, id="the front door"),
        pytest.param("providers/planted.py", "import httpx", HTTP, id="httpx in a provider"),
        pytest.param("providers/planted.py", "from httpx_sse import SSEDecoder", HTTP, id="httpx_sse in a provider"),
        pytest.param("loop.py", "from aiohttp import web", HTTP, id="aiohttp in loop"),
        pytest.param("testing/planted.py", "import httpx", HTTP, id="httpx in the test server"),
        pytest.param("engine.py", "def late():\n    import pandas as pd", PANDAS, id="pandas in engine"),
        pytest.param("agents/planted.py", "from IPython.display import display", NOTEBOOK, id="IPython in an agent"),
        pytest.param("frames.py", "import ipywidgets", NOTEBOOK, id="widgets in frames"),
        pytest.param("engine.py", "import anywidget", NOTEBOOK, id="anywidget in engine"),
        pytest.param("engine.py", "from tqdm.auto import tqdm", TQDM, id="tqdm in engine"),
        pytest.param("handle.py", "def late():\n    import matplotlib.pyplot as plt", PLOTS, id="matplotlib in handle"),
    ],
)
def test_a_bad_import_is_refused(house, module, line, contract):
    path = house / "ceylon_nb" / module
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    broken, output = broken_contracts(house)
    assert contract in broken, output


@pytest.mark.parametrize(("ci", "outcome"), [("true", "1 failed"), ("", "1 skipped")])
def test_ci_does_not_skip_browser_tests(tmp_path, ci, outcome):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    planted = "import pytest\n@pytest.mark.browser\ndef test_panel(): pytest.skip('no Chromium')\n"
    (tmp_path / "test_planted.py").write_text(planted, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", "test_planted.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "CI": ci}, capture_output=True, text=True, check=False
    )
    assert outcome in done.stdout.splitlines()[-1], done.stdout + done.stderr
    assert "no Chromium" in done.stdout
