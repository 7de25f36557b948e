"""Draw the tutorials' pictures: ``python notebooks/pictures/draw.py`` writes one SVG beside this file for each of them.

Time goes from left to right, a lane is who is busy, and a mark means the same everywhere:

- a blue bar is a request on its way; a dark one is a cell that runs; a striped one waits;
- a green dot is an answer, a red cross a failure, a grey-blue diamond an answer written to disk;
- amber holds off; a red line is where something is stopped or dies.

Each picture is a card with a ground of its own, for light pages and dark ones, and loads nothing: no font, no style
sheet. Coordinates are in pixels. ``tests/test_pictures.py`` holds the files in step with this script.
"""

import math
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

WIDTH = 760
LEFT, RIGHT = 134, 736  # where the lanes begin and end
TOP = 62  # the middle of the first lane
THICK = 18  # of a bar

CARD, EDGE = "#f8fafc", "#d0d7de"
INK, FAINT, LINE = "#1f2328", "#57606a", "#dfe4ea"
CELL, REQUEST, WORK, READY, DISK = "#3d4752", "#a8d1f3", "#cdbff0", "#dcecfa", "#7f95a3"
OK, BAD, HOLD, IDLE = "#2b8a4b", "#cf2f2f", "#f5b942", "#e3e8ed"
SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


