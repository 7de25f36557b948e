"""Tables on disk and of what is there: .csv, .jsonl and .parquet files, and what the store shows.

With `frames` the only place that knows pandas.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import itertools
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError
from .messages import decode_json

if TYPE_CHECKING:
    import pandas as pd

READ = WRITTEN = (".csv", ".jsonl", ".parquet")

PARQUET = "A .parquet file needs pyarrow: pip install pyarrow."

CHUNK = 20_000
"""Rows in memory at a time while a store is written to a file."""


def check_path(path: Path, formats: Sequence[str] = WRITTEN) -> None:
    """Refuse a file that cannot be written to, before anything is sent.

    Raises
    ------
    ConfigurationError
        None of .csv, .jsonl and .parquet, in a folder that is not there, or not ours to write to.
    """
    if _check_format(path, formats) == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigurationError(PARQUET)
    if not path.parent.is_dir():
        raise ConfigurationError(f"There is no folder {path.parent}.")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigurationError(f"{path} cannot be written to.")


def _check_format(path: Path, formats: Sequence[str]) -> str:
    suffix = path.suffix.lower()
    if suffix not in formats:
        *others, last = formats
        said = f"neither {', '.join(others)} nor {last}" if others else f"no {last} file"
        raise ConfigurationError(f"{path} is {said}.")
    return suffix


def read(path: Path) -> pd.DataFrame:
    """A table from a .csv file (every cell as the text it is), a .jsonl file (an object a line) or a .parquet file.

    Of the last two, cells are as they are.

    Raises
    ------
    ConfigurationError
        It is not there, or cannot be read.
    """
    import pandas as pd

    suffix = _check_format(path, READ)
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigurationError(PARQUET)
    try:
        if suffix == ".parquet":
            return pd.read_parquet(path, engine="pyarrow").reset_index(drop=True)
        if suffix == ".jsonl":
            return pd.DataFrame(list(_objects_in(path)), dtype=object)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # cells that no column has a name for
            return pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    except (OSError, ValueError, pd.errors.ParserWarning) as error:
        raise ConfigurationError(f"{path} cannot be read: {' '.join(str(error).split()).rstrip('.')}.") from error


def _objects_in(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    found = decode_json(line)
                except ValueError as error:
                    raise ValueError(f"line {number} is not JSON: {error}") from error
                if not isinstance(found, dict):
                    raise ValueError(f"line {number} is not an object but a {type(found).__name__}")
                yield found


def as_csv(frame: pd.DataFrame) -> str:
    r"""A table as CSV (RFC 4180); were its lines to end in ``\n`` alone, a ``\r`` in a cell would not be quoted."""
    return frame.to_csv(index=False, lineterminator="\r\n")


def write(frame: pd.DataFrame, path: Path) -> None:
    """Write a table to a .csv, .jsonl or .parquet file, empty cells as nothing and as null."""
    suffix = _check_format(path, WRITTEN)
    if suffix == ".csv":
        path.write_text(as_csv(frame), encoding="utf-8", newline="")
    elif suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(_lines(frame.astype(object).where(frame.notna(), None).to_dict("records")))


def _lines(rows: Iterable[dict[Any, Any]]) -> Iterator[str]:
    return (json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def joined(items: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """The input's columns and then the answers'; one that the input has already is named ``answer_…``."""
    names = {}
    for name in answers:
        names[name] = name
        while names[name] in items:
            names[name] = f"answer_{names[name]}"
    return items.join(answers.rename(columns=names))


# -- of the store ----------------------------------------------------------------------------------------------------


def of_batches(rows: Iterable[Sequence[Any]]) -> pd.DataFrame:
    """The list of batches: (number, name, seconds since 1970, model, done, failed, left, from_store, tokens) each."""
    import pandas as pd

    frame = pd.DataFrame(rows, columns="batch name when model done failed left from_store tokens".split())
    counts = dict.fromkeys(("done", "failed", "left", "from_store", "tokens"), "Int64")
    frame = frame.set_index("batch").astype(counts)
    frame["when"] = pd.to_datetime(frame["when"].astype(float), unit="s", utc=True).dt.floor("s")
    return frame


def with_prompts(frame: pd.DataFrame, prompts: Sequence[str | None]) -> pd.DataFrame:
    """The answers, each after its prompt."""
    import pandas as pd

    frame.insert(0, "prompt", pd.Series(list(prompts), dtype=object, index=frame.index))
    return frame


def seconds_of(length: timedelta | str | float) -> float:
    """A length of time: a timedelta, seconds, or words such as "30 days".

    Raises
    ------
    ConfigurationError
        It is none, or below 0.
    """
    import pandas as pd

    try:
        seconds = length if isinstance(length, int | float) else pd.Timedelta(length).total_seconds()
    except (ValueError, TypeError):
        seconds = -1.0
    if not 0 <= seconds < float("inf") or isinstance(length, bool):
        raise ConfigurationError(f'A length of time is a timedelta, seconds, or "30 days", not {length!r}.')
    return float(seconds)


def traffic(rows: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
    """The messages of a mesh, one a row, in the order in which they were sent; see `LocalMesh.trace`."""
    import pandas as pd

    names = ("when", "from", "to", "kind", "message", "answer", "waited", "latency", "error", "tokens")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(names, ())
    kinds = {"when": "float64", "waited": "float64", "latency": "float64", "tokens": "Int64"}
    frame = pd.DataFrame(
        {name: pd.Series(list(cells), dtype=kinds.get(name, "object")) for name, cells in columns.items()}
    )
    frame["when"] = pd.to_datetime(frame["when"], unit="s", utc=True).dt.round("ms").astype("datetime64[ms, UTC]")
    return frame


def export(rows: Iterator[tuple[Any, ...]], columns: Mapping[str, str], path: Path) -> int:
    """Write rows to a .csv, .jsonl or .parquet file, some at a time; returns how many.

    Parameters
    ----------
    rows : iterator of tuples
    columns : mapping
        Their names, and Arrow's names for their types.
    """
    count = 0
    with _sink(columns, path) as write_some:
        while chunk := list(itertools.islice(rows, CHUNK)):
            write_some(chunk)
            count += len(chunk)
    return count


@contextlib.contextmanager
def _sink(columns: Mapping[str, str], path: Path) -> Iterator[Callable[[list[tuple[Any, ...]]], object]]:
    """What writes rows to such a file."""
    suffix = _check_format(path, WRITTEN)
    if suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in columns.items()])
        with pq.ParquetWriter(path, schema) as parquet:
            yield lambda chunk: parquet.write_table(
                pa.table([list(cells) for cells in zip(*chunk, strict=True)], schema=schema)
            )
    elif suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            yield writer.writerows
    else:
        with path.open("w", encoding="utf-8") as file:
            yield lambda chunk: file.writelines(_lines(dict(zip(columns, row, strict=True)) for row in chunk))
