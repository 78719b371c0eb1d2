"""A real HTTP server on this machine that misbehaves on demand."""

import re
import threading
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from tests.support import loopback


class Web:
    """``web.at[path] = answer``, where ``answer(request)`` writes the reply; ``web.seen`` holds what was asked."""

    def __init__(self):
        self.at: dict[str, Callable] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.closing = threading.Event()
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                web.seen.append((self.path, dict(self.headers)))
                web.at.get(self.path, status(404))(self)

            def log_message(self, *_):
                pass

        self.server = loopback.Server(Handler)
        self.url = self.server.url

    def ranges(self) -> list[str | None]:
        """The Range header of each request."""
        return [headers.get("Range") for _, headers in self.seen]


@contextmanager
def serving():
    web = Web()
    with loopback.serving(web.server):
        try:
            yield web
        finally:
            web.closing.set()


def status(code: int, **headers: str) -> Callable:
    def answer(request):
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def redirect(to: str, **headers: str) -> Callable:
    return status(302, Location=to, **headers)


def body(
    data: bytes,
    *,
    etag: str | None = '"one"',
    cut: int | None = None,
    ranges: bool = True,
    if_range: bool = True,
    length: int | None = None,
    hang: threading.Event | None = None,
) -> Callable:
    """``data`` with an ETag, in pieces where asked for.

    ``cut``: the connection ends after so many bytes. ``ranges``, ``if_range``: False ignores those headers.
    ``length``: a wrong Content-Length, 0 for none. ``hang``: wait for it after ``cut`` bytes, then end.
    """

    def answer(request):
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if not ranges or (if_range and request.headers.get("If-Range", etag) != etag):
            asked = None
        start = int(asked[1]) if asked else 0
        if start >= len(data):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(data)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        piece = data[start:]
        request.send_response(206 if asked else 200)
        if asked:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if etag:
            request.send_header("ETag", etag)
        if length != 0:
            request.send_header("Content-Length", str(len(piece) if length is None else length))
        else:
            request.send_header("Connection", "close")
        request.end_headers()
        try:
            request.wfile.write(piece[:cut])
            if hang:
                hang.wait()
        except OSError:
            pass  # the other side was stopped by the test
        request.close_connection = cut is not None or length is not None

    return answer


def in_turn(*answers: Callable) -> Callable:
    """Each request gets the next answer, and the last one from then on."""
    left = list(answers)

    def answer(request):
        (left.pop(0) if len(left) > 1 else left[0])(request)

    return answer
