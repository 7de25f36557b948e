"""The tutorials under nbclient: on the oldest kernel in every run, on request on all kernels and Pythons."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from ..kernels.environments import MATRIX, OLDEST, NoSuchPython, interpreter
from .tutorials import check, each_tutorial, name_kernel

pytestmark = [
    pytest.mark.timeout(300),  # the environment may have to be made
    pytest.mark.parametrize(
        "kernel",
        [pytest.param(name, marks=pytest.mark.slice if name == OLDEST else pytest.mark.kernels) for name in MATRIX],
    ),
]


@each_tutorial
def test_a_tutorial(tutorial: Path, kernel: str, jupyter: Path, request: pytest.FixtureRequest) -> None:
    try:
        name_kernel(jupyter, kernel, interpreter(kernel, Path(request.config.cache.mkdir("kernels"))))
    except NoSuchPython as error:
        pytest.skip(str(error))
    executed = nbformat.read(tutorial, as_version=4)
    client = NotebookClient(
        executed, kernel_name=kernel, timeout=60, resources={"metadata": {"path": str(tutorial.parent)}}
    )
    client.execute()
    check(executed, tutorial, request.session)
