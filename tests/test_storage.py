"""The storage modules, each for itself, on real files: what is the same question, where the file is, what is in it."""

import asyncio
import hashlib
import json
import logging
import os
import sqlite3
import stat
import sys
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ceylon_nb
from ceylon_nb import batch
from ceylon_nb.answers import FAILED, OK
from ceylon_nb.errors import ConfigurationError, StoreCorrupt, StoreTooNew, StoreUnwritable
from ceylon_nb.messages import Message, Reply, Usage
from ceylon_nb.storage import file, place, store
from ceylon_nb.storage.entries import COLUMNS, REPLY_COLUMNS, Entry, decode, encode, storable
from ceylon_nb.storage.identity import Family, Occurrences, Question
from ceylon_nb.storage.ledger import Counts, Ledger
from ceylon_nb.storage.reader import Reader

POSIX = pytest.mark.skipif(os.name == "nt", reason="permissions and mounts as on POSIX")
PATIENCE = 20  # seconds; more than anything here takes


# -- identity --------------------------------------------------------------------------------------------------------


def test_a_question_is_all_that_matters_and_nothing_else():
    family = Family(model="m", temperature=0.5, system_prompt=None)
    assert family.text == Family(temperature=0.5, model="m").text  # in whatever order, with what is not said left out
    said = [Message("user", "a")]
    different = [
        family.asks("a"),
        family.asks("b"),
        Family(model="n", temperature=0.5).asks("a"),
        Family(model="m", temperature=0.25).asks("a"),
        family.asks_messages([Message("system", "S"), *said], None),
        family.asks_messages([*said, Message("assistant", "b"), Message("user", "c")], None),
        family.asks('[{"role":"system","content":"S"},{"role":"user","content":"a"}]'),  # a text that looks like that
    ]
    assert len({question.digest for question in different}) == len(different)
    assert family.asks_messages(said, None) == family.asks("a")
    assert family.asks_messages([Message("system", "S"), *said], "S") == family.asks("a")  # the family has it
    assert family.asks_messages([Message("system", "T"), *said], "S") != family.asks("a")
    assert all(-(2**63) <= question.number < 2**63 for question in different)


@given(st.lists(st.lists(st.sampled_from([0, 1]), min_size=6, max_size=6).map(bytes), max_size=60))
def test_occurrences_are_counted_exactly(middles):
    occurrences, seen = Occurrences(), Counter()
    for middle in middles:  # few bytes in one string: what looks alike across the border of two is among them
        assert occurrences.count(Question(b"aa" + middle + middle + b"bb", 0, "")) == seen[middle]
        seen[middle] += 1


# -- place -----------------------------------------------------------------------------------------------------------


def test_where_the_store_is(tmp_path, monkeypatch):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    monkeypatch.setattr(place, "_home", home)
    monkeypatch.setenv("HOME", str(elsewhere))
    monkeypatch.chdir(elsewhere)  # after the import: "auto" stays where it was
    for said, found in {
        "": home / ".ceylon_nb" / "answers.sqlite",
        "off": None,
        "OFF": None,
        "mine.sqlite": home / "mine.sqlite",
        str(tmp_path): tmp_path / "answers.sqlite",  # a folder
        str(tmp_path / "a file"): tmp_path / "a file",
    }.items():
        monkeypatch.setenv("CEYLON_NB_STORE", said)
        assert place.locate("auto") == place.locate() == found
        assert place.locate(None) is None
        assert place.locate("mine.sqlite") == place.locate(Path("mine.sqlite")) == elsewhere / "mine.sqlite"
    for nonsense in ("", 1, True, ["a"]):
        with pytest.raises(ConfigurationError, match="path"):
            place.locate(nonsense)
    with pytest.raises(ConfigurationError, match="leads nowhere"):
        place.locate("~nobody-of-that-name/answers.sqlite")
    monkeypatch.delenv("CEYLON_NB_STORE")
    monkeypatch.setattr(place, "_home", None)  # what it is when that folder is gone
    with pytest.raises(ConfigurationError, match="CEYLON_NB_STORE"):
        place.locate()
    assert not list(home.iterdir())  # looking makes nothing
    assert not list(elsewhere.iterdir())


