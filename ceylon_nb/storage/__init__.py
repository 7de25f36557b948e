"""Answers on disk: committed before they are shown, found again by whoever asks the same."""

from .catalog import Store, batches, store

__all__ = ["Store", "batches", "store"]
