"""The server that all of them ask: the package's own, which here speaks OpenAI's Responses as well.

openaivec asks nothing else. A request's prompt is its row in both formats, so that the server counts rows and not
formats; openaivec's are told to send one row a request.
"""

from typing import Any

import orjson
from aiohttp import web

from ceylon_nb.testing import ModelServer
from ceylon_nb.testing.openai import OpenAI
from ceylon_nb.testing.wire import Answer
from ceylon_nb.testing.witness import Request

_PATH = "/responses"


class Responses(OpenAI):
    """OpenAI's Responses, as far as they are asked for here: text, and rows as openaivec packs them; no streams.

    Source: OpenAI's API reference for responses.
    """

    def limit(self, body: Any) -> object:
        return body.get("max_output_tokens")

    def whole(self, answer: Answer, *, ended: bool = True) -> bytes:
        text = answer.text
        rows = _rows(answer.request.body)
        if rows is not None:
            body = orjson.loads(text) if _objects(answer.request.body) else text
            text = orjson.dumps({"assistant_messages": [{"id": row["id"], "body": body} for row in rows]}).decode()
        content = [{"type": "output_text", "text": text, "annotations": []}]
        number, usage = answer.request.number, self._usage(answer)
        message = {"id": f"msg_{number}", "type": "message", "role": "assistant", "status": "completed"}
        return orjson.dumps(
            {
                "id": f"resp_{number}",
                "object": "response",
                "created_at": 0,
                "status": "completed",
                "model": answer.model,
                "output": [{**message, "content": content}],
                "parallel_tool_calls": True,
                "tool_choice": "auto",
                "tools": [],
                "usage": {
                    "input_tokens": usage["prompt_tokens"],
                    "input_tokens_details": {"cached_tokens": 0},
                    "output_tokens": usage["completion_tokens"],
                    "output_tokens_details": {"reasoning_tokens": 0},
                    "total_tokens": usage["total_tokens"],
                },
            }
        )


_RESPONSES = Responses()


class PeersServer(ModelServer):
    """`ModelServer`, at whose end of ``/v1/responses`` somebody answers too."""

    async def _handle(self, http: web.BaseRequest) -> web.StreamResponse:
        path = http.raw_path.partition("?")[0]
        if path.endswith(_PATH) and http.method == "POST":
            return await self._chat(http, path, _RESPONSES)
        return await super()._handle(http)

    def _recognise(self, request: Request) -> None:
        if request.path.endswith(_PATH):
            rows = _rows(request.body)
            request.prompt = str(request.body.get("input") if rows is None else rows[0]["body"])
            request.messages = [{"role": "user", "content": request.prompt}]
        super()._recognise(request)


def _rows(body: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The rows that openaivec packed into one request; None if it was somebody else's text."""
    if "format" not in (body.get("text") or {}):
        return None
    rows: list[dict[str, Any]] = orjson.loads(body["input"])["user_messages"]
    return rows


def _objects(body: dict[str, Any]) -> bool:
    """Whether what openaivec asks for in each row is an object, which the model's text is then read as; else a text."""
    return "type" not in body["text"]["format"]["schema"]["$defs"]["MessageT"]["properties"]["body"]
