"""The page's addresses: the document, its files, the stream of events, the history of a node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from importlib.resources import files
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from .access import Access, Guard
from .broadcast import Broadcaster
from .state import PageState

STATIC = files("cipherfleet_deploy.watch.page") / "static"
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
FILES = ("page.js", "charts.js", "page.css", "uplot.js", "uplot.css", "icon.svg")
DOCUMENT = "page.html"

Answer = Callable[[Request], Any]


def make_app(state: PageState, hub: Broadcaster, access: Access) -> ASGIApp:
    """Return the application that serves *state* to browsers that *access* admits."""
    routes = [
        Route("/", _document(state)),
        Route("/events", _events(hub)),
        Route("/node/{name}", _node(state)),
        Route("/favicon.ico", _file("icon.svg")),
        *(Route(f"/{name}", _file(name)) for name in FILES),
    ]
    return Guard(Starlette(routes=routes), access)


def _document(state: PageState) -> Answer:
    text = (STATIC / DOCUMENT).read_text()

    async def answer(_request: Request) -> Response:
        fields = {"FLEET": escape(state.fleet), "GRAPH": state.svg}
        return Response(_fill(text, fields), media_type="text/html")

    return answer


def _fill(text: str, fields: Mapping[str, str]) -> str:
    for name, value in fields.items():
        text = text.replace(f"<!--{name}-->", value)
    return text


def _file(name: str) -> Answer:
    data = (STATIC / name).read_bytes()
    kind = TYPES[name[name.rindex(".") :]]

    async def answer(_request: Request) -> Response:
        return Response(data, media_type=kind)

    return answer


def _events(hub: Broadcaster) -> Answer:
    async def answer(_request: Request) -> Response:
        if hub.is_full:
            return PlainTextResponse("too many pages are open", 503)
        return StreamingResponse(hub.stream(), media_type="text/event-stream")

    return answer


def _node(state: PageState) -> Answer:
    async def answer(request: Request) -> Response:
        found = state.node(request.path_params["name"])
        if found is None:
            return PlainTextResponse("no such node", 404)
        return Response(msgspec.json.encode(found), media_type="application/json")

    return answer
