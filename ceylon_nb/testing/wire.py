"""The bytes that Ollama and OpenAI send: one class a wire format, no sockets.

Sources: Ollama's ``docs/api.md``, OpenAI's API reference for chat completions; the official clients are the judges in
the tests. A *frame* is one line of NDJSON or one server-sent event, its end included.
"""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import responses
from typing import Any, ClassVar

import orjson

from .witness import Request, text_of

_TOKEN = re.compile(r"\s*\S+(?:\s+\Z)?|\s+")
_ARGUMENT = re.compile(r"\w+|\W")
_BIRTH = "2025-01-01T00:00:00Z"
_DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "3.2B",
    "quantization_level": "Q4_K_M",
}


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


class Ollama(Wire):
    """Ollama's native API: NDJSON, a stream unless told otherwise."""

    plain_type = "application/json; charset=utf-8"
    stream_type = "application/x-ndjson"
    frame_end = b"\n"
    _errors: ClassVar[dict[int, str]] = {
        400: "invalid character '}' looking for beginning of value",
        429: "too many requests",
        500: "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error",
        503: "server busy, please try again.  maximum pending requests exceeded",
    }

    def streams(self, body: Mapping[str, Any]) -> bool:
        return body.get("stream") is not False

    def limit(self, body: Mapping[str, Any]) -> object:
        options = body.get("options")
        return options.get("num_predict") if isinstance(options, dict) else None

    def whole(self, answer: Answer, *, ended: bool = True) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if answer.tool_calls:
            message["tool_calls"] = answer.tool_calls
        return orjson.dumps(self._part(answer, message) | (self._end(answer) if ended else {}))

    def chunk(self, answer: Answer, text: str) -> bytes:
        return self._frame(self._part(answer, {"role": "assistant", "content": text}))

    def frames(self, answer: Answer) -> list[bytes]:
        frames = [self.chunk(answer, piece) for piece in answer.pieces]
        if answer.tool_calls:
            message = {"role": "assistant", "content": "", "tool_calls": answer.tool_calls}
            frames.append(self._frame(self._part(answer, message)))
        return frames

    def ending(self, answer: Answer) -> bytes:
        return self._frame(self._part(answer, {"role": "assistant", "content": ""}) | self._end(answer))

    def error(self, status: int, message: str | None = None, code: str | None = None) -> bytes:
        return orjson.dumps({"error": message or self._errors.get(status) or responses.get(status, "").lower()})

    def error_frame(self, message: str) -> bytes:
        return self._frame({"error": message})

    def no_model(self, model: str) -> bytes:
        return self.error(404, f"model '{model}' not found")

    def no_key(self, key: str) -> bytes:
        return self.error(401, "unauthorized")

    def _frame(self, value: object) -> bytes:
        return orjson.dumps(value) + b"\n"

    def _part(self, answer: Answer, message: Mapping[str, Any]) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        return {"model": answer.model, "created_at": now, "message": message, "done": False}

    def _end(self, answer: Answer) -> dict[str, Any]:
        total = max(int((time.monotonic() - answer.request.at) * 1e9), 10)
        return {
            "done": True,
            "done_reason": "length" if answer.cut else "stop",
            "total_duration": total,
            "load_duration": total // 10,
            "prompt_eval_count": answer.input_tokens,
            "prompt_eval_duration": total // 5,
            "eval_count": len(answer.pieces),
            "eval_duration": total // 2,
        }


