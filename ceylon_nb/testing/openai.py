"""The bytes that OpenAI sends. Source: its API reference for chat completions."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from http.client import responses
from typing import Any, ClassVar

import orjson

from .wire import Answer, Wire
from .witness import Request

_ARGUMENT = re.compile(r"\w+|\W")


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


def model_list(models: Sequence[str]) -> bytes:
    """The body of OpenAI's GET /v1/models."""
    facts = {"object": "model", "created": 1_735_689_600, "owned_by": "library"}
    return orjson.dumps({"object": "list", "data": [{"id": model, **facts} for model in models]})