class Picture:
    """A card with a headline; what is drawn on it comes in the order in which it is drawn."""

    def __init__(self, headline: str, description: str, height: int) -> None:
        self.root = ET.Element(
            "svg",
            {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "aria-labelledby": "title desc"},
            width=str(WIDTH),
            height=str(height),
            viewBox=f"0 0 {WIDTH} {height}",
        )
        self._add("title", id="title").text = headline
        self._add("desc", id="desc").text = " ".join(description.split())
        stripes = ET.SubElement(
            self._add("defs"),
            "pattern",
            {"id": "stripes", "width": "6", "height": "6", "patternUnits": "userSpaceOnUse"},
            patternTransform="rotate(45)",
        )
        ET.SubElement(stripes, "rect", width="6", height="6", fill="#ffffff")
        ET.SubElement(stripes, "rect", width="2.5", height="6", fill="#c3ccd4")
        self._add("rect", x=0.5, y=0.5, width=WIDTH - 1, height=height - 1, rx=10, fill=CARD, stroke=EDGE)
        self.text(20, 27, headline, size=15, font_weight="600")

    def _add(self, tag: str, **attributes: object) -> ET.Element:
        written = {
            name.replace("_", "-"): f"{value:.5g}" if isinstance(value, float) else str(value)
            for name, value in attributes.items()
        }
        return ET.SubElement(self.root, tag, written)

    def text(
        self, x: float, y: float, words: str, *, at: str = "start", fill: str = INK, size: int = 12, **more: object
    ) -> None:
        """Words whose middle is at the height ``y``; between backticks they are code."""
        element = self._add("text", x=x, y=y + 4, fill=fill, font_size=size, font_family=SANS, text_anchor=at, **more)
        element.text, *pieces = words.split("`")
        for code, plain in zip(pieces[::2], pieces[1::2], strict=True):
            span = ET.SubElement(element, "tspan", {"font-family": MONO})
            span.text, span.tail = code, plain

    def note(self, x: float, y: float, words: str, **more: object) -> None:
        """Words on a lane, which is not drawn through them."""
        self.text(x, y, words, fill=FAINT, paint_order="stroke", stroke=CARD, stroke_width=8, **more)

    def lane(self, y: float, name: str, *, begin: float = LEFT, end: float = RIGHT) -> None:
        self.text(20, y, name)
        self.rule(begin, y, end, y)

    def rule(self, x1: float, y1: float, x2: float, y2: float, colour: str = LINE, **more: object) -> None:
        self._add("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=colour, **more)

    def box(
        self, x1: float, x2: float, y: float, fill: str, words: str = "", *, thick: float = THICK, **more: object
    ) -> None:
        ink = "#ffffff" if fill == CELL else INK
        self._add("rect", x=x1, y=y - thick / 2, width=x2 - x1, height=thick, rx=3, fill=fill, **more)
        self.text((x1 + x2) / 2, y, words, at="middle", fill=ink) if words else None

    def cell(self, x1: float, x2: float, y: float, words: str = "") -> None:
        self.box(x1, x2, y, CELL, words)

    def request(self, x1: float, x2: float, y: float, words: str = "", *, end: str = "ok") -> None:
        """A request on its way, and how it ended: ``ok``, ``failed``, ``cut`` or nothing."""
        self.box(x1, x2, y, REQUEST, words)
        {"ok": self.answer, "failed": self.cross, "cut": self.cut, "": lambda x, y: None}[end](x2, y)

    def waits(self, x1: float, x2: float, y: float, words: str = "") -> None:
        self.box(x1, x2, y, "url(#stripes)", stroke="#c3ccd4")
        if words:
            wide = 7.4 * len(words.replace("`", "")) + 8
            self.box((x1 + x2 - wide) / 2, (x1 + x2 + wide) / 2, y, "#ffffff", words, thick=THICK - 3)

    def answer(self, x: float, y: float, fill: str = OK) -> None:
        self._add("circle", cx=x, cy=y, r=5, fill=fill, stroke=CARD, stroke_width=1.5)

    def cross(self, x: float, y: float) -> None:
        for d in (1, -1):
            self.rule(x - 4, y - 4 * d, x + 4, y + 4 * d, BAD, stroke_width=2.6, stroke_linecap="round")

    def cut(self, x: float, y: float) -> None:
        self.rule(x, y - THICK / 2 - 1, x, y + THICK / 2 + 1, BAD, stroke_width=2.6)

    def disk(self, x: float, y: float) -> None:
        self._add("path", d=f"M{x} {y - 6}L{x + 6} {y}L{x} {y + 6}L{x - 6} {y}Z", fill=DISK)

    def stop(self, x: float, y: float) -> None:
        self._add("rect", x=x - 6, y=y - 6, width=12, height=12, rx=2, fill=BAD)

    def fall(self, x: float, y1: float, y2: float, colour: str = BAD) -> None:
        """A moment, through all the lanes that it concerns."""
        self.rule(x, y1, x, y2, colour, stroke_width=1.5, stroke_dasharray="4 3")

    def arrow(self, x1: float, y1: float, x2: float, y2: float, colour: str = FAINT, *, dashed: bool = False) -> None:
        angle = math.atan2(y2 - y1, x2 - x1)
        tail = (x2 - 6 * math.cos(angle), y2 - 6 * math.sin(angle))
        more = {"stroke_dasharray": "4 3"} if dashed else {}
        self.rule(x1, y1, *tail, colour, stroke_width=1.4, **more)
        wings = [(x2 - 8 * math.cos(angle + d), y2 - 8 * math.sin(angle + d)) for d in (0.45, -0.45)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(x2, y2), *wings])
        self._add("polygon", points=points, fill=colour)

    def svg(self) -> str:
        ET.indent(self.root, " ")
        return ET.tostring(self.root, encoding="unicode") + "\n"


def first_answers() -> Picture:
    p = Picture(
        "One after the other, and together",
        """Two groups of lanes over the same time. One by one: three requests follow each other. Together: the same
        three begin at the same moment, and all are answered when the slowest is.""",
        height=192,
    )
    p.lane(TOP, "one by one")
    p.request(LEFT, 300, TOP, "What is Rust?")
    p.request(306, 450, TOP, "What is AI?")
    p.request(456, 700, TOP, "What is an event loop?")
    p.text(20, 104, "together,")
    p.text(20, 120, "with `gather`")
    for y, end, words in ((104, 300, "What is Rust?"), (128, 278, "What is AI?"), (152, 378, "What is an event loop?")):
        p.rule(LEFT, y, RIGHT, y)
        p.request(LEFT, end, y, words)
    p.fall(386, 90, 174, FAINT)
    p.note(396, 128, "all three are there: as long as the slowest one")
    return p


def a_thousand_rows() -> Picture:
    p = Picture(
        "Answers come as they complete, and stand in the order of the rows",
        """On the left a DataFrame with rows a to f. In the middle three workers on the loop: each takes the next row as
        soon as it is free. Row e fails, the others are answered, in the order c, a, d, b, e, f. On the right the frame
        of the answers, in the order a to f.""",
        height=222,
    )
    rows = "abcdef"
    top, step = 74, 22
    p.text(49, 54, "`df`", at="middle")
    p.text(352, 54, "three at once, on the notebook's loop", at="middle", fill=FAINT)
    p.text(680, 54, "`await run`", at="middle")
    for number, row in enumerate(rows):
        y = top + step * number
        p.box(20, 78, y, IDLE, row)
        p.box(624, RIGHT, y, IDLE)
        p.text(638, y, row, at="middle")
        p.cross(660, y) if row == "e" else p.answer(660, y)
        p.text(674, y, "failed" if row == "e" else "ok")
    p.arrow(88, 129, 122, 129)
    p.arrow(578, 129, 612, 129)
    lanes = {1: 93, 2: 129, 3: 165}
    for y in lanes.values():
        p.rule(LEFT, y, 564, y)
    for lane, row, begin, end in (
        (1, "a", 0, 100), (2, "b", 0, 225), (3, "c", 0, 55), (3, "d", 61, 185), (1, "e", 106, 275), (3, "f", 191, 390),
    ):  # fmt: skip
        p.request(LEFT + begin, LEFT + end, lanes[lane], row, end="failed" if row == "e" else "ok")
    p.text(352, 202, "done: c, a, d, b, e, f", at="middle", fill=FAINT)
    return p


def at_home_in_the_kernel() -> Picture:
    p = Picture(
        "The requests, while cells come and go",
        """A lane for the cells and four for requests. While no cell runs, requests go out and are answered. While a
        cell computes, answers lie ready and are taken when it ends. When a cell that awaits is stopped, its four
        requests are closed at once; after run.resume() those four, and only what is missing, are asked for.""",
        height=246,
    )
    lanes = [104, 128, 152, 176]
    p.lane(TOP, "cells")
    p.text(20, 104, "requests")
    for y in lanes:
        p.rule(LEFT, y, RIGHT, y)
    p.cell(LEFT, 216, TOP, "`agent.map`")
    p.cell(284, 436, TOP, "computes")
    p.cell(456, 556, TOP, "`await run`")
    p.stop(564, TOP)
    p.cell(604, 722, TOP, "`run.resume()`")
    p.fall(564, 72, 190)
    first = ((150, 200), (150, 222), (150, 188), (150, 236))
    second = ((206, 262), (228, 274), (194, 248), (242, 268))
    for y, (a, b), (c, d), ready in zip(lanes, first, second, (330, 352, 318, 344), strict=True):
        p.request(a, b, y)
        p.request(c, d, y)
        p.request(d + 6, ready, y, end="")
        p.box(ready, 438, y, READY)
        p.answer(440, y)
    for y, (a, b), last in zip(
        lanes, ((446, 500), (446, 516), (446, 492), (446, 508)), (668, 690, 676, 702), strict=True
    ):
        p.request(a, b, y)
        p.request(b + 6, 564, y, end="cut")
        p.request(616, last, y)
    for x, *words in (
        (200, "in the background,", "whatever runs"),
        (360, "answers lie ready,", "none is late"),
        (510, "■: closed at once,", "answers are kept"),
        (663, "only what", "is missing"),
    ):
        p.text(x, 206, words[0], at="middle", fill=FAINT)
        p.text(x, 222, words[1], at="middle", fill=FAINT)
    return p


