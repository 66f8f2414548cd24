"""How the loopback Hub takes requests and sends answers: routes, bodies, errors, ranges, pages of lists, cuts."""

import json
import re
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

if TYPE_CHECKING:
    from tests.hub.server import HubServer

PREFIXES = {"": "model", "datasets/": "dataset", "spaces/": "space"}


class HubError(Exception):
    """A failure as the Hub reports it."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}


class Cut(Exception):
    """The connection is to be cut here."""


class Transport(BaseHTTPRequestHandler):
    hub: ClassVar["HubServer"]
    routes: ClassVar[list[tuple[str, str, str]]]  # method, path, name
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(self.command)

    do_POST = do_PUT = do_DELETE = do_GET

    def do_HEAD(self) -> None:
        self._answer("GET")

    def _answer(self, method: str) -> None:
        url = urlsplit(self.path)
        self.hub.requests.append((self.command, url.path))
        self.query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        self.unread = int(self.headers.get("Content-Length", 0))
        try:
            self.user = self.hub.user(self.headers.get("Authorization"))
            for route_method, pattern, name in self.routes:
                match = re.fullmatch(pattern, url.path)
                if match and route_method == method:
                    groups = {key: unquote(value or "") for key, value in match.groupdict().items()}
                    if "prefix" in groups:
                        groups["kind"] = PREFIXES[groups.pop("prefix")]
                    getattr(self, f"_{name}")(**groups)
                    return
            raise HubError(404, f"no such page: {method} {url.path}")
        except HubError as error:
            self._json({"error": str(error)}, error.status, error.headers)
        except (ValueError, KeyError, TypeError) as error:
            self._json({"error": f"bad request: {error!r}"}, 400)
        except (Cut, ConnectionError):
            self.close_connection = True
            self.connection.close()

    # Bodies in and out

    def _read(self, where: str = "") -> bytes:
        """The request's body. Where the upload is to be cut, part of it is read and the connection closed."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b"".join(iter(self._chunk, b""))
        elif self.hub.takes_cut(where):
            self.rfile.read(min(self.hub.cut_after, self.unread))
            raise Cut
        else:
            body = self.rfile.read(self.unread)
        self.unread = 0
        return body

    def _chunk(self) -> bytes:
        if self.hub.takes_cut("lfs"):
            self.rfile.read(self.hub.cut_after)
            raise Cut
        size = int(self.rfile.readline().split(b";")[0], 16)
        data = self.rfile.read(size)
        self.rfile.readline()
        return data

    def _send(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.rfile.read(self.unread)
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _content(self, data: bytes, headers: dict[str, str]) -> None:
        """A file, or the part of it that `Range` asks for."""
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self._send(data, 200, headers)
        elif int(asked[1]) >= len(data):
            self._send(b"", 416, {"Content-Range": f"bytes */{len(data)}"})
        else:
            start, stop = int(asked[1]), min(int(asked[2] or len(data)) + 1, len(data))
            self._send(data[start:stop], 206, {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})

    def _page(self, entries: list[dict[str, Any]]) -> None:
        """One page of a list, with a link to the next."""
        start = int(self.query.get("cursor", 0))
        stop = start + self.hub.page_size
        headers = {}
        if stop < len(entries):
            query = urlencode({**self.query, "cursor": stop})
            headers["Link"] = f'<{self.hub.endpoint}{urlsplit(self.path).path}?{query}>; rel="next"'
        self._json(entries[start:stop], headers=headers)
