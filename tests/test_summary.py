"""What lasts: the summary of a batch, and the Markdown of a stream. Whatever is said, it is text and no markup."""

from __future__ import annotations

import asyncio
import re
import string
import time
from html.parser import HTMLParser

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ceylon_nb import LlmAgent, batch
from ceylon_nb.agents.stream import Told
from ceylon_nb.views import escaping, streaming
from ceylon_nb.views.markdown import to_html
from ceylon_nb.views.summary import bundle

LARGEST = 20_000
"""Bytes of a summary."""

HOSTILE = {
    "image": "<img src=x onerror=alert(1)>",
    "script": "<script>alert(1)</script>",
    "closing tags": "</bdi></td></tr></table></style></textarea><h1>",
    "attributes": "\" onmouseover='alert(1)' x=\"",
    "comment": "<!-- <![CDATA[ ",
    "entities": "&lt;b&gt; &#x3c;b&#x3e;",
    "one line of 1 MB": "<b>" * 333_333,
    "quotes": "'\"&" * 1000,
    "right to left": "قطعة رائعة \u202egnp.exe\u2067 \u2066",
    "emoji": "👩\u200d👩\u200d👧" * 500,
    "ANSI": "\x1b[31mred\x1b[0m \x1b]8;;https://example.org\x1b\\link\x1b]8;;\x07 \x9b1mbold \x1b[",
    "controls": "a\x00b\x07c\x7fd\x85e\u2028f\ufffeg",
    "half a character": "half \ud83d of it",
    "marks": "z" + "\u0335" * 5000,
    "Markdown": "| a | b |\n|---|---|\n[x](javascript:alert(1)) ![y](http://127.0.0.1:9/z)",
}

OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal or the layout would obey, or cannot be sent."""


class Parsed(HTMLParser):
    """A page as a browser reads it: its elements with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []  # what is opened is closed, in order

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("br", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.text += "|" if tag in ("td", "th") else ""

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    handle_decl = handle_pi = unknown_decl = handle_comment

    @property
    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


def shown(run, **options) -> str:
    """The summary's text, without its time."""
    return Parsed(timeless(bundle(run, **options)["text/html"])).text


def timeless(page: str) -> str:
    return re.sub(r' · <span class="ceylon-nb-time">[^<]*</span>', "", page)


async def echo(item):
    if "bad" in str(item):
        raise ValueError(f"no {item}. Mend it.")
    return f"said {item}"


def done(items, fn=echo, **options):
    run = batch(fn, items, view=None, **options)
    run.result()
    return run


# -- a batch ---------------------------------------------------------------------------------------------------------


def test_counts_first_rows_and_the_failures():
    run = LlmAgent("clerk", "demo::instant").map(["What is AI?"] * 1200 + ["", ""], "{}", name="Ask", view=None)
    run.result()
    text = shown(run)
    assert text.startswith("1,200 answers, 2 failed of 1,202 · Ask · clerk · demo::instant")
    for position in range(5):
        assert f"{position}|● ok|What is AI?|AI is" in text
    assert "1200|● failed||EmptyPrompt" in text  # not among the first, and shown
    assert "1201|● failed||EmptyPrompt" in text
    assert "… 1,195 more in run.frame" in text
    assert "2 × EmptyPrompt · run.retry_failed() asks for them again" in text
    assert text.endswith("Fill the cell, or drop the row.")  # what to do
    assert bundle(run)["text/plain"] == repr(run) == "Batch(1,200 ok, 2 failed of 1,202)"


def test_a_failure_among_the_first_rows_stands_in_its_place():
    text = shown(done(["a", "bad", "c", "d", "e", "f", "bad"]))
    assert re.findall(r"(\d)\|● (\w+)", text) == [("0", "ok"), ("1", "failed"), *((f"{at}", "ok") for at in (2, 3, 4))]
    assert "1|● failed|bad|ValueError: no bad. Mend it.|2|●" in text
    assert "… 2 more in run.frame" in text
    assert shown(done(["a"] * 9 + ["bad"] * 9)).count("● failed") == 3


def test_kinds_of_failure_are_counted_the_most_frequent_first():
    async def fail(kind):
        if isinstance(kind, Exception):
            raise kind
        return kind

    kinds = [*[KeyError("k")] * 2, *[TypeError("t")] * 3, ValueError("v"), *[OSError("o")] * 2, 1]
    assert "3 × TypeError · 2 × KeyError · 2 × OSError · 1 others" in shown(done(kinds, fail))


def test_it_reads_well_without_any_style():
    page = Parsed(bundle(done(["a", "b"]))["text/html"])
    assert page.tags == {"div", "span", "b", "bdi", "table", "thead", "tbody", "tr", "th", "td"}
    heads = [attributes["scope"] for tag, attributes in page.elements if tag == "th"]
    assert heads == ["col"] * 4 + ["row"] * 2
    assert "2 answers of 2" in page.text
    assert "0|● ok|a|said a" in page.text


def test_nothing_but_the_time_depends_on_the_run():
    async def object_of(seconds):
        await asyncio.sleep(seconds)
        return object()

    first, second = done([0, 0], object_of), done([0, 0], object_of)
    pages = [bundle(run)["text/html"] for run in (first, second)]
    assert all(page.count('<span class="ceylon-nb-time">') == 1 for page in pages)
    assert timeless(pages[0]) == timeless(pages[1])
    assert "object object" in pages[0]


@pytest.mark.parametrize(("seconds", "said"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (97.2, "1:37"), (7265, "2:01:05")])
def test_the_time_as_a_person_says_it(seconds: float, said: str):
    from ceylon_nb.views.summary import _duration

    assert _duration(seconds) == said


def test_labels():
    index = pd.MultiIndex.from_tuples([("a", 1), ("a", 1), ("b", float("nan"))])
    text = shown(done(pd.Series(["x", "y", "z"], index=index)))
    assert "a · 1|● ok|x" in text
    assert "a · 1|● ok|y" in text
    assert "b · nan|● ok|z" in text
    assert "nan|● ok|x" in shown(done(pd.Series(["x", "y"], index=[float("nan"), "k"])))
    assert "key|● ok|x" in shown(done({"key": "x"}))


def test_few_rows():
    assert shown(done([])) == "0 answers of 0 · echo"
    assert shown(done(["a"])).startswith("1 answer of 1 · echo")
    assert "more" not in shown(done(["a"] * 5))


def test_rows_from_the_store(tmp_path):
    for _ in range(2):
        run = done(["a", "b", "c"], key=str, store=tmp_path / "answers.sqlite")
    assert "3 answers of 3 · echo · 3 from the store" in shown(run)


def test_replies_that_are_in_the_store_alone(tmp_path):
    text = shown(done(["a", "b"], key=str, store=tmp_path / "answers.sqlite", keep=False))
    assert text == "2 answers of 2 · echoThe answers are not in memory; run.frame says where they are."
    assert str(tmp_path) not in text


def test_an_unknown_number_of_rows_and_each_way_to_stand():
    async def main():
        waiting, for_ever = asyncio.Event(), asyncio.Event()

        async def wait(item):
            if item == 3:
                waiting.set()
            if item > 1:
                await for_ever.wait()
            return item

        async def endless():
            for item in range(1000):
                yield item

        run = batch(wait, endless(), max_at_once=2, view=None)
        answers = run.answers()
        for _ in range(2):
            await anext(answers)
        await answers.aclose()
        await waiting.wait()
        text = shown(run)
        assert text.startswith("2 answers · wait")
        assert "2|● waiting|2" in text
        assert text.endswith("… more in run.framerunning when this was shown: 2")
        run.pause()
        assert shown(run).endswith("paused at 2 · run.resume() goes on")
        run.cancel()
        await run
        assert "2 cancelled" in shown(run)
        assert "2|● cancelled|2" in shown(run)
        assert shown(run).endswith("cancelled at 2 · run.resume() goes on")

    asyncio.run(main())


def test_all_fail_alike():
    run = batch(echo, ["bad <b>"] * 20, view=None)
    with pytest.raises(ValueError, match="bad"):
        run.result()
    text = shown(run)
    assert text.startswith(f"0 answers, {run.counts['failed']} failed")
    assert f"{run.counts['failed']} × ValueError" in text
    assert f"stopped at {run.counts['failed']} of 20: ValueError: no bad <b>. Mend it. " in text
    assert text.endswith("Mend the cause; run.resume() then asks for all of them.")


def test_a_key_by_which_a_panel_finds_it():
    page = bundle(done(["a"]), placeholder='k"<')["text/html"]
    assert Parsed(page).elements[0] == ("div", {"data-ceylon-panel": 'k"<'})
    assert page.endswith("</div></div>")
    assert "data-ceylon-panel" not in bundle(done(["a"]))["text/html"]


@pytest.mark.parametrize("what", HOSTILE)
def test_whatever_is_asked_and_answered_is_text(what: str):
    """The page has the very elements and attributes of one on which nothing was tried."""

    async def model(messages):
        if messages[-1].content.endswith("!"):
            raise RuntimeError(text)
        return text

    def page(text, model):
        items = {text: f"{text}.", (text, 1): f"{text}!", **{letter: letter for letter in "cdef"}}
        run = LlmAgent(text[:1000], model).map(items, "{}", name=text, view=None, attempts=1)
        run.result()
        return bundle(run, placeholder="key")["text/html"]

    text = HOSTILE[what]
    attacked = page(text, model)
    text = "harmless"
    harmless = page(text, model)
    assert Parsed(attacked).elements == Parsed(harmless).elements
    assert not OBEYED.search(attacked)
    assert len(attacked.encode()) <= LARGEST


def test_the_largest_page_there_is():
    async def fail(item):
        if item[0] == "'":
            return item
        raise type("'" * 500, (Exception,), {})(item)

    items = ["'" * 5000] * 5 + ["\"'" * 5000] * 5
    run = batch(fail, pd.Series(items, index=["'" * 5000] * 10), name="'" * 5000, view=None)
    run.result()
    size = len(bundle(run, placeholder="key")["text/html"].encode())
    assert LARGEST / 3 < size <= LARGEST


def test_what_cannot_say_what_it_is():
    class Mute:
        def __str__(self):
            raise ZeroDivisionError

    async def mute(item):
        return item

    assert "&lt;Mute: ZeroDivisionError&gt;" in bundle(done([Mute()], mute))["text/html"]


# -- escaping --------------------------------------------------------------------------------------------------------


@given(st.text(st.characters(exclude_categories=[])), st.integers(1, 50))
def test_a_line_is_a_line(text: str, limit: int):
    line = escaping.line(text, limit)
    assert len(line) <= limit
    assert not OBEYED.search(line)
    assert "\n" not in line
    inline = escaping.inline(text, limit)
    assert [tag for tag, _ in Parsed(inline).elements if tag != "span"] == ["bdi"]
    assert len(inline.encode()) <= 3 * limit + len("<bdi>…</bdi>".encode())


MATHEMATICS = re.compile(r"\$[^<]|\\[^<]")
"""What MathJax would look at: it reads no further than an element's end."""


@pytest.mark.parametrize(
    "text", ["$5 or $6", r"$\href{javascript:alert(1)}{x}$", r"\(x\) \[y\]", r"\begin{a}", "$$x$$"]
)
def test_mathematics_is_text(text: str):
    assert MATHEMATICS.search(text)
    for page in (escaping.inline(text), to_html(text)):
        assert not MATHEMATICS.search(page)
    assert escaping.verbatim(text).startswith("<pre ")  # which it leaves alone
    assert text in Parsed(escaping.inline(text)).text


def test_a_line_keeps_what_is_harmless():
    assert escaping.line("  plain\n text\t") == "plain text"
    link = "\x1b]8;;https://example.org\x1b\\link\x1b]8;;\x1b\\"
    assert escaping.line(f"\x1b[1;31mred\x1b[0m, {link} \x07") == "red, link ␇"
    assert escaping.line("👩\u200d👩\u200d👧 é \ud83d\ude00 \ud83d") == "👩\u200d👩\u200d👧 é 😀 \ufffd"
    assert escaping.line("a" * 200) == "a" * 159 + "…"
    assert escaping.plain("a\r\nb\rc\td\n  e") == "a\nb\nc\td\n  e"


# -- Markdown --------------------------------------------------------------------------------------------------------

MARKDOWN = """# Title

Some *words*, **strong**, ~~gone~~, `code` and a [link](https://example.org/?a=1&b=2 "title").
The next line. <mail@example.org>

| a | b |
|--:|---|
| 1 | 2 |

```python onclick=alert(1)
if a < b:
    pass
```

1. one
   - nested
"""

HARMLESS = set(
    "a blockquote br code del div em h1 h2 h3 h4 h5 h6 hr li ol p pre s span strong".split()
    + "table tbody td th thead tr ul".split()
)
ATTRIBUTES = {"href", "rel", "target", "style", "dir", "start"}


def harmless(page: str) -> Parsed:
    """Check that a page can do nothing."""
    parsed = Parsed(page)
    assert parsed.tags <= HARMLESS
    for tag, attributes in parsed.elements:
        assert set(attributes) <= ATTRIBUTES
        if tag == "a":
            assert attributes["href"].lower().startswith(("http://", "https://", "mailto:"))
            assert (attributes["rel"], attributes["target"]) == ("noopener noreferrer", "_blank")
        if "style" in attributes and tag not in ("div", "pre"):
            assert attributes["style"] in ("text-align:left", "text-align:right", "text-align:center")
    assert not OBEYED.search(page)
    return parsed


def test_markdown():
    page = harmless(to_html(MARKDOWN))
    assert page.tags == set("div h1 p em strong s code a br table thead tbody tr th td pre ol ul li".split())
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links == ["https://example.org/?a=1&b=2", "mailto:mail@example.org"]
    assert "if a < b:\n    pass\n" in page.text


LINKS = [
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java&#x0A;script:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:x)",
    "[x](file:///etc/passwd)",
    "[x](/api/contents)",
    "[x](//example.org)",
    "[x](#id)",
    "<javascript:alert(1)>",
    "[x]: javascript:alert(1)\n\n[x]",
]


@pytest.mark.parametrize("text", LINKS)
def test_links_to_the_web_alone(text: str):
    page = harmless(to_html(text))
    assert "a" not in page.tags
    assert re.search("x|script", page.text)


def test_images_are_their_links():
    page = harmless(to_html("![a cat](https://example.org/cat.png) [![b](https://example.org/b)](https://example.org)"))
    assert "img" not in page.tags
    assert "a cat" in page.text


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_markdown(what: str):
    harmless(to_html(HOSTILE[what]))


WORDS = [*"[]()<>*_`~|-#!&:\\\"' \n\t=+1.a", "http://", "javascript:", "```", "<b x=", "| "]


@given(st.lists(st.sampled_from(WORDS)))
def test_any_markdown(words: list[str]):
    harmless(to_html("".join(words)))


PATTERNS = [
    *string.punctuation,
    *("[a](", "![", "*a ", "a*", "**a*b ", "~~a", "> ", "- a\n", "[[]](", "_a__ ", "\\\n", "&#", "<a ", "```\n"),
    "  " * 9 + "- x\n",
    "[a]: b\n",
    "|" * 99 + "\n" + "|-" * 99 + "\n" + "|\n" * 999,
    "|" + "a|" * 3000 + "\n|" + "-|" * 3000 + "\n" + "|x\n" * 9000,
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: repr(pattern)[:20])
@pytest.mark.parametrize("length", [39_999, 1_000_000])
def test_markdown_takes_no_more_than_it_is_worth(pattern: str, length: int):
    text = (pattern * (length // len(pattern) + 1))[:length]
    began = time.process_time()
    page = to_html(text)
    assert time.process_time() - began < 10  # and not minutes; a second on an ordinary machine
    assert len(page) <= 8 * length + 2_000


def test_a_long_text_is_shown_as_it_was_said():
    page = harmless(to_html("**bold** " * 100_000))
    assert page.tags == {"pre"}
    assert page.text == "**bold** " * 100_000


def test_text_that_markdown_would_not_show_is_shown():
    assert harmless(to_html("[a]: https://example.org")).text == "[a]: https://example.org"


# -- what a stream shows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", HOSTILE)
def test_what_a_stream_says_is_text(what: str):
    told = Told(str)
    told.say(HOSTILE[what])
    assert harmless(streaming.growing(told)["text/html"]).tags == {"pre"}
    told.end(error=RuntimeError(HOSTILE[what]))
    for mime, text in streaming.ended(told).items():
        assert not OBEYED.search(text)
        if mime == "text/html":
            assert Parsed(text).tags == {"pre", "div", "bdi"}
