"""The table: how an observation reads, and what was not asked but looked up.

A cell is one of three: observed (`questions.py`; the figures are in `observed.json`), taken from what the benchmarks
say in the README, or looked up. What another library was found to have, names what has to be there in the installed
version, and links to the page that says it. Not found is what neither its README, in the METADATA of that version,
tells of, nor has a name among its public ones (`WORDS`, `PUBLIC`). Ours are backed by tests, or by the README's own
"What it does not do".
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .users import OURS, USERS, ByHand

ROOT = Path(__file__).parent.parent.parent
OBSERVED = Path(__file__).parent / "observed.json"
README = ROOT / "README.md"
HEADING = "## Beside others"
NAMES = tuple(USERS)

Seen = dict[str, Any] | None


MARKS = {"late": "¹", "duckdb": "²", "sqlite": "³", "caches": "⁴", "cooldown": "⁵"}


def mark(note: str | None) -> str:
    """What stands behind a cell that has a note."""
    return f" {MARKS[note]}" if note else ""


# -- how an observation reads ----------------------------------------------------------------------------------------


def bad_row(name: str, seen: Seen) -> str:
    assert seen is not None
    if seen["raised"]:
        return "raises, none" if not seen["there"] else f"raises, {seen['there']}"
    return f"{seen['there']}" + (" and why" if seen["told"] else "")


def told_apart(name: str, seen: Seen) -> str:
    if seen is None:
        return "by hand" if issubclass(USERS[name], ByHand) else "all at the end"
    return "yes" if seen["right"] and seen["first"] else "no"


def on_the_index(name: str, seen: Seen) -> str:
    assert seen is not None
    return seen["kind"] if seen["on_it"] else f"a {seen['kind']}"


def interrupted(name: str, seen: Seen) -> str:
    assert seen is not None
    when = "" if seen["at_once"] else mark("late")
    return f"{seen['kept']}; {seen['open']}{when}"


def killed(name: str, seen: Seen) -> str:
    assert seen is not None
    notes = {"openaivec": "duckdb", "langchain-openai": "sqlite", "litellm": "caches"}
    return f"{seen['twice']}{mark(notes.get(name))}"


def too_many(name: str, seen: Seen) -> str:
    assert seen is not None
    if seen["there"] is None:
        return "not done in 20 s" if seen["more"] else f"{seen['meanwhile']}; nothing for 20 s{mark('cooldown')}"
    return f"{seen['meanwhile']}; {seen['there']}"


def rate(name: str, seen: Seen) -> str:
    if seen is None:
        return "by hand" if issubclass(USERS[name], ByHand) else "not offered"
    return f"{seen['per_minute']:,}"


def no_such_model(name: str, seen: Seen) -> str:
    assert seen is not None
    return str(seen["requests"])


def lazy(name: str, seen: Seen) -> str:
    assert seen is not None
    return f"{seen['read']:,}; {seen['tasks']:,}"


def in_a_cell(name: str, seen: Seen) -> str:
    assert seen is not None
    ways = [way for way, key in (("await", "awaited"), ("sync", "called")) if seen.get(key)]
    return ", ".join(ways) or "neither"


def structured(name: str, seen: Seen) -> str:
    if seen is None:
        return "no"
    return {("Answer",): "yes", ("str",): "JSON text"}[tuple(seen["kinds"])] if seen["right"] else "not what was said"


# -- what is asked, and how near two answers have to be ---------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A row that is observed.

    Attributes
    ----------
    words : str
        The row's head.
    reads : callable
        From a user's name and what was seen, the cell.
    tests : tuple of str
        Which tests show the same for ours, as ``tests/file.py::test``; none if ours has it not.
    slack : dict
        Of figures that depend on the machine: how far two observations may be apart, as a share or, below 1, a number.
    """

    words: str
    reads: Callable[[str, Seen], str]
    tests: tuple[str, ...]
    slack: dict[str, float] = field(default_factory=dict)


