"""What a file of answers looks like: the columns of a frame, after the position and, where it is another, the label."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..answers import STATUSES

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

COLUMNS = {
    "status": "int8",
    "reply": "string",
    "error": "string",
    "attempts": "int64",
    "latency": "float64",
    "input_tokens": "int64",
    "output_tokens": "int64",
    "finish_reason": "string",
    "from_store": "bool",
}
"""Of a record in the journal; a frame has the reply first, and words for the status."""

_AS_PANDAS: dict[str, tuple[str, str, object]] = {
    "reply": ("unicode", "object", None),
    "status": ("categorical", "int8", {"num_categories": len(STATUSES), "ordered": False}),
    "error": ("unicode", "object", None),
    "input_tokens": ("int64", "Int64", None),
    "output_tokens": ("int64", "Int64", None),
    "finish_reason": ("unicode", "object", None),
}
"""Their types in a frame, where they do not follow from Arrow's."""


def records() -> pa.Schema:
    """The schema of the journal."""
    import pyarrow as pa

    return pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])


@contextlib.contextmanager
def written(path: Path, index: Any) -> Iterator[Callable[[NDArray[np.int64], pa.Table], None]]:
    """Write a file of answers: call what this gives with positions and the records of each, as often as need be."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = _labels(index)
    before = [("position", pa.int64())] + ([("index", labels.type)] if labels is not None else [])
    kinds = {name: pa.type_for_alias(kind) for name, kind in COLUMNS.items()}
    kinds["status"] = pa.dictionary(pa.int8(), pa.string())
    schema = pa.schema([*before, ("reply", kinds.pop("reply")), *kinds.items()], metadata=_for_pandas())
    words = pa.array(STATUSES)
    with pq.ParquetWriter(path, schema, memory_pool=pa.system_memory_pool()) as file:

        def add(positions: NDArray[np.int64], found: pa.Table) -> None:
            columns = {name: found.column(name) for name in COLUMNS}
            codes = found.column("status").combine_chunks(memory_pool=pa.system_memory_pool())
            columns["status"] = pa.DictionaryArray.from_arrays(codes, words)
            columns["position"] = pa.array(positions)
            if labels is not None:
                columns["index"] = labels.take(columns["position"])
            file.write_table(pa.table([columns[name] for name in schema.names], schema=schema))

        yield add


def _labels(index: Any) -> pa.Array | None:
    """The labels, as text if Arrow has no type for them; None if they are the positions."""
    import pyarrow as pa

    if index is None:
        return None
    with contextlib.suppress(pa.ArrowException, TypeError, ValueError, OverflowError):
        labels = pa.array(index)
        if pa.types.is_dictionary(labels.type):
            labels = labels.dictionary_decode()
        if not isinstance(labels.type, pa.BaseExtensionType):
            return labels
    return pa.array([str(label) for label in index], pa.string())


def _for_pandas() -> dict[str, str]:
    """What lets pandas read the columns as those of a frame, with its own types."""
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": as_numpy, "metadata": more}
        for name, (kind, as_numpy, more) in _AS_PANDAS.items()
    ]
    creator = {"library": "pyarrow", "version": "0"}
    said = {
        "index_columns": [],
        "column_indexes": [],
        "columns": columns,
        "creator": creator,
        "pandas_version": "2.2.0",
    }
    return {"pandas": json.dumps(said)}
