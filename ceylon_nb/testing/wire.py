"""The bytes that model servers send, whichever wire format they speak: ``ollama`` and ``openai`` are two. No sockets.

The official clients are the judges in the tests. A *frame* is one line of NDJSON or one server-sent event, its end
included.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from .witness import Request, text_of

_TOKEN = re.compile(r"\s*\S+(?:\s+\Z)?|\s+")


def tokens(text: str) -> list[str]:
    """Words, each with the white space before it; joined, they are the text again."""
    return _TOKEN.findall(text)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says to one request. Tokens are words.

    Attributes
    ----------
    request : Request
        What was asked.
    pieces : sequence of str
        What is said, token by token; joined, they are the text.
    tool_calls : sequence of Mapping
        What the model wants done, as ``{"function": {"name": …, "arguments": {…}}}``.
    cut : bool
        Whether it would have said more, had it been allowed more tokens.
    """

    request: Request
    pieces: Sequence[str]
    tool_calls: Sequence[Mapping[str, Any]]
    cut: bool

    @classmethod
    def compose(cls, request: Request, reply: str | Mapping[str, Any], limit: int | None) -> "Answer":
        """Cut a reply into tokens.

        Parameters
        ----------
        request : Request
            What was asked.
        reply : str or mapping
            What is said, as the ``reply`` of a `ModelServer`.
        limit : int or None
            Tokens, at the most.

        Returns
        -------
        Answer
            The reply, for a `Wire` to write.
        """
        message: Mapping[str, Any] = {"content": reply} if isinstance(reply, str) else reply
        pieces = tokens(message.get("content") or "")
        cut = limit is not None and len(pieces) > limit
        return cls(request, pieces[:limit] if cut else pieces, message.get("tool_calls") or (), cut)

    @property
    def text(self) -> str:
        """What is said, whole."""
        return "".join(self.pieces)

    @property
    def model(self) -> str:
        """The model that was asked."""
        return str(self.request.body["model"])

    @property
    def input_tokens(self) -> int:
        """How many tokens, which are words, the messages have."""
        return sum(len(text_of(message).split()) for message in self.request.messages)


class Wire(ABC):
    """One server's way to write answers, streams and errors: Ollama's, or OpenAI's.

    Attributes
    ----------
    plain_type, stream_type : str
        The content types of a whole answer and of a stream.
    frame_end : bytes
        What ends a frame.
    """

    plain_type: ClassVar[str] = "application/json"
    stream_type: ClassVar[str]
    frame_end: ClassVar[bytes]

    def headers(self, request: Request) -> dict[str, str]:
        """Headers that this server adds to each of its responses.

        Parameters
        ----------
        request : Request
            What is answered.

        Returns
        -------
        dict of str to str
            By name.
        """
        return {}

    @abstractmethod
    def streams(self, body: Mapping[str, Any]) -> bool:
        """Whether a request asks for a stream.

        Parameters
        ----------
        body : Mapping
            The request's, decoded.

        Returns
        -------
        bool
            Also where it does not say.
        """

    @abstractmethod
    def limit(self, body: Mapping[str, Any]) -> object:
        """The number of tokens that a request allows, as it says it.

        Parameters
        ----------
        body : Mapping
            The request's, decoded.

        Returns
        -------
        object
            None where it says nothing.
        """

    @abstractmethod
    def whole(self, answer: Answer, *, ended: bool = True) -> bytes:
        """The answer as one body.

        Parameters
        ----------
        answer : Answer
            What is said.
        ended : bool
            Whether it says that the model came to an end.

        Returns
        -------
        bytes
            JSON.
        """

    @abstractmethod
    def chunk(self, answer: Answer, text: str) -> bytes:
        """One frame of text.

        Parameters
        ----------
        answer : Answer
            What is said.
        text : str
            What is in the frame.

        Returns
        -------
        bytes
            The frame.
        """

    @abstractmethod
    def frames(self, answer: Answer) -> list[bytes]:
        """The stream without its end.

        Parameters
        ----------
        answer : Answer
            What is said.

        Returns
        -------
        list of bytes
            One frame a token, and one or more for tool calls.
        """

    @abstractmethod
    def ending(self, answer: Answer) -> bytes:
        """What ends a stream.

        Parameters
        ----------
        answer : Answer
            What is said.

        Returns
        -------
        bytes
            A frame, or more.
        """

    @abstractmethod
    def error(self, status: int, message: str | None = None, code: str | None = None) -> bytes:
        """The body of an error.

        Parameters
        ----------
        status : int
            The HTTP status.
        message : str, optional
            Without it what this server says with this status.
        code : str, optional
            OpenAI's name for it; Ollama has none.

        Returns
        -------
        bytes
            JSON.
        """

    @abstractmethod
    def error_frame(self, message: str) -> bytes:
        """An error in the middle of a stream.

        Parameters
        ----------
        message : str
            What it says.

        Returns
        -------
        bytes
            A frame.
        """

    @abstractmethod
    def no_model(self, model: str) -> bytes:
        """The body of the 404 for an unknown model.

        Parameters
        ----------
        model : str
            Its name.

        Returns
        -------
        bytes
            JSON.
        """

    @abstractmethod
    def no_key(self, key: str) -> bytes:
        """The body of the 401 for a missing or wrong key.

        Parameters
        ----------
        key : str
            The key; empty for none.

        Returns
        -------
        bytes
            JSON.
        """
