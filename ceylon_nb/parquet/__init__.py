"""Parquet files as items and as answers, of any length, in little memory. The only place but `tables` with pyarrow."""

from .reading import Items, ParquetRows, source
from .writing import Delivered

__all__ = ["Delivered", "Items", "ParquetRows", "source"]