ASKED: dict[str, Asked] = {
    "bad_row": Asked(
        "One row of 20 gets a 400: answers",
        bad_row,
        ("tests/test_map.py::test_a_row_that_fails_is_asked_again_by_retry_failed",),
    ),
    "told_apart": Asked(
        "As they complete, each with its row",
        told_apart,
        ("tests/test_engine.py::test_answers_come_as_they_complete_and_each_knows_its_row",),
    ),
    "on_the_index": Asked(
        "On the index of a Series, equal labels too",
        on_the_index,
        ("tests/test_map.py::test_from_a_table_to_a_frame_on_its_index",),
    ),
    "interrupted": Asked(
        "■ at 20 answers: answers kept; requests still open",
        interrupted,
        ("tests/kernels/test_interrupts.py::test_a_batch",),
    ),
    "killed": Asked(
        "`kill -9` at 20 answers: rows asked twice",
        killed,
        ("tests/kernels/test_store.py::test_killed_at_random_moments",),
    ),
    "too_many": Asked(
        "A second of 429s: requests sent into it; answers of 40",
        too_many,
        (
            "tests/test_limits.py::test_one_429_holds_off_every_call_on_every_loop",
            "tests/test_map.py::test_a_query_for_each_docstring_of_the_standard_library",
        ),
        {"meanwhile": 4},
    ),
    "rate": Asked(
        "120 a minute asked for: was",
        rate,
        ("tests/test_limits.py::test_the_rate_holds_over_two_agents_and_two_loops",),
        {"per_minute": 0.25},
    ),
    "no_such_model": Asked(
        "404: requests for one question",
        no_such_model,
        ("tests/test_retry.py::test_a_missing_model_is_final",),
    ),
    "lazy": Asked(
        "10,000 lazy rows, 8 at once: rows read to begin; tasks",
        lazy,
        ("tests/test_engine.py::test_a_hundred_thousand_lazy_items_take_as_many_tasks_as_rows_in_flight",),
        {"read": 16, "tasks": 16},
    ),
    "in_a_cell": Asked(
        "In a cell, nothing patched",
        in_a_cell,
        (
            "tests/kernels/test_sync.py::test_beside_a_batch_whose_slots_are_all_in_use",
            "tests/kernels/test_cell.py::test_a_reply_as_the_last_line_shows_its_text",
        ),
    ),
    "structured": Asked("Answers as pydantic objects", structured, ()),
}


def alike(question: str, one: Seen, other: Seen) -> bool:
    """Whether two observations are the same, but for what depends on the machine."""
    if one is None or other is None:
        return one is other
    slack = ASKED[question].slack
    return one.keys() == other.keys() and all(_near(one[key], other[key], slack.get(key, 0)) for key in one)


def _near(one: Any, other: Any, slack: float) -> bool:
    if not slack or one is None or other is None:
        return bool(one == other)
    return bool(abs(one - other) <= (slack if slack >= 1 else slack * max(one, other)))