@POSIX
def test_the_store_is_for_its_owner_alone(tmp_path):
    before = os.umask(0)
    try:
        path = tmp_path / ".ceylon_nb" / "answers.sqlite"
        connection = file.connect(path)
        connection.execute("INSERT INTO families (text) VALUES ('{}')")
    finally:
        os.umask(before)
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert modes.pop(".gitignore")
    assert modes == dict.fromkeys(["answers.sqlite", "answers.sqlite-wal", "answers.sqlite-shm"], 0o600)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert "*" in (path.parent / ".gitignore").read_text().splitlines()
    connection.close()
    (path.parent / ".gitignore").write_text("mine")
    file.connect(path).close()
    assert (path.parent / ".gitignore").read_text() == "mine"


@pytest.mark.parametrize(
    ("kind", "shared"),
    [("nfs4", True), ("NFS", True), ("cifs", True), ("9p", True), ("fuse.sshfs", True), ("fuse.ntfs-3g", False),
     ("ext4", False), ("overlay", False), ("tmpfs", False), ("", False)],
)  # fmt: skip
def test_network_file_systems_by_name(kind, shared):
    assert place.is_network(kind) is shared


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's mounts")
def test_the_file_system_of_real_mounts(tmp_path):
    assert place.filesystem(Path("/proc/self/answers.sqlite")) == "proc"
    assert place.filesystem(Path("/dev/shm/a/b.sqlite")) == "tmpfs"
    assert not place.is_network(place.filesystem(tmp_path))


# -- file ------------------------------------------------------------------------------------------------------------

RELEASED = ["e658e35634f53c1d", "99ca94cbf9320de0"]
"""Digests of the steps that files out there were made by: a step is never edited, another one is added."""


def test_the_format_is_what_files_out_there_have():
    steps = [" ".join(step.split()) for step in file.STEPS]
    assert [hashlib.sha256(step.encode()).hexdigest()[:16] for step in steps[: len(RELEASED)]] == RELEASED
    assert file.APPLICATION_ID == 0x63796C6E


def older(path, steps, *, rows=3):
    """A file that an older version made, with answers to "q0", "q1", … of a function `echo` in it."""
    family = Family(function=f"{__name__}.echo")
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript("".join(file.STEPS[:steps]))
    connection.execute(f"PRAGMA application_id = {file.APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {steps}")
    connection.execute("INSERT INTO families (id, text) VALUES (7, ?)", (family.text,))
    for n in range(rows):
        connection.execute(
            "INSERT INTO answers (family, question, occurrence, prompt, status, kind, reply, attempts, at)"
            " VALUES (7, ?, 0, ?, 1, 1, ?, 1, 0.0)",
            (family.asks(f"q{n}").number, f"q{n}", json.dumps(f"old {n}")),
        )
    connection.close()
    return path


async def echo(item):
    return f"<{item}>"


def batch_of(path, items, fn=echo, **options):
    """Run a batch of a function, to its end."""

    async def main():
        return await batch(fn, items, key=str, store=path, view=None, **options)

    return asyncio.run(main())


@pytest.mark.parametrize("steps", range(1, len(file.STEPS)))
@pytest.mark.parametrize("opened_by", ["connect", "store", "batch"])
def test_an_older_file_opens(tmp_path, steps, opened_by):
    path = older(tmp_path / "old.sqlite", steps)
    if opened_by == "connect":
        file.connect(path).close()
    elif opened_by == "store":
        assert store(path).batches().empty
        assert store(path).export(tmp_path / "out.jsonl") == 3
    frame = batch_of(path, [f"q{n}" for n in range(4)])
    assert frame["reply"].tolist() == ["old 0", "old 1", "old 2", "<q3>"]
    assert frame["from_store"].tolist() == [True, True, True, False]
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(file.STEPS),)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_what_is_no_store_is_left_alone(tmp_path):
    theirs = tmp_path / "theirs.sqlite"
    with sqlite3.connect(theirs) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    text = tmp_path / "notes.txt"
    text.write_text("Bread, milk.\n" * 500)
    for path in (theirs, text):
        before = path.read_bytes()
        for use in (file.connect, file.connect_to_look):
            with pytest.raises(StoreCorrupt, match="store="):
                use(path)
        assert path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["notes.txt", "theirs.sqlite"]


