"""The Python snippets of two documents, by their headings.

``overview.md`` and ``examples.md`` are the documents of the system that this library re-implements, word for word and
with their mistakes, but for a last line of ``examples.md`` that named a path: test data, not to be formatted or mended.
Here the name to import is changed, and nothing else; ``corrections.py`` holds the mistakes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from .corrections import IN_EXAMPLES, IN_OVERVIEW, Correction

HERE = Path(__file__).parent


class Document:
    """The snippets of one document, all of which are tested.

    Attributes
    ----------
    originals : dict of str to str
        Each heading's snippet, with this library's name.
    is_intact : bool
        Whether nobody has changed the file.
    tested, shown_wrong : set of str
        Headings for which there are tests: of the snippet, in its right form; of what is wrong with the original.
    """

    def __init__(self, file: str, sha256: str, corrections: Sequence[Correction]) -> None:
        text = (HERE / file).read_bytes()
        self.is_intact = hashlib.sha256(text).hexdigest() == sha256
        self.originals: dict[str, str] = {}
        for heading, code in python_blocks(text.decode()):
            assert heading not in self.originals, f"two snippets under {heading!r}"
            self.originals[heading] = re.sub(r"\bceylon(ai_next)?(?= import|\.)", "ceylon_nb", code)
        self.corrections = corrections
        self.tested: set[str] = set()
        self.shown_wrong: set[str] = set()

    def right(self, heading: str) -> str:
        """The snippet under a heading, corrected where that is due."""
        code = self.originals[heading]
        for correction in self.corrections:
            if correction.heading == heading:
                assert code.count(correction.wrong) == 1, f"{correction.wrong!r} is not once under {heading!r}"
                code = code.replace(correction.wrong, correction.right)
        return code

    def shows(self, heading: str) -> pytest.MarkDecorator:
        """Give a test the snippet under a heading in its right form, as `code`."""
        self.tested.add(heading)
        return _code(heading, self.right(heading))

    def shows_wrong(self, heading: str) -> pytest.MarkDecorator:
        """Give a test the original of a snippet that is wrong, as `code`."""
        self.shown_wrong.add(heading)
        return _code(heading, self.originals[heading])

    def check(self) -> None:
        """Fail if the document was changed, or a snippet is forgotten, or corrected for no reason."""
        assert self.is_intact, "a formatter, perhaps: some format the Python in Markdown, too"
        assert self.tested == self.originals.keys()
        assert self.shown_wrong == {correction.heading for correction in self.corrections}


def python_blocks(text: str) -> Iterator[tuple[str, str]]:
    """Each fenced block of Python in a Markdown text, with the heading that it stands under."""
    heading = ""
    tokens = MarkdownIt().parse(text)
    for i, token in enumerate(tokens):
        if token.type == "heading_open":
            heading = tokens[i + 1].content
        elif token.type == "fence" and token.info.strip() == "python":
            yield heading, token.content


def _code(heading: str, code: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("code", [pytest.param(code, id=heading)])


OVERVIEW = Document(
    "overview.md",
    "aefcb884305779aca40e06021851f5b550cdc92e7df98d6cae8994f263094514",
    IN_OVERVIEW,
)

EXAMPLES = Document(
    "examples.md",
    "ef1efa8df5eba0e1311d9bbe94a17dd33dbe65eb05fc8722a4a9c1601b5135cc",
    IN_EXAMPLES,
)
