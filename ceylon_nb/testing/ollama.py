"""The bytes that Ollama sends. Source: its ``docs/api.md``."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http.client import responses
from typing import Any, ClassVar

import orjson

from .wire import Answer, Wire

_BIRTH = "2025-01-01T00:00:00Z"
_DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "3.2B",
    "quantization_level": "Q4_K_M",
}


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
