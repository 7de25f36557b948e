"""What the table says of the others, and of ours beside them, asked again. Minutes; it needs the peers' environment."""

import json
import subprocess

import pytest

from .benchmarks import environment
from .peers import table
from .peers.questions import QUESTIONS
from .peers.users import USERS

pytestmark = [pytest.mark.peers, pytest.mark.timeout(900)]  # the first one makes their environment

RESOLVE = """
import importlib, json, sys

def there(name):
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False

print(json.dumps([name for name in json.loads(sys.argv[1]) if not there(name)]))
"""


@pytest.mark.parametrize("name", USERS)
@pytest.mark.parametrize("question", QUESTIONS)
def test_it_is_as_the_table_says(question, name):
    committed = table.load()["seen"][question][name]

    seen = QUESTIONS[question](name)

    assert table.alike(question, seen, committed), f"seen now: {seen}; in the table: {committed}"


def test_what_a_yes_names_is_there():
    names = [cell.there for cells in table.LOOKED_UP.values() for cell in cells[1:] if cell.there]
    command = [
        environment.python_with_peers(),
        "-W",
        "ignore",
        "-c",
        RESOLVE,
        json.dumps([*names, "litellm.no_such_name"]),
    ]

    done = subprocess.run(command, env=environment.bare(), capture_output=True, text=True, timeout=120, check=True)

    assert json.loads(done.stdout.splitlines()[-1]) == ["litellm.no_such_name"]
