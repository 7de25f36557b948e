"""The environment that the contestants share, made when first needed and kept beside this file in ``.venv``."""

import hashlib
import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

from . import peers

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
REQUIREMENTS = HERE / "requirements.txt"
HOME = HERE / ".venv"

PERSONAL = (
    *("CEYLON_NB_", "OLLAMA_", "OPENAI_", "PYTHON", "SSL_", "REQUESTS_"),
    *("AIOHTTP_", "LANGCHAIN_", "LANGSMITH_", "LITELLM_"),
)
"""Settings of whoever measures, which no contestant may see. Proxies neither."""


def python_with_peers() -> str:
    """The interpreter of an environment that has the peers; made anew when what belongs into it has changed."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    wanted = "\n".join([sys.version, REQUIREMENTS.read_text(), *dependencies])
    stamp = HOME / "made-of"
    mark = hashlib.sha256(wanted.encode()).hexdigest()
    python = HOME / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != mark:
        print(f"Making the peers' environment in {HOME.relative_to(ROOT)} …", file=sys.stderr)
        venv.create(HOME, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-qq", "-r", REQUIREMENTS, *dependencies], check=True)
        stamp.write_text(mark)
    return str(python)


def bare() -> dict[str, str]:
    """The environment variables of a contestant."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(PERSONAL) and not name.lower().endswith("_proxy")
    }
    return {**kept, **peers.SETTINGS, "PYTHONPATH": str(ROOT)}