def test_a_newer_file_is_refused(tmp_path):
    path = tmp_path / "new.sqlite"
    file.connect(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {len(file.STEPS) + 1}")
    connection.close()
    for use in (file.connect, file.connect_to_look):
        with pytest.raises(StoreTooNew, match=f"format {len(file.STEPS) + 1}; this one knows {len(file.STEPS)}"):
            use(path)


def test_a_network_file_system_has_no_wal(tmp_path, monkeypatch, caplog):
    path = tmp_path / "answers.sqlite"
    file.connect(path).close()  # as it was while it lay on a local disk
    monkeypatch.setattr(place, "filesystem", lambda path: "nfs4")
    file._warn_of_network.cache_clear()
    for found in (path, tmp_path / "new.sqlite"):
        with caplog.at_level(logging.WARNING, logger="ceylon_nb"):
            assert batch_of(found, ["a"])["reply"].tolist() == ["<a>"]
            assert batch_of(found, ["a", "b"])["from_store"].tolist() == [True, False]
        connection = sqlite3.connect(found)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        connection.close()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2  # once a file
    assert all("network file system (nfs4)" in line for line in said)


def test_many_open_a_new_file_at_the_same_moment(tmp_path):
    for n in range(12):
        path, barrier, failed = tmp_path / f"{n}.sqlite", threading.Barrier(8), []

        def connect(path=path, barrier=barrier, failed=failed):
            barrier.wait()
            try:
                file.connect(path).close()
            except Exception as error:  # noqa: BLE001 - shown below
                failed.append(error)

        threads = [threading.Thread(target=connect) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (len(file.STEPS),)
        connection.close()


def test_who_reads_makes_no_file(tmp_path):
    with pytest.raises(StoreUnwritable):
        file.connect_to_read(tmp_path / "gone.sqlite")
    empty = file.connect_to_look(tmp_path / "gone.sqlite")
    assert empty.execute("SELECT count(*) FROM answers").fetchone() == (0,)
    empty.close()
    assert not list(tmp_path.iterdir())
    with pytest.raises(StoreUnwritable, match="cannot be made"):
        file.connect(tmp_path / "no folder" / "answers.sqlite")
    assert not list(tmp_path.iterdir())


# -- entries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        ("text", True),
        (Reply("text"), True),
        (None, True),
        (True, True),
        (1.5, True),
        ([1, {"a": [None, "b"]}], True),
        ((1, 2), False),
        ({1: "a"}, False),
        ({1, 2}, False),
        (b"a", False),
        (float("nan"), False),
        (2**70, False),
        (pd.Timestamp("2026-01-01"), False),
        (type("Mine", (str,), {})("a"), False),
        (type("Mine", (dict,), {})(a=1), False),
        (object(), False),
    ],
)
def test_only_what_comes_back_as_what_it_is_is_stored(reply, kept):
    assert storable(reply) is kept


texts = st.text(st.characters() | st.sampled_from("\0\ud800\udfff\U0001f41f\r\n\"\\'"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.builds(
            Reply,
            texts,
            usage=st.builds(Usage, st.none() | st.integers(0, 2**53), st.none() | st.integers(0, 2**53)),
            model=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
            latency=st.none() | st.floats(0, 1e6),
            finish_reason=st.none() | st.sampled_from(["stop", "length"]),
            attempts=st.integers(1, 99),
        )
        | texts
        | st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(codec="utf-8")),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
            max_leaves=5,
        ),
        min_size=1,
        max_size=5,
    )
)
def test_what_is_written_is_what_is_read(tmp_path_factory, replies):
    path = tmp_path_factory.getbasetemp() / "round.sqlite"
    landed = threading.Event()
    ledger = ledger_of(path, on_landed=lambda _, entries: entries and landed.set())
    ledger.open()
    entries = [
        Entry(ledger, position, OK, reply, attempts=2, latency=0.25, question=ledger.family.asks("q\0🐟"))
        for position, reply in enumerate(replies)
    ]
    for entry in entries:
        ledger.put(entry)
    ledger.flush()
    assert landed.wait(PATIENCE)
    ledger.close()
    connection = file.connect_to_read(path)
    rows = connection.execute(
        f"SELECT prompt, {REPLY_COLUMNS} FROM answers WHERE batch = ? ORDER BY position", (ledger.batch,)
    ).fetchall()
    connection.close()
    for reply, (prompt, *row) in zip(replies, rows, strict=True):
        found = decode(*row)
        assert prompt == "q\0🐟"
        assert found == (mended(reply) if isinstance(reply, str) else reply)
        assert type(found) is type(reply)
        if isinstance(reply, Reply):
            assert (found.usage, found.finish_reason) == (reply.usage, reply.finish_reason)
            assert found.model == reply.model


