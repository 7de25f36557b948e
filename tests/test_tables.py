"""Tables on disk."""

import math

import pandas as pd
import pytest

from ceylon_nb import tables
from ceylon_nb.errors import ConfigurationError
from ceylon_nb.messages import Reply


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ('id,text\n007,"a, ""b""\nc"\nNA,\n', {"id": ["007", "NA"], "text": ['a, "b"\nc', ""]}),
        ("\ufefftext\n1.10\n", {"text": ["1.10"]}),
        ("text\r\nå\r\n", {"text": ["å"]}),
        ("a,b\n1\n", {"a": ["1"], "b": [""]}),
        ("text\n", {"text": []}),
    ],
)
def test_read_csv(tmp_path, text, table):
    path = tmp_path / "in.csv"
    path.write_text(text, encoding="utf-8", newline="")
    assert tables.read(path).to_dict("list") == table


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ('{"a": 1, "b": "x"}\n\n{"b": null, "a": 9007199254740993}\n', {"a": [1, 9007199254740993], "b": ["x", None]}),
        (
            '{"t": "2024-01-31", "n": "007", "l": [1, {"x": 2}]}',
            {"t": ["2024-01-31"], "n": ["007"], "l": [[1, {"x": 2}]]},
        ),
        ('{"t": "half \\ud83d"}\n', {"t": ["half \ufffd"]}),
        ("", {}),
    ],
)
def test_read_jsonl(tmp_path, text, table):
    path = tmp_path / "in.JSONL"
    path.write_text(text, encoding="utf-8")
    assert tables.read(path).to_dict("list") == table


def test_read_parquet(tmp_path):
    path = tmp_path / "in.parquet"
    pd.DataFrame({"text": ["a", None], "n": [1, 2]}, index=["x", "y"]).to_parquet(path)
    table = tables.read(path)
    assert table["n"].tolist() == [1, 2]
    assert table["text"].isna().tolist() == [False, True]
    assert table.index.tolist() == [0, 1]
    path.write_bytes(b"text")
    with pytest.raises(ConfigurationError, match=r"in\.parquet cannot be read: "):
        tables.read(path)


def test_a_field_that_a_line_of_jsonl_lacks_is_missing(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"a": 9007199254740993}\n{"b": true}\n')
    table = tables.read(path)
    assert table["a"][0] == 9007199254740993
    assert table["b"][1] is True
    assert table.isna().to_numpy().tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("in.txt", b"text\n", "is neither .csv, .jsonl nor .parquet."),
        ("gone.csv", None, "cannot be read: [Errno 2] No such file or directory"),
        ("in.csv", b"", "cannot be read: No columns to parse from file."),
        ("in.csv", b"a,b\n1,2,3\n", "cannot be read: Length of header or names does not match length of data."),
        ("in.csv", b"a,b\n1,2\n1,2,3\n", "Expected 2 fields in line 3, saw 3."),
        ("in.csv", b"a\n\xff\xfe\n", "can't decode byte 0xff"),
        ("in.jsonl", b'{"a": 1}\n{"a": \n', "cannot be read: line 2 is not JSON: "),
        ("in.jsonl", b"[1, 2]\n", "cannot be read: line 1 is not an object but a list."),
        ("in.jsonl", b'{"a": "\xff"}\n', "line 1 is not JSON"),
    ],
)
def test_a_table_that_cannot_be_read(tmp_path, name, content, sentence):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        tables.read(path)
    assert sentence in str(caught.value)
    assert name in str(caught.value)


ANSWERS = pd.DataFrame(
    {
        "reply": pd.Series([Reply('a, "b"\nc'), None, "å{x}<b>"], dtype=object),
        "status": pd.Categorical(["ok", "failed", "ok"]),
        "input_tokens": pd.array([1, None, 3], dtype="Int64"),
        "latency": [0.5, math.nan, 1.5],
        "from_store": [False, False, True],
    }
)


def test_write_csv(tmp_path):
    path = tmp_path / "out.csv"
    tables.write(ANSWERS, path)
    assert path.read_text(encoding="utf-8") == (
        "reply,status,input_tokens,latency,from_store\n"
        '"a, ""b""\nc",ok,1,0.5,False\n'
        ",failed,,,False\n"
        "å{x}<b>,ok,3,1.5,True\n"
    )


def test_write_jsonl(tmp_path):
    path = tmp_path / "out.jsonl"
    tables.write(ANSWERS, path)
    assert path.read_text(encoding="utf-8").splitlines() == [
        '{"reply": "a, \\"b\\"\\nc", "status": "ok", "input_tokens": 1, "latency": 0.5, "from_store": false}',
        '{"reply": null, "status": "failed", "input_tokens": null, "latency": null, "from_store": false}',
        '{"reply": "å{x}<b>", "status": "ok", "input_tokens": 3, "latency": 1.5, "from_store": true}',
    ]
    assert tables.read(path)["reply"].tolist() == ANSWERS["reply"].tolist()


def test_a_table_comes_back_as_it_was_written(tmp_path):
    table = pd.DataFrame({"text": ["007", "NA", "", 'x,"y"'], "big": [10**30, -1, 0, 2**63]}, dtype=object)
    path = tmp_path / "table.jsonl"
    tables.write(table, path)
    back = tables.read(path)
    assert back["text"].tolist() == table["text"].tolist()
    assert [float(n) for n in back["big"]] == [float(n) for n in table["big"]]


def test_joined_keeps_every_column_also_the_third_time():
    """The output of a run is the input of the next."""
    table = pd.DataFrame({"text": ["a", "b"]})
    answers = pd.DataFrame({"reply": ["A", "B"], "status": ["ok", "ok"]})
    once = tables.joined(table, answers)
    assert list(once) == ["text", "reply", "status"]
    twice = tables.joined(once, answers)
    assert list(twice) == ["text", "reply", "status", "answer_reply", "answer_status"]
    thrice = tables.joined(twice, answers)
    assert list(thrice)[-2:] == ["answer_answer_reply", "answer_answer_status"]
    assert thrice["answer_answer_reply"].tolist() == ["A", "B"]


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "OUT.CSV"])
def test_a_file_that_can_be_written_to(tmp_path, name):
    tables.check_path(tmp_path / name)
    (tmp_path / name).touch()
    tables.check_path(tmp_path / name)


def test_a_file_that_cannot_be_written_to(tmp_path):
    with pytest.raises(ConfigurationError, match=r"is neither \.csv, \.jsonl nor \.parquet"):
        tables.check_path(tmp_path / "out.xlsx")
    with pytest.raises(ConfigurationError, match=r"There is no folder .*gone"):
        tables.check_path(tmp_path / "gone" / "out.csv")
    (tmp_path / "dir.csv").mkdir()
    with pytest.raises(ConfigurationError, match="cannot be written to"):
        tables.check_path(tmp_path / "dir.csv")
