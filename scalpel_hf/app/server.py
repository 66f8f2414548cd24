"""Serves a page by Python's own server, only to people who have the address that the program prints."""

import hmac
import json
import secrets
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

LOOPBACK = "127.0.0.1"
LARGEST_REQUEST = 64 * 2**20  # bytes
PAGE_FILES = {
    "/": ("review.html", "text/html; charset=utf-8"),
    "/review.js": ("review.js", "text/javascript; charset=utf-8"),
    "/brush.js": ("brush.js", "text/javascript; charset=utf-8"),
    "/review.css": ("review.css", "text/css; charset=utf-8"),
}
# The page may load from and send to this server alone.
POLICY = "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

Reply = tuple[bytes, str]  # content and its media type
Respond = Callable[[str, Any], Reply]  # from a path under /api/, and the posted JSON or the query's values


class PageServer(ThreadingHTTPServer):
    """
    Serves the page's files, and under `/api/` the replies of `respond`.

    A request under `/api/` needs the header `X-Token` with the token of `address`, which the page sends. Other users of
    the machine and other sites' pages in the same browser don't know it.

    Args:
        respond: computes a reply. It raises `KeyError` for an unknown path, and `ValueError` with a message that is
            shown in the page.
        host, port: where to listen; port 0 is any free one.
    """

    daemon_threads = True

    def __init__(self, respond: Respond, host: str = LOOPBACK, port: int = 0):
        self.respond, self.token = respond, secrets.token_urlsafe(24)
        super().__init__((host, port), PageHandler)

    @property
    def address(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}/#{self.token}"  # what follows # stays in the browser


class PageHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PageServer

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path in PAGE_FILES:
            name, kind = PAGE_FILES[path]
            self._send(HTTPStatus.OK, files(__package__).joinpath(name).read_bytes(), kind)
        else:
            self._respond(None)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > LARGEST_REQUEST:
            self.close_connection = True
            return self._say(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request is too large")
        body = self.rfile.read(length)
        try:
            self._respond(json.loads(body))
        except ValueError:
            self._say(HTTPStatus.BAD_REQUEST, "the request is no JSON")

    def _respond(self, posted: Any) -> None:
        url = urlsplit(self.path)
        if not hmac.compare_digest(self.headers.get("X-Token", "").encode(), self.server.token.encode()):
            return self._say(HTTPStatus.FORBIDDEN, "open the address that the program printed")
        try:
            content, kind = self.server.respond(url.path, posted if posted is not None else parse_qs(url.query))
        except KeyError:
            return self._say(HTTPStatus.NOT_FOUND, f"there is no {url.path}")
        except (OSError, ValueError) as error:
            return self._say(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        self._send(HTTPStatus.OK, content, kind)

    def _say(self, status: HTTPStatus, text: str) -> None:
        self._send(status, text.encode(), "text/plain; charset=utf-8")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass
