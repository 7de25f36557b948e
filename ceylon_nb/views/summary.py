"""What lasts of a batch: HTML without script, and text, for notebooks that are read without a kernel.

It is read in JupyterLab, in light and in dark, by nbconvert and nbviewer, and on GitHub, which takes the styles away:
so it is an ordinary table under an ordinary sentence. But for the time, which stands alone in its span, two runs with
the same answers have the same summary.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..answers import FAILED
from ..errors import describe
from .escaping import inline

if TYPE_CHECKING:
    from ..answers import Answer
    from .watched import Watched

FIRST = 5
"""Rows that are shown, from the first on."""

BRIEF = 80
"""Characters of an error in the table; the first one is told in full below it."""

FAILURES = 3
"""Failed rows that are shown besides, where none is among the first; and kinds of failure."""

# Mid tones: each has a contrast of 4 or more with white and with JupyterLab's dark background. Quiet text takes the
# page's own colour.
_OK, _BAD, _IDLE = "#2b8a4b", "#dc4242", "#78838c"
_TONES = {"ok": _OK, "failed": _BAD}
_QUIET = "opacity:.7"
_NUMBER = "font-variant-numeric:tabular-nums"
_CELL = "text-align:left;vertical-align:top;padding:3px 8px;border:0"
_LINE = "background:none;border-top:1px solid rgba(128,128,128,.35)"


def bundle(run: Watched, *, placeholder: str | None = None) -> dict[str, str]:
    """Return the summary as a MIME bundle.

    Parameters
    ----------
    run : Batch, or what stands for one
        One that has ended; of another one it says how far it was.
    placeholder : str, optional
        The key of a panel that may take the summary's place while the kernel lives.

    Returns
    -------
    dict
        ``text/html``, at most 20 KB whatever was asked and answered; and ``text/plain``, the batch's repr.
    """
    shown = "".join(_parts(run))
    if placeholder is not None:
        shown = f'<div data-ceylon-panel="{html.escape(placeholder)}">{shown}</div>'
    return {"text/html": shown, "text/plain": repr(run)}


def _parts(run: Watched) -> Iterator[str]:
    yield '<div style="font-size:13px;line-height:1.45">'
    yield f"<div>{_head(run)}</div>"
    if run.rows.keeps:
        positions = _positions(run)
        if positions:
            yield _table(run, positions)
        yield _paragraph(_more(run, len(positions)))
    else:
        yield _paragraph(f"The answers are not in memory; {_code(run, 'frame')} says where they are.")
    yield _paragraph(_failures(run))
    yield _paragraph(_standing(run))
    yield "</div>"


def _paragraph(content: str) -> str:
    return f'<div style="padding-top:4px">{content}</div>' if content else ""


def _head(run: Watched) -> str:
    """``2,976 answers, 24 failed of 3,000 · Classify {text} · clerk · llama3.2 · 600 from the store · 1:37``."""
    counts = run.counts
    numbers = [f"<b>{counts['ok']:,} {'answer' if counts['ok'] == 1 else 'answers'}</b>"]
    if counts["failed"]:
        numbers.append(f'<b style="color:{_BAD}">{counts["failed"]:,} failed</b>')
    if counts["cancelled"]:
        numbers.append(f"{counts['cancelled']:,} cancelled")
    total = f" of {run.total:,}" if run.total is not None else ""
    notes = [inline(text) for text in (run.title, run.subtitle) if text]
    if run.from_store:
        notes.append(f"{run.from_store:,} from the store")
    found = f" · {inline(run.found)}" if run.found else ""  # no two runs find the same, nor take the same time
    notes.append(f'<span class="ceylon-nb-time">{_duration(run.elapsed)}{found}</span>')
    quiet = "".join(f" · {note}" for note in notes)
    return f'<span style="{_NUMBER}">{", ".join(numbers)}{total}</span><span style="{_QUIET}">{quiet}</span>'


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _positions(run: Watched) -> list[int]:
    """The first rows, and the first that failed if none of those did."""
    status = run.rows.status
    positions = list(range(min(FIRST, len(status))))
    if FAILED not in status[:FIRST]:
        at = status.find(FAILED, FIRST)
        while at >= 0 and len(positions) < FIRST + FAILURES:
            positions.append(at)
            at = status.find(FAILED, at + 1)
    return positions


def _table(run: Watched, positions: list[int]) -> str:
    heads = "".join(
        f'<th scope="col" style="{_CELL};font-weight:600;{_QUIET};width:{width}">{name}</th>'
        for name, width in (("row", "1%"), ("status", "1%"), ("asked", "40%"), ("answer", "58%"))
    )
    rows = "".join(_row(run.row(position), run.gist(position)) for position in positions)
    return (
        '<table aria-label="rows" style="border-collapse:collapse;width:100%;margin:6px 0 0;table-layout:auto">'
        f'<thead><tr style="background:none">{heads}</tr></thead><tbody>{rows}</tbody></table>'
    )


def _row(answer: Answer, question: str) -> str:
    if answer.status == "failed":
        said = f'<span style="color:{_BAD}">{inline(_said(answer.error), BRIEF)}</span>'
    else:
        said = inline(answer.reply) if answer.status == "ok" else ""
    dot = f'<span aria-hidden="true" style="color:{_TONES.get(answer.status, _IDLE)}">●</span>'
    wrapped = f"{_CELL};overflow-wrap:anywhere"
    label = f"{_CELL};white-space:nowrap;max-width:14em;overflow:hidden;text-overflow:ellipsis"
    return (
        f'<tr style="{_LINE}"><th scope="row" style="{label};font-weight:400;{_NUMBER};{_QUIET}">'
        f"{inline(answer.index, 40)}</th>"
        f'<td style="{_CELL};white-space:nowrap">{dot} {answer.status}</td>'
        f'<td style="{wrapped};{_QUIET}">{inline(question)}</td><td style="{wrapped}">{said}</td></tr>'
    )


def _code(run: Watched, name: str) -> str:
    return f"<code>{html.escape(run.handle)}.{name}</code>"


def _more(run: Watched, shown: int) -> str:
    where = f" in {_code(run, 'frame')}" if run.handle else ""
    if run.total is None:
        return f"… more{where}"
    return f"… {run.total - shown:,} more{where}" if run.total > shown else ""


def _failures(run: Watched) -> str:
    """``24 × ServerError · run.retry_failed() asks for them again``, and what the first of each says to do."""
    kinds = sorted(run.rows.failures().items(), key=lambda item: (-item[1], item[0]))
    if not kinds:
        return ""
    first = run.rows.status.find(FAILED)
    counted = " · ".join(f"{count:,} × {inline(kind, 60)}" for kind, count in kinds[:FAILURES])
    others = sum(count for _, count in kinds[FAILURES:])
    if others:
        counted += f" · {others:,} others"
    error = run.row(first).error if run.rows.keeps and first >= 0 and run.error is None else None
    advice = f'<div style="{_QUIET}">{inline(_said(error), 400)}</div>' if error is not None else ""
    again = f" · {_code(run, 'retry_failed()')} asks for them again" if "retry" in run.controls else ""
    return f"{counted}{again}{advice}"


def _standing(run: Watched) -> str:
    """What it is about a batch that is not done, and what goes on with it."""
    if run.state == "done":
        return ""
    counts = run.counts
    answered = f"{counts['ok'] + counts['failed']:,}" + (f" of {run.total:,}" if run.total is not None else "")
    if run.state == "running":
        return f"running when this was shown: {answered}"
    if run.error is not None:  # it says itself what to do
        return f"{run.state} at {answered}: {inline(_reason(run.error), 400)}"
    on = f" · {_code(run, 'resume()')} goes on" if "resume" in run.controls else ""
    return f"{run.state} at {answered}{on}"


def _said(error: BaseException | None) -> str:
    """What an error says, without the address: the head says where, and a test server's port is another each time."""
    said, url = describe(error) or "", getattr(error, "url", "")
    return said.replace(f" ({url})", "") if url else said


def _reason(error: BaseException) -> str:
    return " ".join([_said(error), *map(str, getattr(error, "__notes__", ()))])
