"""Foreign errors: what aiohttp, httpx, zlib and the sockets raise, in this library's own words.

One table, read from its top: the first line that knows an error's class has it. So what is narrow stands above what is
wide, and the last lines take whatever else the libraries may raise; a test holds that none of theirs is unmapped.
"""

from __future__ import annotations

import socket
import ssl
import zlib

import aiohttp
import httpx
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy

from . import errors
from .urls import Address, mask

_TRANSLATIONS: list[tuple[type[errors.RequestError], str, tuple[type[BaseException], ...]]] = [
    (
        errors.ConnectionTimeout,
        "No connection to {url} within {connecting:g} s. {help}",
        (aiohttp.ConnectionTimeoutError, httpx.ConnectTimeout, httpx.PoolTimeout),
    ),
    (
        errors.RequestTimeout,
        "No answer from {url} {in_time}. Raise `timeout`, or lower `max_at_once` if the server works through a queue.",
        (TimeoutError, aiohttp.ServerTimeoutError, httpx.TimeoutException),
    ),
    (
        errors.TLSFailed,
        "No secure connection to {url}: {detail}. If an authority of your own signs there, set SSL_CERT_FILE to its "
        "certificate; if the server speaks plain HTTP, write http://.",
        (ssl.SSLError, ssl.CertificateError, aiohttp.ClientSSLError, aiohttp.ServerFingerprintMismatch),
    ),
    (
        errors.ConnectionFailed,
        "Cannot connect to {url}: there is no host of that name. Check base_url, and the network.",
        (aiohttp.ClientConnectorDNSError, socket.gaierror),
    ),
    (
        errors.ConnectionFailed,
        "The proxy does not let us through to {url}: {detail}. Check HTTP_PROXY, HTTPS_PROXY and NO_PROXY.",
        (aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError, httpx.ProxyError),
    ),
    (
        errors.ConnectionFailed,
        "Cannot connect to {url}: {detail}. {help}",
        (aiohttp.ClientConnectorError, aiohttp.InvalidURL, httpx.ConnectError, ConnectionRefusedError),
    ),
    (
        errors.ConnectionLost,
        "The connection to {url} was lost before the whole answer had come. Ask again.",
        (aiohttp.ClientPayloadError, httpx.ReadError),
    ),
    (
        errors.ConnectionLost,
        "The connection to {url} broke before an answer came: {detail}. Ask again.",
        (aiohttp.ClientConnectionError, httpx.NetworkError, httpx.RemoteProtocolError, OSError),
    ),
    (
        errors.BadReply,
        "What came back from {url} cannot be read: {detail}. Check what answers at this address.",
        (aiohttp.ClientError, httpx.HTTPError, httpx.InvalidURL, HttpProcessingError, zlib.error),
    ),
]


def translate(
    error: BaseException,
    address: Address,
    connect_timeout: float,
    timeout: float | None = None,
    help_connecting: str = "",
) -> errors.RequestError | None:
    """The library's error for one of aiohttp's, httpx's or the socket's; None for anything else.

    A transport of the user's may go by other names: httpx-aiohttp calls many faults ConnectTimeout, httpcore
    ConnectError. There what they were raised from decides. The request's headers, and so the key, are taken out of the
    foreign error and of all that led to it.

    Parameters
    ----------
    address : Address
        Who was asked. Its secrets are hidden wherever the foreign error shows them.
    connect_timeout, timeout : float
        Seconds that connecting, and the whole answer, might take; no `timeout` is none that is known.
    help_connecting : str
        What to do when nobody answers there.
    """
    url = address.url
    _forget_headers(error)
    if isinstance(error, RuntimeError) and str(error) == "Session is closed":  # aiohttp's words
        return errors.ConnectionLost(f"The transport that was to ask {url} is closed: hand in an open one.", url=url)
    telling = (aiohttp.ClientError, ssl.SSLError, socket.gaierror)
    causes = errors.causes(error) if isinstance(error, httpx.HTTPError) else ()
    root = next((cause for cause in causes if isinstance(cause, telling)), error)
    in_time = "in time" if timeout is None else f"within {timeout:g} s"
    for found, text, kinds in _TRANSLATIONS:
        if isinstance(root, kinds):
            detail = mask(address.hide(errors.detail(root)))
            said = text.format(
                url=url, in_time=in_time, connecting=connect_timeout, help=help_connecting, detail=detail
            )
            return found(said.strip(), url=url)
    return None


def _forget_headers(error: BaseException) -> None:
    """Errors of aiohttp's hold the request that was sent, which a repr, or whoever logs one, would show."""
    links: list[BaseException | None] = [error]
    seen: set[int] = set()
    while links:
        link = links.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        links += [link.__cause__, link.__context__]
        if isinstance(link, BaseExceptionGroup):
            links += link.exceptions
        if isinstance(link, aiohttp.ClientResponseError) and isinstance(link.request_info, aiohttp.RequestInfo):
            link.request_info = link.request_info._replace(headers=CIMultiDictProxy(CIMultiDict()))
            link.history = ()
            link.args = (link.request_info, link.history)
