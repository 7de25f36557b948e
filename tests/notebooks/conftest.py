"""Where a tutorial runs here: beside the others, with a store and an IPython profile of its own."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def jupyter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a test's own kernels are looked for."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("CEYLON_NB_STORE", str(tmp_path / "answers.sqlite"))
    return tmp_path
