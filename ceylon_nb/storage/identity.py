"""What makes two questions the same: who is asked, how, what, and for the how-many-th time."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import orjson

from ..messages import Message


class Question(NamedTuple):
    """One question: a digest of everything that matters, and its text.

    Attributes
    ----------
    digest : bytes
        16 of them.
    number : int
        The digest's first half, signed: what the store finds it by.
    prompt : str
        The user's message; of several messages, their JSON.
    """

    digest: bytes
    number: int
    prompt: str


class Family:
    """What all questions of a batch have in common: provider, endpoint, model, parameters.

    Parameters
    ----------
    **parts
        By name; None and what is not there are the same. No key is ever among them.
    """

    def __init__(self, **parts: str | float | None) -> None:
        said = {name: part for name, part in parts.items() if part is not None}
        self.text = orjson.dumps(said, option=orjson.OPT_SORT_KEYS).decode()
        self._digest = blake2b(self.text.encode(), digest_size=16)

    def asks(self, prompt: str) -> Question:
        """The question with this text."""
        return self._question(b"\0", prompt)

    def asks_messages(self, messages: Sequence[Message], system_prompt: str | None) -> Question:
        """The question that these messages are; the system prompt that the family has is not repeated."""
        if system_prompt and messages[0].role == "system" and messages[0].content == system_prompt:
            messages = messages[1:]
        if len(messages) == 1 and messages[0].role == "user":
            return self._question(b"\0", messages[0].content)
        return self._question(b"\1", orjson.dumps(messages).decode())

    def _question(self, form: bytes, prompt: str) -> Question:
        hashed = self._digest.copy()
        hashed.update(form + prompt.encode())
        digest = hashed.digest()
        return Question(digest, int.from_bytes(digest[:8], "big", signed=True), prompt)


class Occurrences:
    """How often each question has come, in about nine bytes each: a million in a dict would take 150 MB.

    16,384 strings of 6-byte fingerprints, picked by 14 more bits of the digest: one of them is some 370 bytes long at
    a million questions, and searched in a fraction of a microsecond. Counts above one, which are rare, are in a dict.
    """

    SIZE = 6

    def __init__(self) -> None:
        self._seen: dict[int, bytearray] = {}
        self._more: dict[bytes, int] = {}

    def count(self, question: Question) -> int:
        """How often it has come before this time."""
        shard = int.from_bytes(question.digest[:2], "big") >> 2
        fingerprint = question.digest[2 : 2 + self.SIZE]
        seen = self._seen.get(shard)
        if seen is None:
            self._seen[shard] = bytearray(fingerprint)
            return 0
        at = seen.find(fingerprint)
        while at % self.SIZE and at >= 0:  # across the border of two
            at = seen.find(fingerprint, at + 1)
        if at < 0:
            seen += fingerprint
            return 0
        before = self._more.get(question.digest, 1)
        self._more[question.digest] = before + 1
        return before
