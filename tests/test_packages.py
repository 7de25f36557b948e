"""The sdist and the wheel: what is in them, and that it works when it is installed from them. Nothing is fetched."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from packaging.metadata import Metadata

import ceylon_nb

ROOT = Path(__file__).parent.parent
NAME = f"ceylon_nb-{ceylon_nb.__version__}"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
STAYS = (".ci/", ".pre-commit-config.yaml")
"""What only a clone has."""

STRAY = """
.venv/lib/thing.py .ceylon_nb/answers.sqlite notebooks/.ceylon_nb/answers.sqlite .pytest_cache/README.md
notebooks/.ipynb_checkpoints/01-first-answers-checkpoint.ipynb ceylon_nb/__pycache__/loop.cpython-311.pyc
ceylon_nb/.ceylon_nb/answers.sqlite dist/ceylon_nb-0.0.1.tar.gz tests/__pycache__/virtual.cpython-311.pyc
tests/benchmarks/.venv/bin/python tests/benchmarks/results.json ceylon_nb.egg-info/PKG-INFO notes.txt
""".split()
"""What lies about in a folder where somebody works."""


def python(*arguments: str | Path, path: Path | None = None, cwd: Path | None = None) -> str:
    """Run the tests' Python, with a folder in front of its path, and what it prints."""
    environ = {**os.environ, "PYTHONPATH": str(path or ""), "PIP_NO_INDEX": "1"}
    command = [sys.executable, "-P", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """The repository, and what lies about in it."""
    folder = tmp_path_factory.mktemp("source")
    command = "git ls-files -z --cached --others --exclude-standard".split()
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no clone: nothing says which files belong to it")
    kept = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    for name in kept:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    for name in STRAY:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("stray")
    return folder, {name for name in kept if not name.startswith(STAYS)}


@pytest.fixture(scope="session")
def built(source, tmp_path_factory):
    """The folder with both."""
    folder = tmp_path_factory.mktemp("built")
    python("-m", "hatchling", "build", "-d", folder, cwd=source[0])
    assert sorted(path.name for path in folder.iterdir()) == [f"{NAME}-py3-none-any.whl", f"{NAME}.tar.gz"]
    return folder


@pytest.fixture(scope="session")
def unpacked(built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(built / f"{NAME}.tar.gz") as sdist:
        sdist.extractall(folder, filter="data")
    return folder / NAME


@pytest.fixture(scope="session", params=["wheel", "sdist"])
def installed(built, request, tmp_path_factory):
    """Where each was installed, without its dependencies, which are in the tests' environment."""
    folder = tmp_path_factory.mktemp("installed")
    package = built / (f"{NAME}-py3-none-any.whl" if request.param == "wheel" else f"{NAME}.tar.gz")
    python(*"-m pip install -q --no-deps --no-build-isolation --target".split(), folder, package, cwd=folder)
    return folder


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def in_wheel(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# -- what is in them -------------------------------------------------------------------------------------------------


def test_the_sdist_is_the_repository(source, unpacked):
    _, kept = source
    assert files(unpacked) == kept | {"PKG-INFO"}
    assert os.access(unpacked / "binder" / "postBuild", os.X_OK)


def test_the_wheel_is_the_package(source, built):
    _, kept = source
    names = set(in_wheel(built / f"{NAME}-py3-none-any.whl"))
    package = {name for name in kept if name.startswith("ceylon_nb/")}
    assert {"ceylon_nb/py.typed", "ceylon_nb/views/panel.js", "ceylon_nb/views/panel.css"} <= package
    about = {f"{NAME}.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    assert names == package | about | {f"{NAME}.dist-info/licenses/LICENSE"}


def test_a_wheel_from_the_sdist_is_the_same(built, unpacked, tmp_path):
    python("-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=unpacked)
    (again,) = tmp_path.glob("*.whl")
    assert in_wheel(again) == in_wheel(built / again.name)


def test_the_metadata_is_valid_and_says_what_pyproject_says(built, unpacked):
    about = in_wheel(built / f"{NAME}-py3-none-any.whl")[f"{NAME}.dist-info/METADATA"]
    assert about == (unpacked / "PKG-INFO").read_bytes()
    metadata = Metadata.from_email(about, validate=True)
    project = PYPROJECT["project"]
    assert metadata.name == "ceylon-nb"
    assert str(metadata.version) == ceylon_nb.__version__
    assert (metadata.license_expression, metadata.license_files) == ("MIT", ["LICENSE"])
    assert str(metadata.requires_python) == project["requires-python"]
    assert metadata.project_urls == project["urls"]
    assert set(metadata.provides_extra or ()) == set(project["optional-dependencies"])
    always = [each for each in metadata.requires_dist or () if each.marker is None]
    assert len(always) == len(project["dependencies"])


def test_the_readme_is_its_description(built):
    about = in_wheel(built / f"{NAME}-py3-none-any.whl")[f"{NAME}.dist-info/METADATA"]
    metadata = Metadata.from_email(about, validate=True)
    assert metadata.description_content_type == "text/markdown"
    assert (metadata.description or "").strip() == (ROOT / "README.md").read_text().strip()
    assert "<h1>ceylon-nb</h1>" in MarkdownIt("commonmark").enable("table").render(metadata.description or "")


# -- that it works ---------------------------------------------------------------------------------------------------


def test_it_is_that_one_that_is_imported_with_its_panel(installed, tmp_path):
    show = """
import ceylon_nb
async def double(number): return 2 * number
panel = ceylon_nb.batch(double, [1, 2], view=None).panel
print(ceylon_nb.__file__, "export default" in panel._esm, ".ceylon-panel" in panel._css, sep=";")
"""
    said = python("-c", show, path=installed, cwd=tmp_path).strip().split(";")
    assert said == [str(installed / "ceylon_nb" / "__init__.py"), "True", "True"]


def test_it_answers(installed, tmp_path):
    assert "Batch(100 ok of 100)" in python("-m", "ceylon_nb", "demo", path=installed, cwd=tmp_path)


@pytest.mark.parametrize("installed", ["wheel"], indirect=True)
def test_its_command_and_its_pytest_plugin_are_found(installed, tmp_path):
    (about,) = importlib.metadata.distributions(path=[str(installed)])
    found = {(each.group, each.name): each.value for each in about.entry_points}
    assert found["console_scripts", "ceylon-nb"] == "ceylon_nb.__main__:main"
    assert found["pytest11", "ceylon_nb"] == "ceylon_nb.testing.plugin"
    (tmp_path / "test_mine.py").write_text(f"""
import ceylon_nb.testing.plugin
from ceylon_nb import LlmAgent
def test_mine(model_server):
    assert ceylon_nb.testing.plugin.__file__.startswith({str(installed)!r})
    model_server.reply = "Yes."
    assert LlmAgent("a", "ollama::mock", base_url=model_server.url).send_message_sync("Well?") == "Yes."
""")
    assert "1 passed" in python(*"-m pytest -q -p no:cacheprovider".split(), path=installed, cwd=tmp_path)


@pytest.mark.timeout(300)  # mypy reads pandas' types anew
@pytest.mark.parametrize("installed", ["wheel"], indirect=True)
def test_a_type_checker_sees_its_types(installed, tmp_path):
    mine = tmp_path / "mine.py"
    right = "from ceylon_nb import LlmAgent\nlength: int = len(LlmAgent('a', 'demo::tutor').send_message_sync('Hi'))\n"
    mine.write_text(right + "wrong: int = LlmAgent('a', 'demo::tutor').send_message_sync('Hi')\n")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-error-summary",
        f"--cache-dir={tmp_path / 'cache'}",
        mine,
    ]
    environ = {**os.environ, "MYPYPATH": "", "PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    (complaint,) = done.stdout.splitlines()
    assert complaint.startswith('mine.py:3: error: Incompatible types in assignment (expression has type "Reply"')