def mended(text):
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def test_an_entry_has_a_cell_for_every_column():
    entry = Entry(None, 3, FAILED, error=OSError("a \ud800 name"))
    row = dict(zip(COLUMNS.split(", "), encode(entry, 5, 6), strict=True))
    assert row["error"] == "OSError: a � name"
    assert (row["batch"], row["position"], row["family"], row["status"], row["reply"]) == (5, 3, 6, FAILED, None)


# -- ledger, writer and reader ---------------------------------------------------------------------------------------


def ledger_of(path, *, on_landed=lambda *_: None, on_failed=lambda *_: None, **parts):
    return Ledger(
        path,
        Family(model="m", **parts),
        name="a name with \ud800",
        model="m",
        fresh=False,
        counts=lambda: Counts(None, 0, 0, 0),
        on_landed=on_landed,
        on_failed=on_failed,
    )


def test_what_cannot_be_said_to_the_file_is_an_error_and_not_silence(tmp_path):
    """Whatever it is: were the thread that writes to end, its batches would wait for ever."""
    failed, landed = threading.Event(), threading.Event()
    errors = []

    def on_failed(_, entries, error):
        errors.append(error)
        failed.set()

    seen = {"on_landed": lambda _, entries: entries and landed.set(), "on_failed": on_failed}
    ledger = ledger_of(tmp_path / "a.sqlite", **seen)
    ledger.open()
    poison = Entry(ledger, 0, OK, Reply("text", finish_reason=object()))
    ledger.put(poison)
    assert failed.wait(PATIENCE)
    assert "cannot be used" in str(errors[0])
    poison.reply = Reply("text")
    ledger.open()
    assert landed.wait(PATIENCE)
    ledger.close()


def test_the_newest_answer_is_found_by_text_and_occurrence(tmp_path):
    path, landed = tmp_path / "a.sqlite", threading.Event()
    ledger = ledger_of(path, on_landed=lambda _, entries: entries and landed.set())
    other = Family(model="other")
    ledger.open()
    asks = ledger.family.asks
    for position, (text, occurrence, reply) in enumerate(
        [("a", 0, "old"), ("a", 1, "second"), ("a", 0, "new"), ("b\0", 0, "b"), ("c", 0, "c")]
    ):
        ledger.put(Entry(ledger, position, OK, reply, question=asks(text), occurrence=occurrence))
    ledger.put(Entry(ledger, 5, FAILED, error=OSError("no"), question=asks("d")))
    ledger.flush()
    assert landed.wait(PATIENCE)
    ledger.close()
    with sqlite3.connect(path) as connection:  # two questions of one number
        connection.execute("UPDATE answers SET prompt = 'not c' WHERE prompt = 'c'")
    connection.close()

    async def main(family, *wanted):
        reader = Reader(path, family)
        found = await asyncio.gather(*(reader.find(family.asks(text), occurrence) for text, occurrence in wanted))
        reader.end()
        return [each and each.reply for each in found]

    wanted = [("a", 0), ("a", 1), ("a", 2), ("b\0", 0), ("b", 0), ("c", 0), ("d", 0)]
    assert asyncio.run(main(ledger.family, *wanted)) == ["new", "second", None, "b", None, None, None]
    assert asyncio.run(main(other, *wanted)) == [None] * len(wanted)


# -- what there is ---------------------------------------------------------------------------------------------------


async def picky(item):
    if item == "bad":
        raise OSError("no, not \ud800\nthat")
    return Reply(f"<{item}>", usage=Usage(3, 4), model="tiny", finish_reason="stop")


def test_a_store_shows_what_there_is(tmp_path):
    path = tmp_path / "a.sqlite"
    assert store(path).batches().empty
    batch_of(path, ["a", "bad", "a"], picky, name="first")
    batch_of(path, ["b", "a", "a", "a"], picky, name="second")
    found = store(path).batches()
    assert found["name"].tolist() == ["second", "first"]
    assert found["done"].tolist() == [4, 2]
    assert found["failed"].tolist() == [0, 1]
    assert found["left"].tolist() == [0, 0]
    assert found["from_store"].tolist() == [2, 0]
    assert found["tokens"].tolist() == [14, 14]
    assert str(found["when"].dtype).endswith("UTC]")
    assert abs(found["when"].iloc[0].timestamp() - time.time()) < 60
    first, second = store(path).frame("first"), store(path).frame("second")
    assert first["prompt"].tolist() == ["a", "bad", "a"]
    assert first["status"].tolist() == ["ok", "failed", "ok"]
    assert first["reply"].tolist() == ["<a>", None, "<a>"]
    assert first["error"].tolist() == [None, "OSError: no, not � that", None]
    assert first["attempts"].tolist() == [1, 1, 1]
    assert type(first["reply"][0]) is Reply
    assert second["from_store"].tolist() == [False, True, True, False]
    assert second["input_tokens"].tolist() == [3, 3, 3, 3]
    assert store(path).frame(int(found.index[1])).equals(first)
    with pytest.raises(ConfigurationError, match=r"no batch 'third'.*second.*first"):
        store(path).frame("third")


