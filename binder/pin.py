"""Pin what a Binder session installs: ``python binder/pin.py`` writes ``binder/requirements.txt``.

It asks pip, without installing anything, what it would take for the package's own dependencies and for the group
``binder`` in ``pyproject.toml``, on this machine, and writes down all of it, dependencies of dependencies too. So it
has to run on Linux, with the Python that ``binder/runtime.txt`` names.
"""

import json
import platform
import re
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
PYTHON = (HERE / "runtime.txt").read_text().strip().removeprefix("python-")

HEAD = f"""\
# What a Binder session installs, for Python {PYTHON}. Written by binder/pin.py from pyproject.toml; not to be edited.
"""


def wanted() -> list[str]:
    """What the pins are made for, as it stands in ``pyproject.toml``."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [*pyproject["project"]["dependencies"], *pyproject["dependency-groups"]["binder"]]


def pins() -> list[str]:
    """What pip would install for that in an empty environment."""
    pip = f"{sys.executable} -m pip install -q --dry-run --ignore-installed --report -".split()
    report = json.loads(subprocess.run([*pip, *wanted()], stdout=subprocess.PIPE, check=True).stdout)
    found = [(each["metadata"]["name"], each["metadata"]["version"]) for each in report["install"]]
    return sorted(f"{re.sub('[-_.]+', '-', name).lower()}=={version}" for name, version in found)


if __name__ == "__main__":
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if (sys.platform, platform.machine(), here) != ("linux", "x86_64", PYTHON):
        sys.exit(f"Pins are made with Python {PYTHON} on 64-bit Linux, as Binder has it; this is {here}.")
    (HERE / "requirements.txt").write_text(HEAD + "\n".join(pins()) + "\n")
