"""Execute the tutorials in place, from top to bottom, as the tests will: ``python notebooks/execute.py [notebook …]``.

What differs from one machine or run to the next is not saved: versions, times, widget models, tracebacks' paths.
"""

import sys
from pathlib import Path

import nbformat
from conftest import nobodys_environment
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbval.kernel import CURRENT_ENV_KERNEL_NAME, NbvalKernelspecManager
from traitlets import default

WIDGET = "application/vnd.jupyter.widget-view+json"


class ThisPython(AsyncKernelManager):
    """Starts the python that runs this, whatever the machine calls "python3"."""

    @default("kernel_spec_manager")
    def _nbval_knows_it(self) -> NbvalKernelspecManager:
        return NbvalKernelspecManager()


def execute(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_manager_class=ThisPython,
        kernel_name=CURRENT_ENV_KERNEL_NAME,
        timeout=60,
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    with nobodys_environment():
        client.execute()
    notebook.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)
            if output.output_type == "error":
                output.traceback = [f"{output.ename}: {output.evalue}"]
    nbformat.write(notebook, path)


if __name__ == "__main__":
    chosen = [Path(name) for name in sys.argv[1:]]
    for path in chosen or sorted(Path(__file__).parent.glob("*.ipynb")):
        print(path)
        execute(path.resolve())
