"""A server on this machine that plays the Hugging Face Hub.

The requests and answers are those of the hub's public API, as `huggingface_hub` sends them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

TOKEN = "hf_of_the_library"


class Hub(BaseHTTPRequestHandler):
    """A hub that holds one repository in memory: its files now, after each commit, and its large files."""

    files: dict[str, bytes]
    commits: dict[str, dict[str, bytes]]
    large: dict[str, bytes]
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
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = ["regular" if name.endswith(".md") else "lfs" for name in names]
            answers = [
                {"path": name, "uploadMode": mode, "shouldIgnore": False}
                for name, mode in zip(names, modes, strict=True)
            ]
            self._json({"files": answers})
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            actions = lambda oid: {"upload": {"href": f"{self.url}/large/{oid}"}}  # noqa: E731
            asked = json.loads(body)["objects"]
            self._json({"transfer": "basic", "objects": [{**f, "actions": actions(f["oid"])} for f in asked]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.files[value["path"]] = self.large[value["oid"]]
            self.commits[f"{len(self.commits) + 1:040x}"] = dict(self.files)
            self._json({"commitUrl": f"{self.url}/org/name/commit/{self._head}", "commitOid": self._head})
        else:  # validation of the card, creation of a branch
            self._json({"errors": [], "warnings": []})

    def do_PUT(self) -> None:
        data = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers["Content-Length"]))
        digest = self.path.rpartition("/")[2]
        assert hashlib.sha256(data).hexdigest() == digest
        self.large[digest] = data
        self._json({})

    @property
    def _head(self) -> str:
        return next(reversed(self.commits), "0" * 40)

    def _api(self) -> None:
        if not self.exists:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        else:
            self._json({"id": "org/name", "sha": self._head, "siblings": [], "tags": []})

    def _file(self) -> None:
        place, _, name = self.path.rpartition("/")
        asked = place.rpartition("/")[2]  # a commit; any other name is a branch or tag of the last one
        commit = asked if len(asked) == 40 else self._head
        files = self.commits.get(commit) if asked == commit else self.files
        if files is None or name not in files:
            fault = "RepoNotFound" if not self.exists else "RevisionNotFound"
            code = fault if files is None or not self.exists else "EntryNotFound"
            return self._answer(404, b"", {"X-Error-Code": code, "X-Repo-Commit": commit})
        data = files[name]
        digest = hashlib.sha256(data).hexdigest()
        headers = {"ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
        return self._answer(200, data, {**headers, "X-Repo-Commit": commit})

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
    warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)  # of the library's own requests
    from huggingface_hub import constants

    class Own(Hub):
        files, commits, large, private, exists, url = {}, {}, {}, [], False, ""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Own.url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", Own.url)
    place = f"{Own.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", place)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # large files by the protocol of Git LFS
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
