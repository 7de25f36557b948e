"""What every wire format shares: the request, the Protocol, and how a server's no becomes an error."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .. import errors
from ..messages import Message, Reply, Usage, decode_json
from ..urls import mask

if TYPE_CHECKING:
    from ..http import Response


@dataclass(frozen=True, slots=True)
class Request:
    """One question to one model.

    Attributes
    ----------
    temperature, max_tokens
        None leaves the choice to the server.
    timeout : float or None
        Seconds, from sending to the last byte.
    """

    model: str
    messages: tuple[Message, ...]
    temperature: float | None = None
    max_tokens: int | None = None
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a streamed answer: text, or what is known at its end."""

    text: str = ""
    model: str | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    raw: bytes = b""


class Provider(Protocol):
    """A model server, seen through its wire format.

    Attributes
    ----------
    base_url : str
        Whose clocks its requests go by.
    """

    base_url: str

    async def complete(self, request: Request) -> Reply:
        """Ask, and return when the whole answer is there."""
        ...

    def stream(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Ask, and yield the answer as it comes; the stream ends well only after a `finish_reason`."""
        ...


def gather_stream(deltas: Iterable[Delta]) -> Reply:
    """Fold a stream's pieces into the Reply that they were."""
    text, model, finish_reason, usage, raw = [], None, None, None, b""
    for delta in deltas:
        text.append(delta.text)
        model, usage = delta.model or model, delta.usage or usage
        finish_reason, raw = delta.finish_reason or finish_reason, delta.raw or raw
    return make_reply("".join(text), model=model, finish_reason=finish_reason, usage=usage, raw=raw)


def make_reply(
    text: str, *, model: str | None, finish_reason: str | None, usage: Usage | None, raw: bytes, instead: str = ""
) -> Reply:
    """A Reply, if there is any text in it.

    Raises
    ------
    EmptyReply
        There is none; `instead` tells what there was.
    """
    if not text:
        advice = "; raise max_tokens" if finish_reason == "length" else ""
        said = f": {instead}" if instead else f" (finish_reason: {finish_reason or 'not given'}{advice})"
        raise errors.EmptyReply(f"The model answered without any text{said}.", body=first_line(raw))
    return Reply(text, model=model, finish_reason=finish_reason, usage=usage, raw=raw)


def decode(data: bytes | str) -> dict[str, Any]:
    """A JSON object from the wire.

    Raises
    ------
    IncompleteReply
        It breaks off.
    BadReply
        It is something else.
    """
    raw = data.encode() if isinstance(data, str) else data
    if not raw.strip():
        raise errors.BadReply("The server answered with an empty body. Check base_url, and the server's own log.")
    try:
        value = decode_json(raw)
    except (ValueError, RecursionError) as error:
        if raw.lstrip()[:1] in b"{[" and not raw.rstrip().endswith((b"}", b"]")):
            raise errors.IncompleteReply(
                "The server's answer breaks off in the middle of its JSON. Ask again.", body=first_line(raw)
            ) from error
        raise errors.BadReply(
            "The server's answer is not JSON. Check that base_url points at a model server's API.", body=first_line(raw)
        ) from error
    if not isinstance(value, dict):
        raise errors.BadReply(
            f"The server's answer is a JSON {type(value).__name__}, not an object. Check base_url.",
            body=first_line(raw),
        )
    return value


def first_line(body: bytes, secret: str | None = None) -> str:
    """The first line of a body, at most 200 characters, without the key."""
    text = body[:10_000].decode("utf-8", "replace").strip()
    line = text.splitlines()[0] if text else ""
    return (line.replace(secret, "***") if secret else line)[:200]


def server_said(body: bytes, secret: str | None = None) -> str:
    """The message inside a server's error body, whichever of the usual forms it has; else its first line."""
    try:
        value = decode_json(body)
    except (ValueError, RecursionError):
        return first_line(body, secret)
    for key in ("error", "message", "detail"):
        if isinstance(value, dict) and value.get(key):
            value = value[key]
    return (
        first_line(str(value).encode("utf-8", "replace"), secret)
        if isinstance(value, str)
        else first_line(body, secret)
    )


_KINDS: dict[int, type[errors.StatusError]] = {
    400: errors.BadRequest,
    401: errors.AuthenticationFailed,
    403: errors.AuthenticationFailed,
    404: errors.NotFound,
    413: errors.BadRequest,
    422: errors.BadRequest,
    429: errors.RateLimited,
}


@dataclass(frozen=True, slots=True)
class Advice:
    """What a provider's user can do about each kind of no."""

    missing_model: str
    authentication: str


def status_error(response: Response, url: str, model: str, advice: Advice, secret: str | None) -> errors.StatusError:
    """The error for a response that is not an answer."""
    status, said = response.status, server_said(response.content, secret)
    kind = _KINDS.get(status) or (
        errors.Redirected if 300 <= status < 400 else errors.ServerError if status >= 500 else errors.StatusError
    )
    if kind is errors.NotFound and "model" in said.lower():
        kind = errors.ModelNotFound
    retry_after = response.retry_after
    hint = {
        errors.ModelNotFound: advice.missing_model,
        errors.AuthenticationFailed: advice.authentication,
        errors.NotFound: "No chat API answers at this path: check base_url.",
        errors.Redirected: f"The server points to {mask(response.headers.get('location', 'nowhere'))}: "
        "set base_url to that address, if you trust it with your key.",
        errors.RateLimited: "Lower max_at_once, or set max_per_minute."
        + (f" The server asks to wait {retry_after:g} s." if retry_after is not None else ""),
        errors.ServerError: "The server's own log says more; retry it, or lower max_at_once.",
        errors.BadRequest: f"Check the prompt's length, the parameters and the model's name ({model}).",
    }.get(kind, "")
    text = f'{status}, "{said}"' if said else f"{status}"
    return kind(
        f"{text} ({mask(url)}). {hint}".strip(), status=status, body=said, url=mask(url), retry_after=retry_after
    )


def reported_error(message: object, url: str, secret: str | None) -> errors.ServerError:
    """The error for an ``{"error": …}`` inside an answer that began well."""
    said = first_line(str(message.get("message", message) if isinstance(message, dict) else message).encode(), secret)
    return errors.ServerError(
        f'The server broke off its answer: "{said}" ({mask(url)}). The server\'s own log says more; ask again.',
        status=None,
        body=said,
        url=mask(url),
    )


def broken_off(url: str) -> errors.IncompleteReply:
    """The error for a stream that ends before it says so."""
    return errors.IncompleteReply(
        f"The stream stopped before the answer's end ({mask(url)}). Ask again.", url=mask(url)
    )


def check_content_type(response: Response, url: str) -> None:
    """Refuse what a browser would show.

    Raises
    ------
    BadReply
        It is HTML.
    """
    kind = response.headers.get("content-type", "")
    if kind.startswith("text/html"):
        raise errors.BadReply(
            f"A web page came back, not a model's answer ({mask(url)}). Check base_url, and any proxy or login page.",
            body=kind,
            url=mask(url),
        )
