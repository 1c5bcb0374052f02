"""A server on this machine that plays the Hugging Face Hub.

The requests and answers are those of the hub's public API, as `huggingface_hub` sends them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "c" * 40
TOKEN = "hf_of_the_library"


class Hub(BaseHTTPRequestHandler):
    """A hub that holds the files of one repository in memory."""

    files: dict[str, bytes]
    private: list[bool]
    exists: bool
    url: str

    def do_GET(self) -> None:
        self._file() if "/resolve/" in self.path else self._api()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/api/repos/create":
            self.private.append(
                json.loads(body).get("private") or json.loads(body).get("visibility") == "private"
            )
            type(self).exists = True
            self._json({"url": f"{self.url}/org/name", "name": "org/name"})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            answers = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]
            self._json({"files": answers})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._json({"commitUrl": f"{self.url}/org/name/commit/{COMMIT}", "commitOid": COMMIT})
        else:  # validation of the card, creation of a branch
            self._json({"errors": [], "warnings": []})

    def _api(self) -> None:
        if not self.exists:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        else:
            self._json({"id": "org/name", "sha": COMMIT, "siblings": [], "tags": []})

    def _file(self) -> None:
        name = self.path.rpartition("/")[2]
        if name not in self.files:
            code = "EntryNotFound" if self.exists else "RepoNotFound"
            return self._answer(404, b"", {"X-Error-Code": code, "X-Repo-Commit": COMMIT})
        data = self.files[name]
        digest = hashlib.sha256(data).hexdigest()
        headers = {"ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
        return self._answer(200, data, {**headers, "X-Repo-Commit": COMMIT})

    def _json(self, content: object) -> None:
        self._answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _answer(self, code: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def local_hub(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[type[Hub]]:
    """Within the block, `huggingface_hub` talks to a server of this process; `home` is its cache.

    The library reads its environment variables when it is imported, so its constants are set.
    """
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    class Own(Hub):
        files, private, exists, url = {}, [], False, ""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Own.url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", Own.url)
    place = f"{Own.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", place)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "*")
    try:
        yield Own
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_HUB_OFFLINE=1 does."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
