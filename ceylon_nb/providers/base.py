"""What every wire format shares: the request, the Protocol, and how a server's no becomes an error."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from typing import TYPE_CHECKING, Any, Protocol

from .. import errors
from ..allowance import LONGEST, hearing
from ..kernel import in_kernel
from ..loop import load, load_now, load_soon, running
from ..messages import Message, Prompt, Reply, Tool, ToolCall, Usage, decode_json
from ..urls import Address, mask
from .calls import count_calls, parse_call
from .deltas import Delta, no_text

if TYPE_CHECKING:
    from ..http import Client, Handler, Response, Transport


@dataclass(frozen=True, slots=True)
class Request:
    """One question to one model.

    Attributes
    ----------
    model : str
        The model's name, without its provider.
    messages : tuple of Message
        What is said, the system prompt first.
    temperature : float or None
        From 0; None leaves the choice to the server.
    max_tokens : int or None
        Tokens of the reply, at the most; None leaves the choice to the server.
    timeout : float or None
        Seconds, from sending to the last byte.
    prompt : str or messages
        What the messages were made of, for errors to name.
    tools : tuple of Tool
        What the model may have done. Only with these there may be a `CallsMessage` or `ResultMessage` among the
        messages.
    """

    model: str
    messages: tuple[Message, ...]
    temperature: float | None = None
    max_tokens: int | None = None
    timeout: float | None = None
    prompt: Prompt = field(default="", repr=False, compare=False)
    tools: tuple[Tool, ...] = ()


class Provider(Protocol):
    """A model server, seen through its wire format.

    Attributes
    ----------
    base_url : str
        Where its requests go; with `account` this says by whose clocks they go.
    account : str
        As whom they go; no key can be read from it.
    more_at_once : str
        What has such a server work on more at a time; empty if nothing is known.
    """

    base_url: str
    account: str
    more_at_once: str

    def prepare(self) -> None:
        """Do what takes time and no request: imports, certificates."""
        ...

    async def complete(self, request: Request) -> Reply:
        """Ask, and return when the whole answer is there.

        Parameters
        ----------
        request : Request
            The question.

        Returns
        -------
        Reply
            The answer.

        Raises
        ------
        RequestError
            There is none.
        """
        ...

    def stream(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Ask, and yield the answer as it comes; the stream ends well only after a ``finish_reason``.

        Parameters
        ----------
        request : Request
            The question.

        Yields
        ------
        Delta
            A piece.

        Raises
        ------
        RequestError
            There is no answer, or no more of it.
        """
        ...


class Connection:
    """The way to one address: its `Client`, made when it is first used, as what it is made of takes 0.2 s to import.

    Parameters
    ----------
    address : Address
    transport : httpx.AsyncBaseTransport, optional
        In place of the default one.
    handler : callable, optional
        What answers in place of a server, if there is no transport; see `http.embedded`.
    help_connecting : str
        What to do when nobody answers there.
    """

    def __init__(
        self,
        address: Address,
        *,
        transport: Transport | None = None,
        handler: Handler | None = None,
        help_connecting: str = "",
    ) -> None:
        self._address = address
        self._transport = transport
        self._handler = handler
        self._help_connecting = help_connecting
        self._client: Client | None = None

    async def client(self) -> Client:
        """What posts there.

        Raises
        ------
        ConfigurationError
            Nobody can be asked at such an address.
        """
        if self._client is None:
            self._client = self._connected(await load("ceylon_nb.http"))
        return self._client

    def prepare(self) -> None:
        """Make all that takes time and no request, so that the first one need not wait for it.

        On a loop that is not a notebook's, with others on it, that is only begun: the first request waits for the rest.

        Raises
        ------
        ConfigurationError
            As `client`; or there are no certificates to be read.
        """
        if running() is not None and not in_kernel():
            load_soon("ceylon_nb.http")
            return
        if self._client is None:
            self._client = self._connected(load_now("ceylon_nb.http"))
        self._client.prepare()

    def _connected(self, http: Any) -> Client:
        transport = self._transport
        if transport is None and self._handler is not None:
            transport = http.embedded(self._handler)
        client: Client = http.Client(self._address, transport=transport, help_connecting=self._help_connecting)
        return client


