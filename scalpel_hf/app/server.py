"""Serves a page by Python's own server, only to people who have the address that the program prints."""

import hmac
import json
import secrets
import socket
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

LOOPBACK = "127.0.0.1"
ONLY_HERE = (LOOPBACK, "::1", "localhost")
LARGEST_REQUEST = 64 * 2**20  # bytes
PAGE_FILES = {
    "/": ("review.html", "text/html; charset=utf-8"),
    "/review.js": ("review.js", "text/javascript; charset=utf-8"),
    "/brush.js": ("brush.js", "text/javascript; charset=utf-8"),
    "/grid.js": ("grid.js", "text/javascript; charset=utf-8"),
    "/review.css": ("review.css", "text/css; charset=utf-8"),
}
OPEN_ADDRESS = "open the address that the program printed"
# The page may load from and send to this server alone.
POLICY = "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

Reply = tuple[bytes, str]  # content and its media type
Respond = Callable[[str, Any], Reply]  # from a path under /api/, and the posted JSON or the query's values


class ConflictError(ValueError):
    """What a request is about has changed meanwhile."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at `host`, of IPv4 or IPv6; port 0 is any free one. Raises `ValueError`, which names the
    flags, where that can't be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ValueError(f"can't listen at --host {host} --port {port}: {error.strerror}") from error


def address_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class PageServer(ThreadingHTTPServer):
    """
    Serves the page's files, and under `/api/` the replies of `respond`.

    A request under `/api/` needs the header `X-Token` with the token of `address`, which the page sends. Other users of
    the machine and other sites' pages in the same browser don't know it.

    Args:
        respond: computes a reply. It raises `KeyError` for an unknown path, and `ValueError` with a message that is
            shown in the page, [`ConflictError`] where the page must look again.
        host, port: where to listen, see [`listen`].
    """

    daemon_threads = True

    def __init__(self, respond: Respond, host: str = LOOPBACK, port: int = 0):
        self.respond, self.token = respond, secrets.token_urlsafe(24)
        super().__init__((host, port), PageHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = listen(host, port)
        self.server_address = self.socket.getsockname()

    @property
    def address(self) -> str:
        return f"{address_of(self.socket)}#{self.token}"  # what follows # stays in the browser

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a page that was left
            super().handle_error(request, client_address)


class PageHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PageServer

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path in PAGE_FILES:
            name, kind = PAGE_FILES[path]
            self._send(HTTPStatus.OK, files(__package__).joinpath(name).read_bytes(), kind)
        elif self._has_token():
            self._respond(None)
        else:
            self._refuse(HTTPStatus.FORBIDDEN, OPEN_ADDRESS)

    def do_POST(self) -> None:
        if not self._has_token():
            return self._refuse(HTTPStatus.FORBIDDEN, OPEN_ADDRESS)
        try:
            length = int(self.headers.get("Content-Length") or 0)
        except ValueError:
            length = -1
        if length < 0:
            return self._refuse(HTTPStatus.BAD_REQUEST, "the length of the request is no number")
        if length > LARGEST_REQUEST:
            return self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request is too large")
        try:
            posted = json.loads(self.rfile.read(length))
        except (RecursionError, ValueError):
            return self._say(HTTPStatus.BAD_REQUEST, "the request is no JSON")
        self._respond(posted)

    def _has_token(self) -> bool:
        return hmac.compare_digest(self.headers.get("X-Token", "").encode(), self.server.token.encode())

    def _respond(self, posted: Any) -> None:
        url = urlsplit(self.path)
        try:
            content, kind = self.server.respond(url.path, posted if posted is not None else parse_qs(url.query))
        except KeyError:
            return self._say(HTTPStatus.NOT_FOUND, f"there is no {url.path}")
        except ConflictError as error:
            return self._say(HTTPStatus.CONFLICT, str(error))
        except (OSError, ValueError) as error:
            return self._say(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        self._send(HTTPStatus.OK, content, kind)

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self.close_connection = True  # what was sent is not read
        self._say(status, text)

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
