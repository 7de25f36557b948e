"""A model's Markdown as HTML that does nothing: no tag of its own, nothing fetched, links to the web alone."""

from __future__ import annotations

import functools

from markdown_it import MarkdownIt

from .escaping import LONG, escaped, plain, verbatim

SWELLING = 8
"""HTML that is so many times as long as the text, which tables can be, is not shown either."""

WEB = ("http://", "https://", "mailto:")


class _Markdown(MarkdownIt):
    def validateLink(self, url: str) -> bool:  # noqa: N802 - markdown-it's name
        """Whether it may be a link; what may not, stays the text that it was."""
        return url.lower().startswith(WEB)


@functools.cache
def _markdown() -> MarkdownIt:
    """CommonMark with tables and ~~deleted~~ text; a new line is one, as in chats; ``![an image](…)`` is its link."""
    markdown = _Markdown("default", {"html": False, "breaks": True, "maxNesting": 20}).disable("image")
    markdown.add_render_rule("text", lambda _, tokens, at, *rest: escaped(tokens[at].content))
    return markdown


def to_html(text: str) -> str:
    """HTML for what a model said, whatever that is: safe, and within a second.

    Text that is very long, or is nothing but what Markdown does not show, is shown as it was said.
    """
    text = plain(text)
    if len(text) > LONG:  # markdown-it's time grows faster than hostile text
        return verbatim(text)
    markdown = _markdown()
    tokens = markdown.parse(text)
    for token in tokens:
        token.info = ""  # else the language of some code were a class in the page
        for part in token.children or ():
            if part.type == "link_open":
                part.attrs = {"href": part.attrs["href"], "rel": "noopener noreferrer", "target": "_blank"}
    shown = markdown.renderer.render(tokens, markdown.options, {})
    if not shown or len(shown) > SWELLING * len(text) + 1_000:
        return verbatim(text)
    return f'<div dir="auto" style="overflow-wrap:anywhere">{shown}</div>'
