"""The server behind the page: read-only, on 127.0.0.1, below a random path.

It answers a fixed list of addresses; cases and volumes are addressed by number, so that no path of a file is
ever taken from a request. Everything else, another token and another host name get 404. The exception to
read-only is `notes`, which is there only with `--notes`.
"""

from __future__ import annotations

import hmac
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs

from mambamed.errors import MambamedError, RunError
from mambamed.io.json_text import json_line
from mambamed.memory import is_out_of_memory
from mambamed.numerals import is_whole
from mambamed.viewer.answers import Answers

HOST = "127.0.0.1"
_HOSTS = {"127.0.0.1", "localhost", "[::1]"}  # a tunnel may give the page another port
_MOST_BYTES = 2**16  # of a note of 2000 characters, percent-encoded
_VOLUMES_AT_ONCE = 2
_PAGE = {
    "": ("index.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "niivue.umd.js": ("niivue.umd.js", "text/javascript; charset=utf-8"),
}
_SCRIPT = "text/javascript; charset=utf-8"
# NiiVue keeps its font as an image in the script (data:) and sets no style by text.
POLICY = (
    "default-src 'self'; img-src 'self' data:; connect-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Reply:
    """The body of an answer, and its headers."""

    body: bytes
    kind: str
    policy: str = POLICY
    packed: bool = False  # with gzip
    kept: bool = False  # whether the browser may keep it


class Server(ThreadingHTTPServer):
    """Serves one subject until it is shut down.

    Args:
        port: 0: any free one.

    Raises:
        RunError: the port is in use.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, answers: Answers, port: int = 0) -> None:
        self.answers, self.token = answers, secrets.token_urlsafe(24)
        self.volumes = threading.BoundedSemaphore(_VOLUMES_AT_ONCE)
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "expected 0 to 65535"
            raise RunError(f"--port {port}: {reason}. Give another port, or 0 for any free one.") from error

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that leaves a page closes its connections; nobody needs to know."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "mambamed", ""
    timeout = 60

    @property
    def _ours(self) -> Server:
        assert isinstance(self.server, Server)
        return self.server

    def do_GET(self) -> None:
        self._answer(self._found)

    def do_HEAD(self) -> None:
        self._answer(self._found)

    def do_POST(self) -> None:
        self._answer(self._noted)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, find: Callable[[str], Reply | None]) -> None:
        try:
            name = self._name()
            reply = None if name is None else find(name)
        except MambamedError as error:
            self._send(HTTPStatus.UNPROCESSABLE_ENTITY, _json({"fault": str(error)}))
        except Exception as error:
            self.close_connection = True  # a body may follow that was not read
            full = is_out_of_memory(error)
            status = HTTPStatus.SERVICE_UNAVAILABLE if full else HTTPStatus.INTERNAL_SERVER_ERROR
            kind = f"unexpected {type(error).__name__}: {' '.join(str(error).split())}. Please report it."
            self._send(status, _json({"fault": "out of memory. Close other programs." if full else kind}))
        else:
            if reply is None:
                self.close_connection = True  # a body may follow that was not read
                self._send(HTTPStatus.NOT_FOUND, Reply(b"not found\n", "text/plain; charset=utf-8"))
            else:
                self._send(HTTPStatus.OK, reply)

    def _name(self) -> str | None:
        """The part of the path below the token; None for a request that is not from our page."""
        host = re.sub(r":\d+$", "", self.headers.get("Host", ""))
        site = self.headers.get("Sec-Fetch-Site", "none")
        if host.lower() not in _HOSTS or len(self.headers.get_all("Host", [])) != 1:
            return None
        _, _, rest = self.path.partition("/")
        token, slash, name = rest.partition("/")
        right = hmac.compare_digest(token.encode(), self._ours.token.encode())
        if not right or not slash or not self.path.startswith("/"):
            return None
        # Another page may link here, but may not load anything from here.
        foreign = site not in {"same-origin", "none"} and self.headers.get("Sec-Fetch-Mode") != "navigate"
        return None if foreign else name

    def _found(self, name: str) -> Reply | None:
        answers = self._ours.answers
        if name in _PAGE or re.fullmatch(r"[a-z_]+\.js", name):
            return _page_file(name)
        if name == "subject.json":
            return _json(answers.subject())
        if name == "training.json" and answers.shown.training is not None:
            return _json(answers.shown.training())
        if name == "notes.json" and answers.notes is not None:
            return _json(answers.notes.entries())
        if name == "report.html":
            return self._report()
        if (match := re.fullmatch(r"patches/([0-9]{1,4})/[0-9]{1,9}\.png", name)) and answers.shown.patches:
            picture = answers.shown.patches(int(match[1]))
            return None if picture is None else Reply(picture, "image/png")
        if match := re.fullmatch(r"case/([0-9]{1,7})\.json", name):
            found = answers.case(int(match[1]))
            return None if found is None else _json(found)
        if match := re.fullmatch(r"volume/([0-9]{1,7})/([0-9]{1,4})\.nii", name):
            with self._ours.volumes:
                data = answers.volume(int(match[1]), int(match[2]))
            return None if data is None else Reply(data, "application/octet-stream", packed=True)
        return None

    def _report(self) -> Reply | None:
        from mambamed.report.page import served_policy

        path = self._ours.answers.shown.report
        if path is None or not path.is_file():
            return None
        return Reply(path.read_bytes(), "text/html; charset=utf-8", served_policy())

    def _noted(self, name: str) -> Reply | None:
        notes = self._ours.answers.notes
        length = self.headers.get("Content-Length", "")
        is_ours = self.headers.get("X-Mambamed") == "note"  # a form of another page cannot set it
        if name != "notes" or notes is None or not is_ours or not is_whole(length):
            return None
        if int(length) > _MOST_BYTES:
            return None
        fields = parse_qs(self.rfile.read(int(length)).decode("utf-8", "replace"), keep_blank_values=True)
        given = {key: values[0] for key, values in fields.items()}
        number, ids = given.get("case", ""), self._ours.answers.shown.ids
        if not is_whole(number) or int(number) >= len(ids):
            return None
        notes.put(ids[int(number)], given.get("mark", ""), given.get("note", ""))
        return _json(notes.entries())

    def _send(self, status: HTTPStatus, reply: Reply) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": reply.kind,
            "Content-Length": str(len(reply.body)),
            "Content-Security-Policy": reply.policy,
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "private, max-age=3600" if reply.kept else "no-store",
        }
        if reply.packed:
            headers["Content-Encoding"] = "gzip"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)


def _page_file(name: str) -> Reply | None:
    file, kind = _PAGE.get(name, (name, _SCRIPT))
    place = resources.files("mambamed.viewer") / "page" / file
    return Reply(place.read_bytes(), kind, kept=name == "niivue.umd.js") if place.is_file() else None


def _json(content: Any) -> Reply:
    return Reply(json_line(content).encode(), "application/json")
