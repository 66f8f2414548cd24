"""Serves a page of Gradio, by default on this machine only."""

import os
import tempfile
import threading
import time
import webbrowser
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .model_page import import_gradio, page
from .server import LOOPBACK, ONLY_HERE, address_of, listen

if TYPE_CHECKING:
    import gradio

# The page may load from and send to this server alone. Gradio's own scripts are inline.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'none'; frame-ancestors 'none'"
CSS = """
#picture img, #operators img, #routers img { image-rendering: pixelated }
#problem { color: #c02020; font-weight: 600 }
#table td, #table th { padding: 0.2em 0.4em; word-break: normal }
"""


class ModelServer:
    """
    Serves a page at `address`. Uploaded frames are kept in a temporary folder until it ends.

    The page can't load from or send to any other host; its headers forbid it.

    Args:
        blocks: creates the page.
        host, port: where to listen, see [`listen`].
    """

    def __init__(self, blocks: Callable[[], "gradio.Blocks"], host: str = LOOPBACK, port: int = 0):
        self.socket, self.blocks = listen(host, port), blocks

    @property
    def address(self) -> str:
        return address_of(self.socket)

    def serve(self, started: Callable[[], object] = lambda: None) -> None:
        """Serve until the program is interrupted or `stop` is called; `started` is called once it can be opened."""
        gr = import_gradio()
        import uvicorn
        from fastapi import FastAPI, Request, Response

        app = FastAPI(openapi_url=None)

        @app.middleware("http")
        async def only_here(request: Request, call_next: Callable[[Request], Any]) -> Response:
            response = await call_next(request)
            response.headers["Content-Security-Policy"] = POLICY
            return response

        plain = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
        with tempfile.TemporaryDirectory(prefix="scalpel-app-") as uploads:
            os.environ["GRADIO_TEMP_DIR"] = uploads
            app = gr.mount_gradio_app(
                app, self.blocks(), path="/", footer_links=[], run_history=False, ssr_mode=False, theme=plain, css=CSS
            )
            # An open page keeps a connection open: at its end the server doesn't wait for it, and logs no error.
            self.server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
            threading.Thread(target=self._when_started, args=[started], daemon=True).start()
            self.server.run(sockets=[self.socket])

    def _when_started(self, started: Callable[[], object]) -> None:
        while not self.server.started:
            if self.server.should_exit:
                return
            time.sleep(0.05)
        started()

    def stop(self) -> None:
        self.server.should_exit = True


def look(models: dict[str, Any], title: str, threshold: float, host: str, port: int, browser: bool = True) -> None:
    """Serve the page of [`page`] until the program is interrupted, and open it in the `browser`."""
    server = ModelServer(lambda: page(models, title, threshold), host, port)
    if host not in ONLY_HERE:
        print(f"warning: whoever reaches {host} can use this page; frames travel unencrypted")

    def started() -> None:
        print(server.address, flush=True)
        if browser:
            webbrowser.open(server.address)

    server.serve(started)
