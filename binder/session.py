"""What a visitor's browser gets from a server: ``python binder/session.py URL TOKEN NOTEBOOK``.

Looks at the page that the README's badge leads to, at the panel's JavaScript, at whether notebooks are trusted and
JupyterLab asks nothing, and has a kernel of that server answer a question. Part of ``simulate.py``, which runs it where
the server is.
"""

import json
import re
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from jupyter_client import BlockingKernelClient
from jupyter_core.paths import jupyter_runtime_dir

QUESTION = """
from ceylon_nb import LlmAgent
frame = await LlmAgent("clerk", "demo::tutor", system_prompt="Classify the review.").map(["It boils water."], view=None)
print(*frame["reply"], *frame["status"])
"""
PATIENCE = 60.0
"""Seconds until a server or a kernel is there."""


class Server:
    """A server of Jupyter's."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url, token

    def ask(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        """Its answer to a request; a refusal raises."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Authorization": f"token {self.token}"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return bytes(response.read())

    def wait(self) -> None:
        """Until it answers."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self.ask("api/status")
            except urllib.error.URLError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)
            else:
                return


def look(server: Server, notebook: str) -> None:
    """At the page, and at all that it will ask for."""
    page = server.ask(f"lab/tree/{notebook}").decode()
    found = re.search(r'id="jupyter-config-data"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert found, "not the page of JupyterLab"
    extensions = {each["name"]: each["load"] for each in json.loads(found[1])["federated_extensions"]}
    for name in ("anywidget", "@jupyter-widgets/jupyterlab-manager"):
        assert server.ask(f"lab/extensions/{name}/{extensions[name]}"), name
    settings = json.loads(server.ask("lab/api/settings/@jupyterlab/apputils-extension:notification"))
    assert settings["schema"]["properties"]["fetchNews"]["default"] == "false", "asks for news"
    assert server.ask(f"api/contents/{notebook}?content=0")
    for each in sorted(Path(notebook).parent.glob("*.ipynb")):
        cells = json.loads(server.ask(f"api/contents/{each}"))["content"]["cells"]
        # one without output is trusted whoever wrote it
        distrusted = [cell for cell in cells if cell.get("outputs") and not cell["metadata"]["trusted"]]
        assert not distrusted, f"{each} is not trusted"


def answer(server: Server, notebook: str) -> str:
    """What a kernel of that server prints, beside that notebook."""
    session = {"path": notebook, "name": notebook, "type": "notebook", "kernel": {"name": "python3"}}
    kernel = json.loads(server.ask("api/sessions", session))["kernel"]["id"]
    connection = Path(jupyter_runtime_dir()) / f"kernel-{kernel}.json"
    client = BlockingKernelClient(connection_file=str(connection))
    client.load_connection_file()
    client.start_channels(stdin=False, hb=False)  # it is begun only now, and would be taken for dead
    printed: list[str] = []
    try:
        client.wait_for_ready(timeout=PATIENCE)
        reply = client.execute_interactive(
            QUESTION,
            timeout=PATIENCE,
            allow_stdin=False,
            output_hook=lambda message: printed.append(message["content"].get("text", "")),
        )
    finally:
        client.stop_channels()
    assert reply["content"]["status"] == "ok", reply["content"]
    return "".join(printed).strip()


if __name__ == "__main__":
    url, token, opened = sys.argv[1:]
    server = Server(url, token)
    server.wait()
    look(server, opened)
    said = answer(server, opened)
    assert said == "neutral ok", said