def nothing_lost() -> Picture:
    p = Picture(
        "First on disk, then shown: a dead kernel takes nothing along",
        """Lanes for requests, the disk and what is shown. In the first kernel answers 1 to 4 are written to disk, then
        shown. The kernel dies while 5 and 6 are on their way. In the second kernel the same cell shows 1 to 4 from the
        disk at once, and asks only for 5, 6 and 7.""",
        height=244,
    )
    asked, disk, shown = (96, 120), 158, 192
    p.text(20, 108, "requests")
    for y in asked:
        p.rule(LEFT, y, RIGHT, y)
    p.lane(disk, "on disk")
    p.lane(shown, "shown")
    p.cell(LEFT, 396, TOP, "`run = agent.map(…)`")
    p.cell(470, RIGHT, TOP, "the same cell again")
    p.text(20, TOP, "kernel")
    for y, row, begin, end in ((96, 1, 140, 190), (120, 2, 140, 226), (96, 3, 196, 276), (120, 4, 232, 312)):
        p.request(begin, end, y, str(row))
        p.rule(end, y, end, disk, DISK, stroke_dasharray="2 2")
        p.disk(end, disk)
        p.arrow(end + 4, disk + 5, end + 14, shown - 6, DISK)
        p.answer(end + 17, shown)
        p.text(end + 17, shown + 17, str(row), at="middle", fill=FAINT)
    p.request(282, 396, 96, "5", end="cut")
    p.request(318, 396, 120, "6", end="cut")
    p.fall(396, 48, 206)
    p.text(396, 226, "the kernel dies", at="middle", fill=BAD)
    for number in range(4):
        x = 484 + 18 * number
        p.disk(x, disk)
        p.arrow(x, disk + 7, x, shown - 6, DISK)
        p.answer(x, shown)
        p.text(x, shown + 17, str(number + 1), at="middle", fill=FAINT)
    for y, row, begin, end in ((96, 5, 484, 586), (120, 6, 484, 622), (96, 7, 592, 676)):
        p.request(begin, end, y, str(row))
        p.rule(end, y, end, disk, DISK, stroke_dasharray="2 2")
        p.disk(end, disk)
        p.arrow(end + 4, disk + 5, end + 14, shown - 6, DISK)
        p.answer(end + 17, shown)
        p.text(end + 17, shown + 17, str(row), at="middle", fill=FAINT)
    p.text(604, 226, "1 to 4 are not asked for again", at="middle", fill=FAINT)
    return p


def live_panel() -> Picture:
    p = Picture(
        "The panel watches the batch, and its buttons steer it",
        """Lanes for cells, requests, and the panel. The cell that began the batch has returned; requests go on. The
        panel gets an update now and then, not for each answer. After a click on Pause, what is in flight ends and
        nothing new is sent; Resume goes on. At the end a summary takes the panel's place, and is saved with the
        notebook.""",
        height=246,
    )
    lanes, panel = (100, 124, 148), 194
    p.lane(TOP, "cells", end=656)
    p.text(20, 124, "requests")
    for y in lanes:
        p.rule(LEFT, y, 656, y)
    p.text(20, panel, "panel")
    p.cell(LEFT, 216, TOP, "`agent.map`")
    p.cell(540, 656, TOP, "`await run`")
    for y, before, after in zip(
        lanes,
        ((144, 176, 214, 256, 298, 350), (144, 190, 232, 268, 342), (144, 168, 206, 244, 284, 336)),
        ((432, 470, 520, 572, 630), (432, 462, 500, 556, 600, 650), (432, 486, 532, 580, 622)),
        strict=True,
    ):
        for times in (before, after):
            for begin, end in pairwise(times):
                p.request(begin, end - 4, y)
    p.box(LEFT, 656, panel, "#ffffff", thick=34, stroke=EDGE)
    for x in (*range(160, 310, 36), *range(462, 656, 36)):
        p.arrow(x, 160, x, 181, OK)
    for x, words in ((324, "Pause"), (428, "Resume")):
        p.box(x - 30, x + 30, panel, IDLE, words)
        p.arrow(x, 184, x, 160, INK)
    p.box(666, RIGHT, panel, "#ffffff", "summary", thick=34, stroke=OK)
    p.text(226, 226, "ten updates a second at most", at="middle", fill=FAINT)
    p.text(428, 226, "a click is a call", at="middle", fill=FAINT)
    p.text(RIGHT, 226, "saved with the notebook", at="end", fill=FAINT)
    return p


