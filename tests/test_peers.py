"""What the table says of the others, and of ours beside them, asked again. Minutes; it needs the peers' environment."""

import json
import re
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


NAMES = """
import importlib, json, sys

def public(module):
    return [name for name in dir(importlib.import_module(module)) if not name.startswith("_")]

print(json.dumps({
    name: sum(map(public, modules), []) for name, modules in json.loads(sys.argv[1]).items()
}))
"""


@pytest.mark.parametrize("name", USERS)
@pytest.mark.parametrize("question", QUESTIONS)
def test_it_is_as_the_table_says(question, name):
    committed = table.load()["seen"][question][name]

    seen = QUESTIONS[question](name)

    assert table.alike(question, seen, committed), f"seen now: {seen}; in the table: {committed}"


def test_what_a_yes_names_is_there():
    names = [name for cells in table.LOOKED_UP.values() for cell in cells[1:] for name in cell.there]

    assert installed(RESOLVE, [*names, "litellm.no_such_name"]) == ["litellm.no_such_name"]


def test_what_was_not_found_has_no_public_name():
    public = installed(NAMES, table.PUBLIC)

    for row, words in table.WORDS.items():
        cells = dict(zip(USERS, table.LOOKED_UP[row], strict=True))
        found = {name for name in table.PUBLIC if any(re.search(words, each, re.IGNORECASE) for each in public[name])}
        assert found <= {name for name, cell in cells.items() if cell != table.NOT_FOUND}, row
        assert found or all(cells[name] == table.NOT_FOUND for name in table.PUBLIC), row  # the words would find it


def installed(code, given):
    """What that code, run where the peers are, prints last."""
    command = [environment.python_with_peers(), "-W", "ignore", "-c", code, json.dumps(given)]
    done = subprocess.run(command, env=environment.bare(), capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout.splitlines()[-1])
