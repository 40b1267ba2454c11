"""A server of files on this machine that breaks off, knows no Range, or answers something else."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Request(NamedTuple):
    path: str
    range: str | None
    sent: int  # bytes


class Server:
    """What it does can be changed between requests, and `requests` holds those that came."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.knows_range = True
        self.says_length = True
        self.breaks_after: list[int] = []  # bytes of each of the next answers, until the line breaks
        self.answers: dict[str, int] = {}  # the code for a path, instead of its file
        self.requests: list[Request] = []
        self.address = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        data, asked_range = self.files.get(handler.path), handler.headers.get("Range")
        code = self.answers.get(handler.path, 200 if data is not None else 404)
        if code != 200 or data is None:
            self.requests.append(Request(handler.path, asked_range, 0))
            handler.send_error(code)
            return
        first = 0
        if asked_range is not None and self.knows_range and (match := re.fullmatch(r"bytes=(\d+)-", asked_range)):
            first = int(match[1])
            if first >= len(data):
                self.requests.append(Request(handler.path, asked_range, 0))
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{len(data)}")
                handler.send_header("Content-Length", "0")
                handler.end_headers()
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        else:
            handler.send_response(200)
        if self.says_length:
            handler.send_header("Content-Length", str(len(data) - first))
        handler.end_headers()
        part = data[first:][: self.breaks_after.pop(0) if self.breaks_after else None]
        self.requests.append(Request(handler.path, asked_range, len(part)))
        handler.wfile.write(part)
        handler.close_connection = True


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Server]:
    server = Server(files)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        server.address = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            running.shutdown()
            thread.join()