def agents_and_actions() -> Picture:
    p = Picture(
        "The model calls, Python runs, the model answers",
        """Lanes for you, the model and two actions. A question goes to the model. It calls price for the kettle and for
        the toaster; both run at the same time. When both have ended, the results go back in order, and the model
        answers.""",
        height=214,
    )
    you, model, one, two = TOP, 102, 142, 168
    p.lane(you, "your cell")
    p.lane(model, "the model")
    p.text(20, 155, "your actions")
    for y in (one, two):
        p.rule(LEFT, y, RIGHT, y)
    p.cell(LEFT, 686, you, "`await seller.send_message(…)`")
    p.request(150, 288, model, "two calls", end="")
    p.request(512, 660, model, "the answer", end="")
    p.arrow(150, you + 10, 150, model - 10)
    p.arrow(660, model - 10, 660, you + 10)
    p.box(308, 420, one, WORK, "`price(kettle)`")
    p.box(308, 492, two, WORK, "`price(toaster)`")
    p.answer(420, one)
    p.answer(492, two)
    p.arrow(288, model + 10, 306, one - 9)
    p.arrow(288, model + 10, 306, two - 9)
    p.arrow(496, two - 8, 512, model + 10)
    p.answer(686, you)
    p.text(400, 197, "both at once, their arguments checked first", at="middle", fill=FAINT)
    return p


def mesh() -> Picture:
    p = Picture(
        "Each agent has a mailbox, and handles one message at a time",
        """Lanes for you, an editor, a writer with its mailbox, and a clerk. You ask the editor. It asks the writer and
        waits, while the loop goes on. The clerk sends the writer a message, and waits for no answer: the message lies
        in the writer's mailbox until the first one has been handled. Answers go back the way the questions came.""",
        height=236,
    )
    you, editor, writer, mailbox, clerk = TOP, 98, 134, 164, 202
    p.lane(you, "you")
    p.lane(editor, "editor")
    p.lane(writer, "writer")
    p.lane(mailbox, "its mailbox")
    p.lane(clerk, "clerk")
    p.cell(LEFT, 508, you, '`await mesh.query("editor", …)`')
    p.arrow(146, you + 9, 146, editor - 9)
    p.box(140, 196, editor, WORK)
    p.waits(196, 440, editor, "`await context.query`")
    p.box(440, 492, editor, WORK)
    p.arrow(196, editor + 9, 196, writer - 9)
    p.box(190, 440, writer, WORK, "asks its model")
    p.arrow(440, writer - 9, 440, editor + 9, dashed=True)
    p.arrow(492, editor - 9, 492, you + 9, dashed=True)
    p.answer(508, you)
    p.box(236, 296, clerk, WORK)
    p.arrow(296, clerk - 9, 296, mailbox + 9)
    p.waits(290, 456, mailbox, "waits for its turn")
    p.arrow(456, mailbox - 9, 456, writer + 9)
    p.box(450, 640, writer, WORK, "asks its model")
    p.note(306, clerk, "`send_to` waits for no answer")
    return p


