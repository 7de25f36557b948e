"""Answers recorded to a file that can be read and compared, and replayed from it without a model."""

from .session import RECORD, RECORDING, Recording, current, replay

__all__ = ["RECORD", "RECORDING", "Recording", "current", "replay"]