class OpenAI(Wire):
    """OpenAI's chat completions: one JSON body unless told otherwise, streams as SSE."""

    stream_type = "text/event-stream; charset=utf-8"
    frame_end = b"\n\n"
    _errors: ClassVar[dict[int, tuple[str, str, str | None]]] = {
        400: ("We could not parse the JSON body of your request.", "invalid_request_error", None),
        429: ("Rate limit reached for requests", "requests", "rate_limit_exceeded"),
        500: ("The server had an error while processing your request. Sorry about that!", "server_error", None),
        503: ("The engine is currently overloaded, please try again later", "server_error", None),
    }

    def headers(self, request: Request) -> dict[str, str]:
        return {"x-request-id": f"req_{request.number}"}

    def streams(self, body: Mapping[str, Any]) -> bool:
        return body.get("stream") is True

    def limit(self, body: Mapping[str, Any]) -> object:
        return body.get("max_completion_tokens") or body.get("max_tokens")

    def whole(self, answer: Answer, *, ended: bool = True) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        if answer.tool_calls:
            message["tool_calls"] = self._calls(answer)
        choice = {"index": 0, "message": message, "logprobs": None}
        choice["finish_reason"] = self._reason(answer) if ended else None
        return orjson.dumps(self._part(answer, "chat.completion", [choice]) | {"usage": self._usage(answer)})

    def chunk(self, answer: Answer, text: str) -> bytes:
        return self._delta(answer, {"content": text})

    def frames(self, answer: Answer) -> list[bytes]:
        frames = [self.chunk(answer, piece) for piece in answer.pieces]
        frames += [self._delta(answer, {"tool_calls": [piece]}) for piece in self._fragments(answer)]
        role = self._delta(answer, {"role": "assistant", "content": "", "refusal": None})
        return [role + frames[0], *frames[1:]] if frames else [role]

    def ending(self, answer: Answer) -> bytes:
        end = self._delta(answer, {}, self._reason(answer))
        if self._counts(answer):
            usage = self._part(answer, "chat.completion.chunk", []) | {"usage": self._usage(answer)}
            end += self._event(usage)
        return end + b"data: [DONE]\n\n"

    def error(self, status: int, message: str | None = None, code: str | None = None) -> bytes:
        other = "server_error" if status >= 500 else "invalid_request_error"
        text, kind, known = self._errors.get(status, (responses.get(status, "Error"), other, None))
        error = {"message": message or text, "type": kind, "param": None, "code": code or known}
        return orjson.dumps({"error": error})

    def error_frame(self, message: str) -> bytes:
        return b"data: " + self.error(500, message) + b"\n\n"

    def no_model(self, model: str) -> bytes:
        text = f"The model `{model}` does not exist or you do not have access to it."
        return self.error(404, text, "model_not_found")

    def no_key(self, key: str) -> bytes:
        if not key:
            return self.error(401, "You didn't provide an API key. You need to provide it in an Authorization header.")
        shown = key if len(key) <= 12 else f"{key[:8]}{'*' * (len(key) - 12)}{key[-4:]}"
        return self.error(401, f"Incorrect API key provided: {shown}.", "invalid_api_key")

    def _event(self, value: object) -> bytes:
        return b"data: " + orjson.dumps(value) + b"\n\n"

    def _delta(self, answer: Answer, delta: Mapping[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        part = self._part(answer, "chat.completion.chunk", [choice])
        return self._event(part | {"usage": None} if self._counts(answer) else part)

    def _part(self, answer: Answer, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{answer.request.number}",
            "object": kind,
            "created": int(time.time()),
            "model": answer.model,
            "system_fingerprint": "fp_ceylon_nb",
            "choices": choices,
        }

    def _calls(self, answer: Answer) -> list[dict[str, Any]]:
        calls = []
        for i, call in enumerate(answer.tool_calls):
            arguments = call["function"]["arguments"]
            text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
            function = {"name": call["function"]["name"], "arguments": text}
            calls.append({"id": f"call_{answer.request.number}_{i}", "type": "function", "function": function})
        return calls

    def _fragments(self, answer: Answer) -> Iterator[dict[str, Any]]:
        """The calls as a stream has them: id and name first, then the arguments, word by word."""
        for i, call in enumerate(self._calls(answer)):
            name, arguments = call["function"].values()
            yield {"index": i} | call | {"function": {"name": name, "arguments": ""}}
            for piece in _ARGUMENT.findall(arguments):
                yield {"index": i, "function": {"arguments": piece}}

    def _reason(self, answer: Answer) -> str:
        return "length" if answer.cut else "tool_calls" if answer.tool_calls else "stop"

    def _counts(self, answer: Answer) -> bool:
        options = answer.request.body.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True

    def _usage(self, answer: Answer) -> dict[str, int]:
        asked, said = answer.input_tokens, len(answer.pieces)
        return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


def tags(models: Sequence[str]) -> bytes:
    """The body of Ollama's GET /api/tags."""
    facts = {"modified_at": _BIRTH, "size": 2_019_393_189, "digest": "a80c4f17acd5" * 5 + "2be4", "details": _DETAILS}
    return orjson.dumps({"models": [{"name": model, "model": model, **facts} for model in models]})


def show() -> bytes:
    """The body of Ollama's POST /api/show."""
    info = {"general.architecture": "llama", "general.parameter_count": 3_212_749_888, "llama.context_length": 131_072}
    return orjson.dumps(
        {
            "modelfile": "FROM model.gguf\n",
            "parameters": "",
            "template": "{{ .Prompt }}",
            "details": _DETAILS,
            "model_info": info,
            "capabilities": ["completion", "tools"],
            "modified_at": _BIRTH,
        }
    )


def model_list(models: Sequence[str]) -> bytes:
    """The body of OpenAI's GET /v1/models."""
    facts = {"object": "model", "created": 1_735_689_600, "owned_by": "library"}
    return orjson.dumps({"object": "list", "data": [{"id": model, **facts} for model in models]})