def patterns() -> Picture:
    durations = [50, 60, 150, 44, 66, 60, 50, 116, 46, 80, 54, 60, 44, 70, 92]
    slots, scale, failed = 5, 1.66, 8
    p = Picture(
        "Where the slots go",
        """The same fifteen requests twice, five at a time; one of them fails. Above, in windows of gather: slots stand
        idle until the slowest of their window has ended, and the failure takes the answers along. Below, with
        max_at_once=5: each slot takes the next request as soon as it is free, all ends sooner, and the failure is one
        row.""",
        height=286,
    )
    upper, lower = [60 + 18 * slot for slot in range(slots)], [178 + 18 * slot for slot in range(slots)]
    for y in upper + lower:
        p.rule(LEFT, y, RIGHT, y)
    p.text(20, 60, "windows of")
    p.text(20, 76, "`gather`")
    p.text(20, 178, "`max_at_once=5`")

    def bar(number: int, begin: float, y: float) -> None:
        x1, x2 = LEFT + scale * begin, LEFT + scale * (begin + durations[number]) - 3
        p.box(x1, x2, y, "#6fb1e6" if durations[number] > 100 else REQUEST, thick=13)
        p.cross(x2 - 10, y) if number == failed else None

    begin = 0
    for first in range(0, len(durations), slots):
        slowest = max(durations[first : first + slots])
        for y, number in zip(upper, range(first, first + slots), strict=True):
            bar(number, begin, y)
            if durations[number] < slowest:
                idle = begin + durations[number]
                p.box(LEFT + scale * idle, LEFT + scale * (begin + slowest) - 3, y, "url(#stripes)", thick=13)
        begin += slowest
        p.fall(LEFT + scale * begin - 1, 50, 142, FAINT)
    free = [0] * slots
    for number in range(len(durations)):
        slot = free.index(min(free))
        bar(number, free[slot], lower[slot])
        free[slot] += durations[number]
    done = LEFT + scale * max(free) - 1
    p.fall(done, 168, 260, FAINT)
    p.note(done + 10, 214, "done")
    p.cross(LEFT + 5, 153)
    p.text(LEFT + 16, 153, "raised by `gather`: the answers are gone", fill=FAINT)
    p.text(RIGHT, 153, "striped: nothing to do", at="end", fill=FAINT)
    p.cross(LEFT + 5, 268)
    p.text(LEFT + 16, 268, "one row of the frame", fill=FAINT)
    return p


def web() -> Picture:
    p = Picture(
        "An app, a batch and the cells, on one loop",
        """A box is the notebook's event loop. On it are a cell, an app with the paths /chat and /stream, a batch of the
        notebook's own, and the agent that all of them share. Another program asks /chat and gets its answer from the
        model server, through the agent. A second one asks /stream and leaves: its question is cancelled as far as the
        model.""",
        height=252,
    )
    p._add("rect", x=158, y=44, width=410, height=176, rx=8, fill="#ffffff", stroke=EDGE)
    p.text(556, 60, "the notebook's loop", at="end", fill=FAINT)
    chat, stream, batch = 112, 152, 194
    for y, name in ((chat, "a program"), (stream, "another one")):
        p.box(20, 116, y, IDLE, name)
    p.cell(174, 326, 74, "`await client.post(…)`")
    p._add("rect", x=174, y=94, width=110, height=78, rx=4, fill=WORK, fill_opacity=0.55)
    p.text(229, chat, "`/chat`", at="middle")
    p.text(229, 132, "your app", at="middle", fill=FAINT)
    p.text(229, stream, "`/stream`", at="middle")
    p.box(174, 284, batch, REQUEST, "`agent.map(…)`")
    p.box(426, 500, 153, WORK, "agent", thick=118)
    p.box(640, RIGHT, 153, IDLE, "model server", thick=118)
    p.arrow(306, 84, 284, chat - 8)
    p.arrow(116, chat, 172, chat)
    for x1, x2 in ((284, 424), (500, 638)):
        p.arrow(x1, chat, x2, chat)
        p.rule(x1, stream, x2, stream, BAD, stroke_width=1.4, stroke_dasharray="4 3")
        for y in (batch - 6, batch, batch + 6):
            p.arrow(x1, y, x2, y)
    p.rule(116, stream, 174, stream, BAD, stroke_width=1.4, stroke_dasharray="4 3")
    p.cross(128, stream)
    p.cut(636, stream)
    p.text(20, 174, "leaves: cancelled", fill=BAD)
    p.text(20, 190, "up to the model", fill=BAD)
    p.text(363, 236, "`server.should_exit = True`: the port is free again, no task is left", at="middle", fill=FAINT)
    return p


