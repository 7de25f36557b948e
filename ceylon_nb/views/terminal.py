"""A progress bar in a terminal, by tqdm. Quiet where nobody watches: not a tty, or under CI."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from ..handle import Batch


def show(run: Batch) -> None:
    """Draw a bar on stderr until the batch ends."""
    if os.environ.get("CI") or not sys.stderr.isatty():
        return
    bar = tqdm(total=run.total, unit="row", dynamic_ncols=True, smoothing=0.1, file=sys.stderr)

    def paint(batch: Batch) -> None:
        counts = batch.counts
        bar.total = batch.total
        bar.n = counts["ok"] + counts["failed"]
        bar.set_postfix({name: counts[name] for name in ("failed", "in flight") if counts[name]}, refresh=False)
        if batch.finished:
            bar.close()
            leave()
        else:
            bar.refresh()

    leave = run.subscribe(paint)
    paint(run)
