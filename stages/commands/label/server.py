"""The page's server: on the loopback alone, under a random token, and nothing else is answered.

A request with another path, method, token or Host header (a page elsewhere whose name was made to resolve to this
machine) gets 403 or 404. The page loads nothing, and its scripts and styles are its own (Content-Security-Policy).
"""

import json
import secrets
import sys
from base64 import b64encode
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from re import DOTALL, findall
from threading import Lock
from typing import Any

from pydantic import ValidationError

from stages.core.records import Record
from stages.data.labels import Key, Label, LabelFile

LOOPBACK = "127.0.0.1"
TEMPLATE = Path(__file__).with_name("page.html")
DATA = "/*ITEMS*/"  # where the page has its data
MAX_BODY = 1_000  # bytes of a label
TIMEOUT = 10  # seconds that a client may take for a request


class Server(ThreadingHTTPServer):
    """Serves one person's page and keeps their labels."""

    daemon_threads = True

    def __init__(self, port: int, content: Record, keys: set[Key], labels: LabelFile) -> None:
        """`port`: 0 for any that is free; `content`: what the page shows; `keys`: what may be labelled. Raises
        `OSError` if the port is taken."""
        self.path = f"/{secrets.token_urlsafe(24)}/"
        self.keys, self.labels, self.content = keys, labels, content
        self.lock = Lock()
        super().__init__((LOOPBACK, port), Handler)
        port = self.server_address[1]
        self.hosts = (f"{LOOPBACK}:{port}", f"localhost:{port}")
        self.url = f"http://{self.hosts[0]}{self.path}"

    def page(self) -> str:
        """The page with its data, as labels are now."""
        with self.lock:
            labels = [{"shown": label.shown, "label": label.label} for label in self.labels.labels.values()]
        data = json.dumps({**self.content, "labels": labels})  # in ASCII, so that no sign is lost or means a line's end
        return TEMPLATE.read_text(encoding="utf-8").replace(DATA, data.replace("<", "\\u003c"))

    def keep(self, body: bytes) -> None:
        """Store a label. Raises `ValueError` if it is none of these rows, and `OSError` if it cannot be kept."""
        label = Label.model_validate_json(body)
        if label.key not in self.keys:
            raise ValueError("this row is not among those shown")
        with self.lock:
            self.labels.add(label)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or is too slow, is no error."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def policy(page: str) -> str:
    """The Content-Security-Policy of a page: its own script and style by their hashes, requests to its own server."""

    def hashed(tag: str) -> str:
        return " ".join(
            f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
            for text in findall(rf"<{tag}>(.*?)</{tag}>", page, DOTALL)
        )

    return (
        f"default-src 'none'; script-src {hashed('script')}; style-src {hashed('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


POLICY = policy(TEMPLATE.read_text(encoding="utf-8"))


class Handler(BaseHTTPRequestHandler):
    """GET the page, POST a label to it."""

    server: Server
    timeout = TIMEOUT

    def do_GET(self) -> None:
        """The page."""
        if self._is_ours():
            self._answer(200, self.server.page(), "text/html")

    def do_POST(self) -> None:
        """Keep a label: 204, or why not."""
        if not self._is_ours():
            return
        length = self.headers.get("Content-Length", "")
        if (
            not (length.isdecimal() and len(length) < 5 and int(length) <= MAX_BODY)
            or self.headers.get_content_type() != "application/json"
        ):
            self._answer(403, "not a label")
            return
        try:
            self.server.keep(self.rfile.read(int(length)))
        except ValidationError:
            self._answer(403, "not a label")
        except ValueError as error:
            self._answer(403, str(error))
        except OSError as error:
            self._answer(500, f"{error.strerror or error}")
        else:
            self._answer(204, "")

    def _is_ours(self) -> bool:
        """Whether host and path are this page's; if not, the request is refused."""
        if self.headers.get("Host") not in self.server.hosts:
            self._answer(403, "forbidden")
            return False
        if not secrets.compare_digest(self.path.encode(), self.server.path.encode()):
            self._answer(404, "not found")
            return False
        return True

    def _answer(self, status: int, text: str, kind: str = "text/plain") -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Content-Security-Policy": POLICY,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server refuses by itself, such as another method: 404."""
        self.close_connection = True
        self.requestline = self.request_version = ""
        self._answer(404, "not found")

    def version_string(self) -> str:
        """The server's name, without its version."""
        return "lance"

    def log_message(self, *_: Any) -> None:
        """Nothing: an address has the token in it."""
