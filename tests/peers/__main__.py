"""``python -m tests.peers``: asks every library every question, and prints the table; ``--write`` keeps it."""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from typing import Any

from ..benchmarks import environment, machine
from . import table
from .questions import QUESTIONS
from .users import USERS

DISTRIBUTIONS = (
    *("async-batch-llm", "openaivec", "langchain-core", "langchain-openai", "langchain-community"),
    *("chatlas", "litellm", "openai", "ipykernel"),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Ask, print, and write if told to."""
    parser = argparse.ArgumentParser(prog="python -m tests.peers", description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep observed.json, and the table in the README")
    parser.add_argument("--only", choices=QUESTIONS, action="append", help="ask this; all else is as it was observed")
    parser.add_argument("--kept", action="store_true", help="ask nothing: the table of what was observed")
    arguments = parser.parse_args(argv)
    for name in [name for name in os.environ if name.startswith(environment.PERSONAL)]:
        del os.environ[name]
    observed = table.load() if arguments.kept or arguments.only else {"seen": {}}
    if not arguments.kept:
        ask(observed, arguments.only or list(QUESTIONS))
    readme = table.README.read_text()
    text = table.write(observed, readme)
    print(text)
    if arguments.write:
        table.OBSERVED.write_text(json.dumps(observed, indent=1) + "\n")
        table.README.write_text(table.put(readme, text))


def ask(observed: dict[str, Any], questions: Sequence[str]) -> None:
    """Put what is seen into what was observed, and say when and with what."""
    for question in questions:
        for name in USERS:
            print(f"{question}: {name}", file=sys.stderr)
            observed["seen"].setdefault(question, {})[name] = QUESTIONS[question](name)
    found = machine.versions(environment.python_with_peers(), DISTRIBUTIONS)
    observed |= {"when": time.strftime("%Y-%m-%d"), "python": platform.python_version(), "versions": found}


if __name__ == "__main__":
    main()
