"""Who may load the page, and what a browser may do with it.

* Requests must name this machine: a loopback name, an address, or the name given with --host. A
  page of another site can make a browser send requests here under its own name, after it has
  changed the address of that name (DNS rebinding). Such a request names the other site.
* With a token, each request must carry it, as a cookie. The address with `?token=...` sets it.
* The Content-Security-Policy lets a browser load files from this server only, and run no script or
  style that stands in the document.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from ipaddress import ip_address

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "cipherfleet-page"
_HOST = re.compile(r"(?:\[(?P<address>[^\]]+)\]|(?P<name>[a-z0-9.-]+))(?::\d+)?")
POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Access:
    """The name of this server, and the token that requests must carry; None: no token."""

    host: str
    token: str | None = None

    def refusal(self, request: Request) -> Response | None:
        """Return the answer to a request that is refused, or None if it is admitted."""
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("this page only shows", 405)
        if not self.is_own_name(request.headers.get("host", "")):
            return PlainTextResponse("the Host header does not name this server", 403)
        if self.token is None or self._is_token(request.cookies.get(COOKIE)):
            return None
        if self._is_token(request.query_params.get("token")):
            answer = RedirectResponse("/", 303)
            answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
            return answer
        return PlainTextResponse("open the address with ?token=TOKEN at its end", 401)

    def is_own_name(self, host: str) -> bool:
        """Return True if the Host header *host* cannot be the name of another site."""
        found = _HOST.fullmatch(host.lower())
        if found is None:
            return False
        name = found["address"] or found["name"]
        return name in ("localhost", self.host.lower()) or _is_address(name)

    def _is_token(self, found: str | None) -> bool:
        assert self.token is not None
        return hmac.compare_digest((found or "").encode(), self.token.encode())


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """Answers refused requests itself, and adds HEADERS to every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope["type"] != "http":
            return
        answer = self._access.refusal(Request(scope))
        await (answer or self._app)(scope, receive, send_with_headers)
