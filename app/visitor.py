"""Where a request came from, for what is limited by that: `visitor()`, while one is being answered.

Addresses are a rough measure: people behind one router share theirs, and a proxy hides them all behind its own. What a
proxy writes of them (X-Forwarded-For) anybody else can write, too: uvicorn believes it of this machine alone, and of
the proxies that $FORWARDED_ALLOW_IPS names.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from starlette.types import Scope

LINE = 64  # bits of an IPv6 address that are its line's; the others a visitor may choose
_FORWARDED = b"x-forwarded-for"
_visitor: ContextVar[str] = ContextVar("visitor", default="")


def visitor() -> str:
    """The address that the request which is answered here came from; "" where there is none."""
    return _visitor.get()


@contextmanager
def answering(request: Any) -> Iterator[None]:
    """Until the end of the block a request of Gradio's is answered."""
    host = getattr(getattr(request, "client", None), "host", None)
    token = _visitor.set(line(host) if isinstance(host, str) else "")
    try:
        yield
    finally:
        _visitor.reset(token)


def line(host: str) -> str:
    """What counts as one address."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
        if address.version == 4:
            return str(address)
        return str(address.ipv4_mapped or ipaddress.ip_network((address, LINE), strict=False))
    except ValueError:
        return host[:100]


def named(scope: Scope) -> Scope:
    """A request whose headers this server sends to itself, as Gradio does for MCP tools: with its own address in the
    one that is believed of this machine, whatever stood there."""
    headers = [(name, value) for name, value in scope["headers"] if name.lower() != _FORWARDED]
    if scope.get("client"):
        headers.append((_FORWARDED, scope["client"][0].encode("latin-1", "replace")))
    return {**scope, "headers": headers}
