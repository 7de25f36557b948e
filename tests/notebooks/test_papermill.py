"""The tutorials under papermill, on the kernel of this environment."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from .tutorials import check, code_cells, each_tutorial, is_meant_to_raise, name_kernel

pytestmark = pytest.mark.timeout(300)  # some tutorials start processes of their own

OF_PAPERMILL = "papermill-error-cell-tag"  # the cells in which it says what went wrong


@each_tutorial
def test_a_tutorial(tutorial: Path, jupyter: Path, request: pytest.FixtureRequest) -> None:
    """Papermill goes on after an error that is meant, as the tag says; but in the end it calls every error one."""
    name_kernel(jupyter, "here", Path(sys.executable))
    result = jupyter / "executed.ipynb"
    error = None
    try:
        papermill.execute_notebook(
            tutorial, result, kernel_name="here", cwd=tutorial.parent, execution_timeout=60, progress_bar=False
        )
    except PapermillExecutionError as raised:
        error = raised
    executed = nbformat.read(result, as_version=4)
    executed.cells = [cell for cell in executed.cells if OF_PAPERMILL not in cell.metadata.tags]
    check(executed, tutorial, request.session)
    assert (error is not None) == any(map(is_meant_to_raise, code_cells(executed))), error
