"""The tutorials' pictures as a browser draws them: every word on the card, and none over another."""

from itertools import combinations
from pathlib import Path

import pytest
from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

PICTURES = sorted((Path(__file__).parents[2] / "notebooks" / "pictures").glob("*.svg"))
WORDS = """() => [...document.querySelectorAll("text")].map(text => {
    const box = text.getBBox();
    return [text.textContent, box.x, box.y, box.x + box.width, box.y + box.height];
})"""


def test_no_word_lies_over_another_nor_leaves_the_card(chromium: Browser) -> None:
    page = chromium.new_page()
    for picture in PICTURES:
        page.set_content(picture.read_text(encoding="utf-8"))
        wide, high = (int(page.locator("svg").get_attribute(name)) for name in ("width", "height"))
        words = page.evaluate(WORDS)
        assert words, picture.name
        for text, left, top, right, bottom in words:
            assert 12 <= left <= right <= wide - 12, (picture.name, text)
            assert 6 <= top <= bottom <= high - 6, (picture.name, text)
        for one, other in combinations(words, 2):
            apart = one[3] <= other[1] or other[3] <= one[1] or one[4] <= other[2] + 1 or other[4] <= one[2] + 1
            assert apart, (picture.name, one[0], other[0])
    page.close()
