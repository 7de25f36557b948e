"""The README's comparison says what was observed, with the versions that are pinned, and names tests that are there."""

import re

import pytest

from .benchmarks import environment
from .peers import table
from .peers.questions import QUESTIONS
from .peers.users import OURS, USERS

CHANGED = {
    bool: lambda value: not value,
    int: lambda value: value + 1,
    str: lambda value: value + "?",
    type(None): lambda value: value,
    list: lambda value: value,
}


def test_the_readme_has_the_table_of_what_was_observed():
    readme = table.README.read_text()

    assert table.section(readme) == table.write(table.load(), readme)


def test_every_question_was_put_to_everybody():
    seen = table.load()["seen"]

    assert list(seen) == list(table.ASKED) == list(QUESTIONS)
    for question in seen:
        assert list(seen[question]) == list(USERS), question


def test_it_was_observed_with_the_pinned_versions():
    pins = dict(re.findall(r"^([\w-]+)(?:\[\w+\])?==(.+)$", environment.REQUIREMENTS.read_text(), re.MULTILINE))
    observed = table.load()["versions"]

    shared = observed.keys() & pins.keys()
    assert {"async-batch-llm", "openaivec", "langchain-openai", "chatlas", "litellm", "openai"} <= shared
    assert {name: observed[name] for name in shared} == {name: pins[name] for name in shared}


@pytest.mark.parametrize("test", [
    *(test for asked in table.ASKED.values() for test in asked.tests),
    *(test for cells in table.LOOKED_UP.values() for test in cells[0].there),
])  # fmt: skip
def test_what_stands_for_ours_is_a_test(test):
    path, _, name = test.partition("::")
    text = (table.ROOT / path).read_text()

    assert re.search(rf"^def {name}\(", text, re.MULTILINE)


def test_what_ours_has_not_leads_to_where_the_readme_says_so():
    cells = [cells[0] for cells in table.LOOKED_UP.values()]
    unasked = [question for question, seen in table.load()["seen"].items() if seen[OURS] is None]

    assert [question for question, asked in table.ASKED.items() if not asked.tests] == unasked == ["structured"]
    assert all(bool(cell.there) != (cell == table.NO) for cell in cells)
    assert table.NO.link == "#what-it-does-not-do"
    assert "\n## What it does not do\n" in table.README.read_text()


def test_what_another_has_is_named_and_linked_and_every_row_is_whole():
    for words, cells in table.LOOKED_UP.items():
        assert len(cells) == len(USERS), words
        for cell in cells[1:]:
            assert bool(cell.there) == bool(cell.link), (words, cell)
            assert cell.there or cell.text in ("not found", "a number", "by hand"), (words, cell)
            assert cell.link not in table.HOMES.values(), (words, cell)  # a front page says nothing


def test_what_was_not_found_was_looked_for():
    rows = [words for words, cells in table.LOOKED_UP.items() if table.NOT_FOUND in cells]

    assert rows == list(table.WORDS)
    assert [OURS, *table.PUBLIC] == list(USERS)


def test_another_observation_makes_another_table():
    readme = table.README.read_text()
    said = table.write(table.load(), readme)
    for question in table.ASKED:
        other = table.load()
        seen = other["seen"][question][OURS] or other["seen"][question]["litellm"]
        seen |= {key: CHANGED[type(value)](value) for key, value in seen.items()}
        assert table.write(other, readme) != said, question


def test_what_depends_on_the_machine_may_differ_and_nothing_else():
    assert table.alike("rate", {"per_minute": 120}, {"per_minute": 125})
    assert not table.alike("rate", {"per_minute": 120}, {"per_minute": 240})
    assert not table.alike("killed", {"twice": 0}, {"twice": 1})
    assert not table.alike("told_apart", None, {"right": True, "first": True})
