"""The garbage collector is put off while a batch runs, and only then."""

import asyncio
import gc
from collections.abc import Iterator

import pytest

from ceylon_nb import batch
from ceylon_nb.garbage import YOUNG, put_off

USUAL = (700, 10, 10)


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(*USUAL)
    yield
    gc.set_threshold(*before)


class Owner:
    pass


@pytest.mark.asyncio
async def test_while_a_batch_runs_the_young_are_looked_at_less_often():
    seen = []

    async def look(_: int) -> int:
        seen.append(gc.get_threshold())
        await asyncio.sleep(0)
        return 1

    first, second = batch(look, range(3), view=None), batch(look, range(30), view=None)
    await first
    await second
    assert set(seen) == {(YOUNG, *USUAL[1:])}
    assert gc.get_threshold() == USUAL


@pytest.mark.asyncio
async def test_a_batch_that_is_paused_or_cancelled_leaves_it_as_it_was():
    async def wait(_: int) -> None:
        await asyncio.sleep(0.05)

    run = batch(wait, range(1000), view=None)
    await asyncio.sleep(0.01)
    assert gc.get_threshold() != USUAL
    run.pause()
    await asyncio.sleep(0.2)
    assert gc.get_threshold() == USUAL
    run.resume()
    await asyncio.sleep(0.01)
    assert gc.get_threshold() != USUAL
    run.cancel()
    await run
    assert gc.get_threshold() == USUAL


def test_a_batch_whose_loop_is_gone_leaves_it_as_it_was():
    async def abandon() -> None:
        batch(asyncio.sleep, [60] * 3, view=None)
        await asyncio.sleep(0.01)

    asyncio.run(abandon())
    gc.collect()
    assert gc.get_threshold() == USUAL


@pytest.mark.parametrize("own", [(0, 10, 10), (50_000, 20, 20)], ids=["switched off", "higher"])
def test_what_somebody_has_chosen_stays(own):
    gc.set_threshold(*own)
    end = put_off(Owner)
    assert gc.get_threshold() == own
    end()
    assert gc.get_threshold() == own


def test_what_somebody_chooses_meanwhile_stays():
    end = put_off(Owner)
    gc.set_threshold(1234, 5, 6)
    end()
    assert gc.get_threshold() == (1234, 5, 6)


def test_it_is_as_it_was_once_nobody_wants_it_otherwise():
    ends, owner = [put_off(Owner), put_off(Owner)], Owner()
    put_off(owner)
    for end in ends:
        end()
        end()
    assert gc.get_threshold() == (YOUNG, *USUAL[1:])
    del owner
    assert gc.get_threshold() == USUAL