def testing_your_notebooks() -> Picture:
    p = Picture(
        "Ask a model once, then test without it",
        """Once: mine.ipynb asks a model, and its answers are written to answers.jsonl. From then on: pytest runs
        mine.ipynb in a new kernel, the answers come from answers.jsonl, and there is no model. Outputs as saved are
        green; a changed prompt is red, with the difference shown.""",
        height=232,
    )
    once, then, seen = 70, 128, 190
    p.text(20, once, "once")
    p.text(20, then - 8, "from then on,")
    p.text(20, then + 8, "`pytest --nbval`")
    p.cell(146, 258, once, "`mine.ipynb`")
    p.request(340, 452, once, "the model", end="")
    p.box(574, 716, once, IDLE)
    p.disk(592, once)
    p.text(604, once, "`answers.jsonl`")
    p.arrow(258, once, 338, once)
    p.text(298, once - 13, "asks", at="middle", fill=FAINT)
    p.arrow(452, once, 572, once)
    p.text(512, once - 13, "recorded", at="middle", fill=FAINT)
    p.cell(146, 258, then, "`mine.ipynb`")
    p.box(340, 452, then - 12, "url(#stripes)", stroke="#c3ccd4")
    p.text(396, then - 32, "no model", at="middle", fill=FAINT)
    p.cross(396, then - 12)
    p.rule(645, once + 10, 645, then + 8, FAINT, stroke_width=1.4)
    p.rule(645, then + 8, 400, then + 8, FAINT, stroke_width=1.4)
    p.arrow(400, then + 8, 260, then + 8)
    p.text(548, then - 5, "the recorded answers", at="middle", fill=FAINT)
    p.arrow(202, then + 10, 202, seen - 14)
    p.answer(152, seen)
    p.text(164, seen, "outputs as they were saved")
    p.cross(392, seen)
    p.text(404, seen, "a changed prompt, and what has changed:")
    p.text(404, seen + 20, "`Is it the [-client-]{+user+}'s fault`")
    return p


def when_things_go_wrong() -> Picture:
    p = Picture(
        "A request's way, and what can happen on it",
        """Five stations from left to right: your cell, the loop, the connection, the server, the model. At the cell: a
        template that does not fit. At the loop: no loop runs, asyncio.run in a cell, the stop button. At the
        connection: refused, lost midway, timeout. At the server: 429, and one at a time. At the model: not found. A
        dashed frame around cell and loop is the kernel, which may die; the store on disk is outside, and keeps the
        answers.""",
        height=286,
    )
    y, step, top = 96, 20, 128
    stations = {"your cell": 36, "the loop": 174, "the connection": 322, "the server": 476, "the model": 620}
    ends = [x + 104 for x in stations.values()]
    p._add("rect", x=20, y=48, width=282, height=166, rx=8, fill="none", stroke=BAD, stroke_dasharray="5 4")
    p.cross(40, 64)
    p.text(54, 64, "the kernel dies", fill=BAD)
    for (name, x), end in zip(stations.items(), ends, strict=True):
        p.box(x, end, y, CELL if name == "your cell" else WORK if name == "the loop" else REQUEST, name, thick=24)
    for begin, end in zip(ends, list(stations.values())[1:], strict=False):
        p.arrow(begin, y, end - 2, y)
    for station, troubles in {
        "your cell": ["a template that", "+does not fit"],
        "the loop": ["no loop runs", "`asyncio.run`", "+in a cell", "■stops it all"],
        "the connection": ["refused", "lost midway", "timeout"],
        "the server": ["429: wait", "one at a time"],
        "the model": ["not found"],
    }.items():
        x = stations[station]
        for number, trouble in enumerate(troubles):
            line = top + step * number
            if trouble[0] == "■":
                p.stop(x + 5, line)
            elif trouble[0] != "+":
                p.cross(x + 5, line)
            p.text(x + 18, line, trouble.lstrip("■+"))
    for number in range(5):
        p.answer(stations["the server"] + 24 + 14 * number, top + 2 * step, fill=REQUEST if number else OK)
    p.box(20, 302, 244, IDLE, thick=26)
    p.disk(40, 244)
    p.text(54, 244, "the store, on disk: answers stay")
    p.arrow(226, 202, 226, 229, DISK)
    return p