# -- what a server says ----------------------------------------------------------------------------------------------


def text_or_none(value: object) -> str | None:
    """A text from the wire; None for anything else."""
    return value if isinstance(value, str) else None


def count_tokens(source: Mapping[str, Any], asked: str, said: str) -> Usage:
    """The counts of these names; what is no count is not given."""

    def count(name: str) -> int | None:
        value = source.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None

    return Usage(count(asked), count(said))


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from a Retry-After header, clamped to 0-600; None if there is none that can be read.

    Both forms of RFC 9110, 10.2.3: delta-seconds, and a date, which is held against the server's own Date so that
    clocks that differ do no harm.
    """
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value) if value[:1].isdigit() else _at(value) - _at(headers.get("date"))
    except (OverflowError, TypeError, ValueError):
        return None
    return min(max(seconds, 0.0), LONGEST)


def _at(date: str | None) -> float:
    if date is None:
        return time.time()
    moment = email.utils.parsedate_to_datetime(date)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


# -- a server's no ---------------------------------------------------------------------------------------------------

_KINDS: dict[int, type[errors.StatusError]] = {
    400: errors.BadRequest,
    401: errors.AuthenticationFailed,
    403: errors.AuthenticationFailed,
    404: errors.NotFound,
    413: errors.BadRequest,
    422: errors.BadRequest,
    429: errors.RateLimited,
}


_ADVICE = {
    402: "The account has no credit left: top it up, or ask another model.",
    408: "The server waited too long for the request: ask again.",
}


@dataclass(frozen=True, slots=True)
class Server:
    """A server as its errors speak of it: where it is, and what its users can do.

    Attributes
    ----------
    address : Address
    missing_model : str
        What to do when it does not have the model; ``{model}`` stands for the model's name.
    authentication : str
        What to do when it wants a key, or another one.
    dialect : str
        What to check when it speaks another wire format.
    """

    address: Address
    missing_model: str
    authentication: str
    dialect: str

    def reply(self, delta: Delta) -> Reply:
        """A whole answer, without key and password: a server that echoes them would have them saved with a notebook."""
        text = self.address.hide(delta.text)
        return Reply(
            text,
            model=delta.model,
            finish_reason=delta.finish_reason,
            usage=delta.usage,
            raw=delta.raw,
            tool_calls=delta.tool_calls,
        )

    def decode(self, data: bytes) -> dict[str, Any]:
        """A JSON object from the wire.

        Raises
        ------
        IncompleteReply
            It breaks off.
        BadReply
            It is something else.
        ServerError
            It is an error of the server's.
        """
        try:
            value = decode_json(data)
        except (ValueError, RecursionError) as error:
            raise self._no_json(data.strip()) from error
        if not isinstance(value, dict):
            raise self._error(errors.BadReply, "The server's answer is JSON, but no object", "Check base_url.", data)
        if value.get("error"):
            said = f'The server broke off its answer: "{self._said(data)}"'
            raise self._error(errors.ServerError, said, "Its own log says more; ask again.", data)
        return value

    def _no_json(self, data: bytes) -> errors.RequestError:
        if not data:
            return self._error(
                errors.BadReply, "The server answered with an empty body", "Check base_url, and the server's log."
            )
        if data.startswith((b"{", b"[")) and not data.endswith((b"}", b"]")):
            said = "The server's answer breaks off in the middle of its JSON"
            return self._error(errors.IncompleteReply, said, "Ask again.", data)
        return self._error(errors.BadReply, "The server's answer is not JSON in UTF-8", "Check base_url.", data)

    def foreign(self, body: bytes) -> errors.RequestError:
        """The error for an object that is no answer."""
        return self._error(errors.BadReply, "The server's answer has no message in it", self.dialect, body)

    def calls(self, found: object, request: Request, body: bytes, *, before: int = 0) -> tuple[ToolCall, ...]:
        """The calls in an answer; none where no tools were offered.

        Parameters
        ----------
        found : object
            A list of ``{"id": …, "function": {"name": …, "arguments": …}}``, as it came.
        before : int
            Calls that this answer made before.

        Raises
        ------
        BadReply
            It cannot be read.
        """
        if not found or not request.tools:
            return ()
        calls = found if isinstance(found, list) else [found]
        first = count_calls(request.messages) + before
        try:
            return tuple(parse_call(each, n) for n, each in enumerate(calls, start=first))
        except ValueError as error:
            said = "The server's answer calls an action in a way that cannot be read"
            raise self._error(errors.BadReply, said, "Ask again, or ask another model.", body) from error

    def broke_off(self) -> errors.RequestError:
        """The error for a stream that ends before it says so."""
        return self._error(errors.IncompleteReply, "The answer stopped before its end", "Ask again.")

    def without_text(self, body: bytes, finish_reason: str | None, refusal: str = "") -> errors.RequestError:
        """The error for an answer without text; `refusal` is what the model said in its place."""
        said, advice = no_text(finish_reason)
        if refusal:
            said, advice = f'The model refuses: "{self._first_line(refusal.encode())}"', "Ask otherwise."
        return self._error(errors.EmptyReply, said, advice, body)

    def check(self, response: Response, model: str) -> None:
        """Refuse an error status, and what a browser would show; whoever asked hears what the headers say of limits.

        Raises
        ------
        StatusError
            The server said no.
        BadReply
            It is a web page.
        """
        hearer = hearing.get()
        if hearer is not None:
            hearer.hears(response.headers, not response.ok and parse_retry_after(response.headers) is not None)
        if not response.ok:
            raise self._refusal(response, model)
        if response.headers.get("content-type", "").startswith("text/html"):
            said = "A web page came back, not a model's answer"
            advice = "Check base_url, and any proxy or login page."
            raise self._error(errors.BadReply, said, advice, response.content)

    def _refusal(self, response: Response, model: str) -> errors.RequestError:
        status, said = response.status, self._said(response.content)
        kind = _KINDS.get(status) or (
            errors.Redirected if 300 <= status < 400 else errors.ServerError if status >= 500 else errors.StatusError
        )
        of_a_model = re.compile(rf"(?<![\w/])(?:model|{re.escape(model)})(?![\w/])", re.IGNORECASE)
        if kind is errors.NotFound and of_a_model.search(said):
            kind = errors.ModelNotFound
        retry_after = parse_retry_after(response.headers)
        wait = f" The server asks to wait {retry_after:g} s." if retry_after is not None else ""
        target = self.address.hide(mask(response.headers.get("location", ""))) or "no address"
        advice = {
            errors.ModelNotFound: self.missing_model.replace("{model}", model),
            errors.AuthenticationFailed: self.authentication,
            errors.NotFound: "No chat API answers at this path: check base_url.",
            errors.Redirected: f"The server points to {target}: if you trust it with your key, set base_url to match.",
            errors.RateLimited: f"Lower max_at_once, or set max_per_minute.{wait}",
            errors.ServerError: f"The server's own log says more; ask again, or lower max_at_once.{wait}",
            errors.BadRequest: f"Check the prompt's length, the parameters and the model's name ({model}).",
        }.get(kind) or _ADVICE.get(status, "The server's documentation says what that means.")
        error = self._error(kind, f'{status}, "{said}"' if said else f"{status}", advice)
        error.status, error.body, error.retry_after = status, said, retry_after
        return error

    def _error(self, kind: type[errors.RequestError], said: str, advice: str, body: bytes = b"") -> errors.RequestError:
        url = self.address.url
        return kind(f"{said} ({url}). {advice}".strip(), body=self._first_line(body), url=url)

    def _said(self, body: bytes) -> str:
        """The message inside a server's error body, whichever of the usual forms it has; else its first line."""
        try:
            value = decode_json(body)
        except (ValueError, RecursionError):
            value = None
        for key in ("error", "message", "detail"):
            if isinstance(value, dict) and value.get(key):
                value = value[key]
        return self._first_line(value.encode("utf-8", "replace") if isinstance(value, str) else body)

    def _first_line(self, body: bytes) -> str:
        """The first line of a body, at most 200 characters, without the key."""
        text = self.address.hide(body.strip()[:10_000].decode("utf-8", "replace"))
        return text.splitlines()[0].strip()[:200] if text else ""
