"""What can go wrong, as one tree.

::

    CeylonError
    ├── ConfigurationError (ValueError)      something said to the library is wrong; nothing was sent
    │   ├── InvalidModel                     not 'provider::model-name'
    │   ├── UnknownProvider
    │   ├── MissingAPIKey
    │   └── TemplateError                    a template that does not fit its items
    ├── InvalidItem (ValueError)             one item cannot be sent
    │   └── EmptyPrompt
    ├── WrongLoop (RuntimeError)             a blocking call where it would wait for itself
    ├── NoSuchAction (LookupError)           the agent has no action of that name
    ├── InvalidArguments (ValueError)        an action was called with what it cannot take; it was not run
    ├── ActionTimeout (TimeoutError)         an action took too long
    ├── MeshError                            a message in a mesh cannot be delivered, or will not be answered
    │   ├── NoSuchAgent (LookupError)        nobody of that name is in the mesh, or not any more
    │   ├── NoHandler (NotImplementedError)  the agent has no on_message
    │   ├── MeshStopped                      it was stopped
    │   ├── CircularQuery                    agents would wait for one another for ever
    │   └── QueryTimeout (TimeoutError)      no answer in time; the work was cancelled
    ├── StoreError                           the store of answers cannot be used
    │   ├── StoreLocked                      another process holds it for too long
    │   ├── StoreUnwritable (OSError)        its disk is full, read-only or gone
    │   ├── StoreCorrupt                     the file is damaged, or is no store
    │   └── StoreTooNew                      a later version of this library wrote it
    ├── NotRecorded (LookupError)            a recording that is replayed does not hold the answer
    └── RequestError                         a request was made and there is no answer
        ├── ConnectionFailed (ConnectionError)
        │   ├── ConnectionTimeout (TimeoutError)
        │   ├── ConnectionLost               closed or reset before the whole answer had come
        │   └── TLSFailed
        ├── RequestTimeout (TimeoutError)    the server was reached and did not answer in time
        ├── TooManyRounds                    the model goes on calling actions
        ├── StatusError                      the server said no
        │   ├── Redirected                   3xx
        │   ├── BadRequest                   400, 413, 422
        │   ├── AuthenticationFailed         401, 403
        │   ├── NotFound                     404
        │   │   └── ModelNotFound
        │   ├── RateLimited                  429
        │   └── ServerError                  5xx, or an error reported inside an answer
        └── BadReply                         an answer that is not one
            ├── IncompleteReply              it stops before its end
            ├── EmptyReply                   well formed, and without any text
            └── ReplyTooLarge

Every message says what happened and what to do next.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator
from typing import Any

__all__ = [
    "ActionTimeout",
    "AuthenticationFailed",
    "BadReply",
    "BadRequest",
    "CeylonError",
    "CircularQuery",
    "ConfigurationError",
    "ConnectionFailed",
    "ConnectionLost",
    "ConnectionTimeout",
    "EmptyPrompt",
    "EmptyReply",
    "IncompleteReply",
    "InvalidArguments",
    "InvalidItem",
    "InvalidModel",
    "MeshError",
    "MeshStopped",
    "MissingAPIKey",
    "ModelNotFound",
    "NoHandler",
    "NoSuchAction",
    "NoSuchAgent",
    "NotFound",
    "NotRecorded",
    "QueryTimeout",
    "RateLimited",
    "Redirected",
    "ReplyTooLarge",
    "RequestError",
    "RequestTimeout",
    "ServerError",
    "StatusError",
    "StoreCorrupt",
    "StoreError",
    "StoreLocked",
    "StoreTooNew",
    "StoreUnwritable",
    "TLSFailed",
    "TemplateError",
    "TooManyRounds",
    "UnknownProvider",
    "WrongLoop",
]


class CeylonError(Exception):
    """The root of the tree of what this library raises; the tree is drawn in `ceylon_nb.errors`.

    Examples
    --------
    >>> from ceylon_nb import CeylonError, LlmAgent
    >>> try:
    ...     await LlmAgent("clerk", "demo::nobody").send_message("Hello")
    ... except CeylonError as error:
    ...     print(type(error).__name__, error.status, error.attempts, sep=", ")
    ...     print(error)
    ModelNotFound, 404, 1
    404, "model 'nobody' not found" (http://demo.localhost:80/api/chat). Write demo::tutor or demo::instant.
    """


class ConfigurationError(CeylonError, ValueError):
    """Something said to the library is wrong; nothing was sent."""


class InvalidModel(ConfigurationError):
    """A model that is not written ``provider::model-name``."""


class UnknownProvider(ConfigurationError):
    """No provider of that name."""


class MissingAPIKey(ConfigurationError):
    """The provider needs a key and none was given."""


class TemplateError(ConfigurationError):
    """A template that does not fit its items."""


class InvalidItem(CeylonError, ValueError):
    """One item cannot be sent; the others can."""


class EmptyPrompt(InvalidItem):
    """There is nothing to ask."""


class WrongLoop(CeylonError, RuntimeError):
    """A blocking call made where it would wait for itself."""


class NoSuchAction(CeylonError, LookupError):
    """The agent has no action of that name."""


class InvalidArguments(CeylonError, ValueError):
    """An action was called with arguments that it cannot take; it was not run."""


class ActionTimeout(CeylonError, TimeoutError):
    """An action took too long, and was cancelled; one that is not async goes on in its thread."""


class MeshError(CeylonError):
    """A message in a mesh cannot be delivered, or will not be answered."""


class NoSuchAgent(MeshError, LookupError):
    """Nobody of that name is in the mesh, or not any more."""


class NoHandler(MeshError, NotImplementedError):
    """The agent has no ``on_message``."""


class MeshStopped(MeshError):
    """The mesh was stopped before the message was handled."""


class CircularQuery(MeshError):
    """Agents would wait for one another for ever."""


class QueryTimeout(MeshError, TimeoutError):
    """No answer in time; the work that the query had begun was cancelled."""


class StoreError(CeylonError):
    """The store of answers cannot be used."""


class StoreLocked(StoreError):
    """Another process holds the store for too long."""


class StoreUnwritable(StoreError, OSError):
    """The store's disk is full, read-only or gone."""


class StoreCorrupt(StoreError):
    """The file is damaged, or is no store of answers."""


class StoreTooNew(StoreError):
    """A later version of this library wrote the store."""


class NotRecorded(CeylonError, LookupError):
    """A recording that is replayed does not hold the answer; nothing was sent to get it."""


class RequestError(CeylonError):
    """A request was made and there is no answer.

    Attributes
    ----------
    status : int or None
        The HTTP status of a refusal; None where there was none, or the fault lies in an answer.
    body : str
        The first line of what the server said, keys masked.
    url : str
        Where the request went, credentials masked.
    retry_after : float or None
        Seconds the server asked to wait, clamped to 0-600.
    attempts : int
        Requests made for this answer, this one included.
    latency : float or None
        Seconds that the last attempt took.
    item : object
        What was asked for: the row of a batch, or the prompt of a single call.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        body: str = "",
        url: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = body
        self.url = url
        self.retry_after = retry_after
        self.attempts = 1
        self.latency: float | None = None
        self.item: Any = None


class ConnectionFailed(RequestError, ConnectionError):
    """The server cannot be reached."""


class ConnectionTimeout(ConnectionFailed, TimeoutError):
    """No connection within the time allowed for connecting."""


class ConnectionLost(ConnectionFailed):
    """The connection was closed or reset before the whole answer had come."""


class TLSFailed(ConnectionFailed):
    """The server's certificate does not hold, or TLS could not be agreed on."""


class RequestTimeout(RequestError, TimeoutError):
    """The server was reached and did not answer in time."""


class TooManyRounds(RequestError):
    """The model goes on calling actions instead of answering."""


class StatusError(RequestError):
    """The server answered with an error status."""


class Redirected(StatusError):
    """The server points elsewhere; a key is never carried to another host."""


class BadRequest(StatusError):
    """The server cannot make sense of the request."""


class AuthenticationFailed(StatusError):
    """The key is missing, wrong, or not allowed to do this."""


class NotFound(StatusError):
    """Nothing answers at this address."""


class ModelNotFound(NotFound):
    """The server does not have this model."""


class RateLimited(StatusError):
    """Too many requests; the whole endpoint is held off for a while."""


class ServerError(StatusError):
    """The server failed."""


class BadReply(RequestError):
    """The server's answer is not an answer."""


class IncompleteReply(BadReply):
    """The answer stops before its end."""


class EmptyReply(BadReply):
    """The answer is well formed and holds no text."""


class ReplyTooLarge(BadReply):
    """The answer is larger than any model's reply can be."""


# -- what others' errors say -----------------------------------------------------------------------------------------


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from (httpcore hides it by `from None`), and so on; of a group the first."""
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        else:
            error = error.__cause__ or (error.__context__ if error.__suppress_context__ else None)


_ERRNO = re.compile(r"\[Errno (\d+)]")  # in what is said of several addresses that were tried at once


def detail(error: BaseException) -> str:
    """What the operating system or a library says, on one line, without addresses of sockets and objects."""
    for cause in causes(error):
        if isinstance(cause, ssl.SSLError):
            said = getattr(cause, "verify_message", "") or getattr(cause, "reason", "").replace("_", " ").lower()
            if said:
                return str(said).rstrip(".")
        elif isinstance(cause, OSError) and (numbers := [cause.errno] if cause.errno else _ERRNO.findall(str(cause))):
            return ", ".join(dict.fromkeys(os.strerror(int(number)) for number in numbers))
    text = getattr(error, "message", "") or str(error) or type(error).__name__
    return " ".join(str(text).split())[:200].rstrip(".")


def describe(error: BaseException | str | None) -> str | None:
    """An error as one line: its kind and what it says; what is a line by now stays as it is."""
    if error is None or isinstance(error, str):
        return error
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - one that cannot say what it is must not hide all the others
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def drop_tracebacks(error: BaseException) -> None:
    """Forget where an error and its causes came from, not what they say: 200 lines of HTTP libraries help nobody."""
    for cause in causes(error):
        cause.__traceback__ = None


def ungrouped(error: Exception) -> Exception:
    """The first exception of a group, and of groups in it; any other as it is. No context of it is a group afterwards.

    An ExceptionGroup that leaves a cell can hang the kernel's reply, also as the context of another exception.
    """
    first: Exception = _first(error)
    link: BaseException = first
    seen = {id(first)}
    while link.__context__ is not None:
        context = _first(link.__context__)
        if id(context) in seen:  # it goes round
            link.__context__ = None
            break
        link.__context__ = context
        seen.add(id(context))
        link = context
    return first


def _first(error: Any) -> Any:
    notes = []
    while isinstance(error, BaseExceptionGroup):
        error, *others = error.exceptions
        if others:
            notes.append(f"Raised together with {', '.join(map(repr, others))}.")
    for note in notes:
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
    return error