def debugging() -> Picture:
    p = Picture(
        "Five questions, and who answers them",
        """Five rows. What became of the batch: run.failed and run.plot, with a drawing of bars, a failure and a cool-
        down. Where does a task wait: asyncio.all_tasks. Who holds up the loop: set_debug, with a drawing of
        short steps and a long block. What did nobody wait for: the log. What was really sent: server.requests.""",
        height=252,
    )
    rows = [66, 104, 142, 180, 218]
    begin, end = 262, 506
    asked = (
        ("What became of the batch?", "`run.failed`, `run.plot()`"),
        ("Where does a task wait?", "`asyncio.all_tasks()`"),
        ("Who holds up the loop?", "`loop.set_debug(True)`"),
        ("What did nobody wait for?", "`logging.getLogger(…)`"),
        ("What was really sent?", "`server.requests`"),
    )
    for y, (question, tool) in zip(rows, asked, strict=True):
        p.text(20, y, question)
        p.rule(begin, y, end, y)
        p.text(528, y, tool)
    batch, task, loop, log, wire = rows
    p.box(390, 440, batch, HOLD, thick=30, fill_opacity=0.35)
    for x1, x2, x3, dy in ((262, 312, 376, -7), (262, 330, 384, 7)):
        p.box(x1, x2, batch + dy, REQUEST, thick=11)
        p.box(x2 + 4, x3, batch + dy, REQUEST, thick=11)
        p.box(446, end - (8 if dy < 0 else 0), batch + dy, REQUEST, thick=11)
    p.cross(370, batch - 7)
    p.text(415, batch, "429", at="middle")
    p.box(begin, 320, task, WORK, "runs")
    p.waits(320, end, task, "awaits the answer")
    for x in (*range(begin, 336, 12), *range(440, end, 12)):
        p.box(x, x + 7, loop, WORK)
    p.cell(344, 436, loop, "`time.sleep`")
    p.box(begin, 350, log, WORK, "a task")
    p.cross(356, log)
    p.note(368, log, "and no `await`")
    p.note(begin, wire - 1, "`POST /api/chat`")
    p.arrow(376, wire, 440, wire)
    p.box(444, end, wire, IDLE, "`200`")
    return p


PICTURES = {
    "01-first-answers": first_answers,
    "02-a-thousand-rows": a_thousand_rows,
    "03-at-home-in-the-kernel": at_home_in_the_kernel,
    "04-nothing-lost": nothing_lost,
    "05-live-panel": live_panel,
    "06-agents-and-actions": agents_and_actions,
    "07-mesh": mesh,
    "08-patterns": patterns,
    "09-web": web,
    "10-testing-your-notebooks": testing_your_notebooks,
    "11-when-things-go-wrong": when_things_go_wrong,
    "12-debugging": debugging,
}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        Path(__file__).with_name(f"{name}.svg").write_text(draw().svg(), encoding="utf-8", newline="\n")
