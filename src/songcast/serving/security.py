"""Access control of the HTTP server, and the security headers of its responses."""

import hmac
import ipaddress
from collections.abc import Awaitable, Callable

from fastapi import Request

from songcast.serving.jobs import RequestError

PUBLIC_PATHS = ("/", "/docs", "/ping", "/health")
ASSETS = "/assets/"  # of the page, public too
# Pages may load only from this server, and no other page may embed them.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline'; img-src 'self' data:; media-src blob: data:; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def access_check(token: str | None, local: bool) -> Callable[[Request], Awaitable[None]]:
    """Return the check that runs before every request; it raises ``RequestError`` (401, 403).

    ``token``: the bearer token that clients must send, except for ``PUBLIC_PATHS``. None: no
    token is needed. ``local``: without a token, accept only the names of this machine as host.
    Otherwise a web page could point its own host name at this machine and read the responses
    (DNS rebinding).
    """

    async def check(request: Request) -> None:
        if local and token is None and not is_loopback(_host(request)):
            raise RequestError(
                403, "host name not allowed: use localhost, or set SONGCAST_TOKEN to allow others"
            )
        origin = request.headers.get("origin")
        if origin and origin.partition("://")[2] != request.headers.get("host"):
            raise RequestError(403, "request from a page of another site: use this server's page")
        path = request.url.path
        if token is None or path in PUBLIC_PATHS or path.startswith(ASSETS):
            return
        received = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(received, f"Bearer {token}".encode()):
            raise RequestError(
                401, "missing or wrong token: send the header `Authorization: Bearer TOKEN`"
            )

    return check


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host(request: Request) -> str:
    """Return the host name of the request, without its port."""
    host = request.headers.get("host", "")
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
