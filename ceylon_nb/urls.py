"""Addresses: which are this machine's, and how they are shown."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by name or address."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


_SECRET_QUERY = re.compile(r"((?:key|token|secret|password|signature|sig)[^=&]*=)[^&#]*", re.IGNORECASE)


def mask(url: str) -> str:
    """The same URL without the credentials in it."""
    parts = urllib.parse.urlsplit(url)
    netloc = f"***@{parts.netloc.rpartition('@')[2]}" if "@" in parts.netloc else parts.netloc
    return urllib.parse.urlunsplit((parts.scheme, netloc, parts.path, _SECRET_QUERY.sub(r"\1***", parts.query), ""))
