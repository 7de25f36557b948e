"""A session on Binder: what is pinned, what the badge leads to, and what comes of it.

Those marked ``binder`` take minutes: repo2docker reads the checkout, and ``binder/simulate.py`` builds what it would
build and runs every notebook there.
"""

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
BINDER = ROOT / "binder"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
REPO2DOCKER = "jupyter-repo2docker==2026.4.0"


def lines() -> list[str]:
    """What is installed there."""
    text = (BINDER / "requirements.txt").read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


PINS = {
    canonicalize_name(name): Version(pin) for name, _, pin in (each.partition("==") for each in lines() if "==" in each)
}


def wanted() -> list[Requirement]:
    """What has to be there, by ``pyproject.toml``."""
    return list(map(Requirement, PYPROJECT["project"]["dependencies"] + PYPROJECT["dependency-groups"]["binder"]))


def imported(notebook: Path) -> set[str]:
    """The libraries that a notebook's cells import."""
    found: set[str] = set()
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type != "code" or cell.source.startswith("%%"):
            continue
        for node in ast.walk(ast.parse(TransformerManager().transform_cell(cell.source))):
            if isinstance(node, ast.Import):
                found |= {each.name.partition(".")[0] for each in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"ceylon_nb"}


# -- pins ------------------------------------------------------------------------------------------------------------


def test_everything_is_pinned_once_and_in_order():
    for line in lines():
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]*==[0-9][0-9a-z.]*", line), line
    names = [line.partition("==")[0] for line in lines()]
    assert len(set(names)) == len(names)
    assert lines() == sorted(lines())


@pytest.mark.parametrize("requirement", wanted(), ids=str)
def test_the_pins_keep_step_with_pyproject(requirement):
    pin = PINS.get(canonicalize_name(requirement.name))
    assert pin is not None, f"{requirement.name} is not pinned: run binder/pin.py"
    assert pin in requirement.specifier, f"{requirement.name} is pinned to {pin}: run binder/pin.py"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_imports_is_pinned(notebook):
    installed = packages_distributions()
    for module in imported(notebook):
        owners = {canonicalize_name(each) for each in installed.get(module, [module])}
        assert owners & PINS.keys(), f"{module}: put it into the group binder of pyproject.toml, and run binder/pin.py"


def test_what_the_pinned_need_is_pinned_too():
    """As far as those are installed here; a missing one would come from the network, in any version."""
    for name in PINS:
        try:
            needs = [Requirement(each) for each in requires(name) or []]
        except PackageNotFoundError:
            continue
        for need in needs:
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                pin = PINS.get(canonicalize_name(need.name))
                assert pin is not None, f"{name} needs {need.name}: run binder/pin.py"
                if version(name) == str(PINS[name]):  # else the pinned one may need another
                    assert pin in need.specifier, f"{name} needs {need}, and {pin} is pinned: run binder/pin.py"


# -- files -----------------------------------------------------------------------------------------------------------


def test_its_python_is_one_that_is_supported():
    name, _, python = (BINDER / "runtime.txt").read_text().strip().partition("-")
    assert name == "python"
    assert f"Programming Language :: Python :: {python}" in PYPROJECT["project"]["classifiers"]
    assert f"for Python {python}." in (BINDER / "requirements.txt").read_text().splitlines()[0], "run binder/pin.py"


def test_post_build_is_a_script_that_can_be_run():
    script = BINDER / "postBuild"
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    bash = shutil.which("bash")
    assert bash
    subprocess.run([bash, "-n", script], check=True)


def test_the_overrides_name_settings_that_jupyterlab_has():
    share = Path(sys.prefix) / "share" / "jupyter" / "lab" / "schemas"
    for plugin, settings in json.loads((BINDER / "overrides.json").read_text()).items():
        package, _, name = plugin.partition(":")
        schema = json.loads((share / package / f"{name}.json").read_text())
        for key, value in settings.items():
            allowed = [each["const"] for each in schema["properties"][key].get("oneOf", [])] or [True, False]
            assert value in allowed, key


def test_the_badge_opens_the_index_of_the_repository_that_pyproject_names():
    repository = PYPROJECT["project"]["urls"]["Repository"].removeprefix("https://github.com/")
    badge = "[![Binder](https://mybinder.org/badge_logo.svg)]"
    opens = "notebooks/index.ipynb"
    readme = (ROOT / "README.md").read_text()
    assert f"{badge}(https://mybinder.org/v2/gh/{repository}/HEAD?urlpath=lab/tree/{opens})" in readme
    assert readme.count("mybinder.org/v2") == 1
    assert (ROOT / opens).exists()


# -- what comes of it ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def repo2docker(request):
    """In an environment of its own, kept in pytest's cache."""
    mark = hashlib.sha256(f"{sys.version} {sys.prefix} {REPO2DOCKER}".encode()).hexdigest()[:8]
    home = Path(request.config.cache.mkdir("binder")) / f"repo2docker-{mark}"
    made = home / "made"
    if not made.exists():
        venv.create(home, clear=True, with_pip=True)
        subprocess.run([home / "bin" / "python", "-m", "pip", "install", "-q", REPO2DOCKER], check=True)
        made.touch()
    return home / "bin" / "repo2docker"


@pytest.fixture
def checkout(tmp_path):
    """The files that git tracks, as they are now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.binder
@pytest.mark.timeout(600)
def test_repo2docker_accepts_the_checkout(repo2docker, checkout):
    def read():
        command = [repo2docker, "--no-build", "--debug", "--user-id", "1000", "--user-name", "jovyan", "."]
        return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)

    done = read()
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    runtime = (BINDER / "runtime.txt").read_text().strip()
    steps = [
        f"Building conda environment for {runtime.replace('-', '=')}",
        'RUN ${KERNEL_PYTHON_PREFIX}/bin/pip install --no-cache-dir -r "binder/requirements.txt"',
        "COPY --chown=1000:1000 src/ ${REPO_DIR}/",
        "RUN ./binder/postBuild",
    ]
    at = [said.find(step) for step in steps]
    assert -1 not in at, said
    assert at[1:] == sorted(at[1:])
    assert "pip install --no-cache-dir ." not in said, "postBuild installs the package"

    (checkout / "binder" / "runtime.txt").write_text("python-2.2\n")
    assert read().returncode != 0


@pytest.mark.binder
@pytest.mark.timeout(3600)
def test_a_session_answers_and_runs_every_notebook_within_its_bounds():
    done = subprocess.run([sys.executable, BINDER / "simulate.py"], capture_output=True, text=True, check=False)
    if done.returncode == 2:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    for notebook in NOTEBOOKS:
        assert f"notebooks/{notebook.name} " in done.stdout
    print(done.stdout)