# -- what was looked up ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A cell that was looked up.

    Attributes
    ----------
    text : str
    link : str, optional
        Where it is written.
    there : tuple of str
        What has to be there for it: names in the installed library, or tests of ours as ``tests/file.py::test``.
    """

    text: str
    link: str | None = None
    there: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"[{self.text}]({self.link})" if self.link else self.text


ABL = "https://geoff-davis.github.io/async-batch-llm/"
OPENAIVEC = "https://microsoft.github.io/openaivec/"
LANGCHAIN = "https://docs.langchain.com/oss/python/"
CHATLAS = "https://posit-dev.github.io/chatlas/"
LITELLM = "https://docs.litellm.ai/docs/"
OPENAI = "https://github.com/openai/openai-python"

HOMES = {
    "async-batch-llm": ABL,
    "openaivec": OPENAIVEC,
    "langchain-openai": LANGCHAIN + "integrations/providers/openai",
    "chatlas": CHATLAS,
    "litellm": LITELLM,
    "openai SDK": OPENAI,
}

NOT_FOUND = Cell("not found")
NO = Cell("no", "#what-it-does-not-do")


def backed(text: str, *tests: str) -> Cell:
    """A cell of ours, backed by those tests, or by what the README says that it does not do."""
    return Cell(text, tests[0].partition("::")[0], tests) if tests else Cell(text, NO.link)


def _row(
    ours: Cell, abl: Cell, openaivec: Cell, langchain: Cell, chatlas: Cell, litellm: Cell, sdk: Cell
) -> tuple[Cell, ...]:
    return ours, abl, openaivec, langchain, chatlas, litellm, sdk


LOOKED_UP: dict[str, tuple[Cell, ...]] = {
    "Buttons: pause, cancel, how many at once": _row(
        backed("yes", "tests/browser/test_panel.py::test_in_the_background"),
        NOT_FOUND,
        NOT_FOUND,
        NOT_FOUND,
        NOT_FOUND,
        NOT_FOUND,
        NOT_FOUND,
    ),
    "Finds out how many at once": _row(
        backed("yes", "tests/test_adaptive.py::test_nearly_what_the_best_number_gets"),
        Cell(
            "a number, ramped up",
            ABL + "choosing-your-limits/#7-startup-ramp-startup_ramp",
            ("async_batch_llm.StartupRampConfig",),
        ),
        Cell(
            "a number; rows a request, yes",
            OPENAIVEC + "examples/batch_size/",
            ("openaivec._cache.BatchSizeSuggester",),
        ),
        Cell("a number"),
        Cell("a number"),
        Cell("by hand"),
        Cell("by hand"),
    ),
    "For tests without a model": _row(
        backed("record, replay", "tests/test_recording.py::test_a_batch_replays_with_the_server_stopped"),
        Cell("a fake", ABL + "testing/", ("async_batch_llm.testing.FakeStrategy",)),
        NOT_FOUND,
        Cell(
            "a fake",
            LANGCHAIN + "langchain/test/unit-testing",
            ("langchain_core.language_models.fake_chat_models.GenericFakeChatModel",),
        ),
        NOT_FOUND,
        Cell("a fake", LITELLM + "completion/mock_requests", ("litellm.mock_completion",)),
        NOT_FOUND,
    ),
    "Stops at a budget": _row(
        NO,
        Cell("tokens, cost", ABL + "guardrails/#token-and-cost-budgets", ("async_batch_llm.BatchBudgetExceeded",)),
        NOT_FOUND,
        NOT_FOUND,
        NOT_FOUND,
        Cell("cost", LITELLM + "budget_manager", ("litellm.max_budget", "litellm.BudgetExceededError")),
        NOT_FOUND,
    ),
    "Providers' batch APIs, at half the price": _row(
        NO,
        NOT_FOUND,
        NOT_FOUND,
        NOT_FOUND,
        Cell("yes", CHATLAS + "get-started/scale.html", ("chatlas.batch_chat",)),
        Cell("yes", LITELLM + "batches", ("litellm.acreate_batch",)),
        Cell("yes", OPENAI + "/blob/main/api.md#batches", ("openai.resources.AsyncBatches.create",)),
    ),
    "Several rows in one request": _row(
        NO,
        NOT_FOUND,
        Cell("yes", OPENAIVEC + "examples/batch_size/", ("openaivec.AsyncBatchResponses",)),
        NOT_FOUND,
        NOT_FOUND,
        NOT_FOUND,
        NOT_FOUND,
    ),
    "Other wire formats than OpenAI's and Ollama's": _row(
        NO,
        Cell(
            "Gemini, PydanticAI's",
            "https://github.com/geoff-davis/async-batch-llm#providers",
            ("async_batch_llm.GeminiModel", "async_batch_llm.PydanticAIStrategy"),
        ),
        NOT_FOUND,
        Cell("many", LANGCHAIN + "integrations/chat", ("langchain_core.language_models.BaseChatModel",)),
        Cell("many", CHATLAS + "get-started/models.html", ("chatlas.ChatAnthropic", "chatlas.ChatGoogle")),
        Cell("most", LITELLM + "providers", ("litellm.provider_list",)),
        NOT_FOUND,
    ),
}

WORDS = {
    "Buttons: pause, cancel, how many at once": r"button|pause|widget",
    "For tests without a model": r"cassette|fake|mock|record|replay",
    "Stops at a budget": r"budget|max_?cost|spend",
    "Providers' batch APIs, at half the price": r"batch_?api|batch_?chat|batches|create_batch",
    "Several rows in one request": r"batch_?responses|rows",
    "Other wire formats than OpenAI's and Ollama's": r"anthropic|claude|gemini",
}
"""What a public name would have in it, whatever its case, of a library that has what was not found."""

PUBLIC = {
    "async-batch-llm": ("async_batch_llm",),
    "openaivec": ("openaivec", "openaivec.pandas_ext"),
    "langchain-openai": ("langchain_openai", "langchain_core.language_models", "langchain_core.runnables"),
    "chatlas": ("chatlas",),
    "litellm": ("litellm",),
    "openai SDK": ("openai",),
}
"""The modules whose names were gone through."""

BENCHED = {
    OURS: "ceylon_nb",
    "async-batch-llm": "async-batch-llm",
    "langchain-openai": "langchain-openai, abatch_as_completed",
    "litellm": "litellm, acompletion",
    "openai SDK": "openai SDK, semaphore + gather",
}
"""By which names the table of what it costs has them."""

NOTES = {
    "late": "Only when the next answer came: a kernel does not notice ■ while its loop waits for sockets alone"
    " ([ipykernel #881](https://github.com/ipython/ipykernel/issues/881)).",
    "duckdb": "With its DuckDB cache, to be imported from `openaivec._cache`; without it {without[openaivec]}.",
    "sqlite": "With `SQLiteCache` of langchain-community, which is being"
    " [sunset](https://github.com/langchain-ai/langchain-community/issues/674); without it"
    " {without[langchain-openai]}.",
    "caches": f"Its [caches]({LITELLM}caching/all_caches) outlive a process in Redis, S3 and others; not tried.",
    "cooldown": "It holds off for 300 s unless"
    f" [told otherwise]({ABL}choosing-your-limits/#8-cooldown-ratelimitconfig) (`cooldown_seconds`).",
}


# -- all of it -------------------------------------------------------------------------------------------------------


def cpu(readme: str) -> dict[str, str]:
    """What a request costs, of the README's own table: µs at 100 at once."""
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| ([\d,]+) \(", readme, re.MULTILINE)
    return {name.strip(): cost for name, cost in rows}


def write(observed: dict[str, Any], readme: str) -> str:
    """The section as it stands in the README, from its first sentence to its notes."""
    costs = cpu(readme)
    head = ["", *(f"[{name}]({HOMES[name]})" if name in HOMES else f"`{name}`" for name in NAMES)]
    rows = [
        [asked.words, *(_observed(asked, name, observed["seen"][question][name]) for name in NAMES)]
        for question, asked in ASKED.items()
    ]
    rows.append(
        ["CPU a request, µs ([below](#what-it-costs))", *(costs.get(BENCHED.get(name, ""), "–") for name in NAMES)]
    )
    rows += [[words, *map(str, cells)] for words, cells in LOOKED_UP.items()]
    table = "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])
    without = {name: seen["without"] for name, seen in observed["seen"]["killed"].items()}
    used = [f"{sign} {NOTES[note].format(without=without)}" for note, sign in MARKS.items() if f" {sign}" in table]
    return "\n\n".join([INTRODUCTION, table, "<br>\n".join(used), said(observed)]) + "\n"


def _observed(asked: Asked, name: str, seen: Seen) -> str:
    text = asked.reads(name, seen)
    return str(backed(text, *asked.tests)) if name == OURS else text


INTRODUCTION = """\
Each library was used as its own documentation says for many prompts, against the same server on loopback, and what that
server and the user saw is the cell ([the questions](tests/peers/questions.py)).
`python -m pytest -m peers tests/test_peers.py` asks everything again and compares; `python -m tests.peers --write`
writes the table. Cells of ours link to the file with the tests that show the same ([which](tests/peers/table.py)), or
to [what it does not do](#what-it-does-not-do).

The rows below the CPU were looked up. Where another library has something, the cell links to the page that describes
it, and a test finds its name in the installed version. For *not found*, *a number* (one that you choose) and *by hand*
(it is left to you), the README that comes with the package and its public names were searched, in the versions given
below; *not found* proves nothing."""


def said(observed: dict[str, Any]) -> str:
    """When, and with which versions."""
    versions = ", ".join(f"{name} {version}" for name, version in observed["versions"].items())
    return (
        "openaivec was given one row a request, async-batch-llm `quota_burst_seconds=0.5` beside its rate; litellm is"
        " `acompletion`, the openai SDK `AsyncOpenAI`, both with a semaphore and `gather`."
        f" {observed['when']}, Python {observed['python']}, {versions}."
    )


def load() -> dict[str, Any]:
    """What was observed when the table was last written."""
    found: dict[str, Any] = json.loads(OBSERVED.read_text())
    return found


def section(readme: str) -> str:
    """What stands under the heading."""
    return readme.partition(f"\n{HEADING}\n\n")[2].partition("\n## ")[0]


def put(readme: str, text: str) -> str:
    """The README with that text under the heading."""
    if f"\n{HEADING}\n" not in readme:
        return readme.replace("\n## What it costs\n", f"\n{HEADING}\n\n{text}\n## What it costs\n")
    return readme.replace(section(readme), text)
