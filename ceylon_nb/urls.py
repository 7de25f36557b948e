"""Addresses: which are this machine's, who asks there, through which proxy, and how they are shown."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import os
import re
import urllib.parse
import urllib.request
from dataclasses import dataclass, field

from .errors import ConfigurationError


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by name or address; the address on which a server binds to all counts too."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def proxy_for(scheme: str, host: str) -> str | None:
    """The proxy that the environment names for a host (HTTP_PROXY, HTTPS_PROXY, NO_PROXY); never one for loopback.

    Raises
    ------
    ConfigurationError
        It is not an address.
    """
    name = f"{scheme}_proxy"
    proxy = os.environ.get(name) or os.environ.get(name.upper())
    if not proxy or is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    try:
        usable = urllib.parse.urlsplit(proxy).hostname and urllib.parse.urlsplit(proxy).port != 0
    except ValueError:
        usable = False
    if not usable:  # its value may hold a password
        raise ConfigurationError(f"{name.upper()} is not a proxy's address: write http://host:port.")
    return proxy


_LOGIN = re.compile(r"(?<=//)[^/?#]*@")
_SECRET_QUERY = re.compile(r"((?:key|token|secret|password|signature|sig)[^=&]*=)[^&#]*", re.IGNORECASE)


def mask(url: str) -> str:
    """The same URL without the credentials in it, and without a fragment."""
    shown, query, rest = _LOGIN.sub("***@", url.partition("#")[0]).partition("?")
    return shown + query + _SECRET_QUERY.sub(r"\1***", rest)


def whereabouts(url: str) -> str:
    """Where a server is, in a word or two: ``"this machine"``, or its host; nothing for what is no address."""
    host = urllib.parse.urlsplit(url).hostname
    return "" if host is None else "this machine" if is_loopback(host) else host


_IN_NO_HOST = re.compile(r"[\s<>\"{}|\\^`]")


def server_parts(url: str, given: str, advice: str) -> urllib.parse.SplitResult:
    """The parts of a server's address, which says by which scheme and on which host it is.

    Parameters
    ----------
    given : str
        What a user wrote for it: an error names that, without a login.
    advice : str
        What to write in its place.

    Raises
    ------
    ConfigurationError
        It is not http or https, its host is empty or holds a space, or its port is no number up to 65535.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and not _IN_NO_HOST.search(parts.hostname)
        usable = usable and (parts.port is None or parts.port >= 0)
    except ValueError:
        usable = False
    if not usable:
        said = f"Not a server's address: {mask(given.rpartition('@')[2])!r}. {advice}"
        raise ConfigurationError(said) from None  # the cause would show a password that holds a slash
    return parts


@dataclass(frozen=True, slots=True)
class Address:
    """Where to post, and as whom.

    Attributes
    ----------
    url : str
        The address as it may be shown: without a login.
    headers : dict
        Those that prove who asks.
    """

    url: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    _secrets: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, url: str, key: str | None = None, fallback_key: str | None = None) -> Address:
        """An address and who asks there: by a key, or by a login in the URL (``user:password@``).

        Parameters
        ----------
        fallback_key : str, optional
            The key where there is neither.

        Raises
        ------
        ConfigurationError
            There are both, or one that no header can carry.
        """
        parts = urllib.parse.urlsplit(url)
        if parts.username is not None and key:
            raise ConfigurationError(
                f"There are a key and a login in {mask(url)}, and only one of them can be sent: leave one out."
            )
        if parts.username is not None:
            user, password = (urllib.parse.unquote(part or "") for part in (parts.username, parts.password))
            login = base64.b64encode(f"{user}:{password}".encode()).decode()
            shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
            return cls(shown, {"authorization": f"Basic {login}"}, (login, password or user))
        key = (key or fallback_key or "").strip()
        if not key:
            return cls(url)
        if not (key.isascii() and key.isprintable()):
            raise ConfigurationError(
                "The key holds a character that no key has, such as a line break or a typographic dash: copy it again."
            )
        return cls(url, {"authorization": f"Bearer {key}"}, (key,))

    @property
    def account(self) -> str:
        """Who asks: one value for one key or login, from which neither can be read; empty for nobody."""
        proof = self.headers.get("authorization", "")
        return hashlib.sha256(proof.encode()).hexdigest() if proof else ""

    def hide(self, text: str) -> str:
        """The same text without key and password: for what a server says."""
        for secret in filter(None, self._secrets):
            text = text.replace(secret, "***")
        return text