def test_looking_makes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("CEYLON_NB_STORE", str(tmp_path / ".ceylon_nb" / "answers.sqlite"))
    assert ceylon_nb.batches().empty
    assert list(ceylon_nb.batches().columns) == list(ceylon_nb.store().batches().columns)
    assert ceylon_nb.store().prune(0) == 0
    with pytest.raises(ConfigurationError, match="There is no batch 'x'"):
        ceylon_nb.store().frame("x")
    assert ceylon_nb.store().export(tmp_path / "nothing.csv") == 0
    assert [each.name for each in tmp_path.iterdir()] == ["nothing.csv"]
    monkeypatch.setenv("CEYLON_NB_STORE", "off")
    with pytest.raises(ConfigurationError, match="switched off"):
        ceylon_nb.store()


NASTY = ["plain", 'a "quoted"\r\nline', "only \r", "comma, and 🐟", "=1+1", "bad"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_what_is_exported_is_what_there_was(tmp_path, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    path, out = tmp_path / "a.sqlite", tmp_path / f"out.{kind}"
    batch_of(path, NASTY, picky, name="nasty", max_at_once=1)
    batch_of(path, ["later"], picky, name="other")
    assert store(path).export(out) == 7
    assert store(path).export(out, "nasty") == 6
    if kind == "csv":
        table = pd.read_csv(out, keep_default_na=False, lineterminator=None)
    else:
        table = pd.read_parquet(out) if kind == "parquet" else pd.read_json(out, lines=True)
    assert table["prompt"].tolist() == NASTY
    assert table["batch"].unique().tolist() == ["nasty"]
    assert table["reply"].tolist()[:5] == [f"<{item}>" for item in NASTY[:5]]
    assert pd.isna(table["reply"][5]) or (kind == "csv" and not table["reply"][5])
    assert table["status"].tolist() == ["ok"] * 5 + ["failed"]
    assert table["position"].tolist() == list(range(6))
    assert table["error"][5] == "OSError: no, not � that"
    assert pd.to_datetime(table["at"]).between("2026-01-01", "2100-01-01").all()
    with pytest.raises(ConfigurationError):
        store(path).export(tmp_path / "out.xlsx")
    with pytest.raises(ConfigurationError, match="no batch"):
        store(path).export(out, "none of that name")


def age(path, name, days):
    """Have a batch, and what it asked for, be older."""
    with sqlite3.connect(path) as connection:
        (number,) = connection.execute("SELECT id FROM batches WHERE name = ?", (name,)).fetchone()
        then = time.time() - days * 86400
        connection.execute("UPDATE batches SET begun = ?, updated = ? WHERE id = ?", (then, then, number))
        connection.execute("UPDATE answers SET at = ? WHERE batch = ?", (then, number))
    connection.close()


def test_prune_keeps_what_younger_batches_use(tmp_path):
    path = tmp_path / "a.sqlite"

    async def long(item):
        return f"{item} " * 20_000

    batch_of(path, ["a", "b", "c"], long, name="old")
    batch_of(path, ["b", "d"], long, name="new")
    age(path, "old", 40)
    assert store(path).prune("50 days") == 0
    size = path.stat().st_size
    assert store(path).prune(timedelta(days=30)) == 2
    assert path.stat().st_size < size - 50_000
    assert store(path).frame("new")["reply"].tolist() == ["b " * 20_000, "d " * 20_000]
    assert store(path).batches()["name"].tolist() == ["new", "old"]  # of the old one an answer is left
    again = batch_of(path, ["a", "b", "d"], long, name="again")
    assert again["from_store"].tolist() == [False, True, True]
    for name, days in (("old", 40), ("new", 35), ("again", 0)):
        age(path, name, days)
    assert store(path).prune(30 * 86400) == 0  # "again" uses what the others asked for
    age(path, "again", 31)
    assert store(path).prune("30 days") == 3
    assert store(path).batches().empty
    for nonsense in (-1, "soon", True, float("nan")):
        with pytest.raises(ConfigurationError, match="length of time"):
            store(path).prune(nonsense)
