"""Models on the hub: upload, download and use without a network, against a server that plays the protocol.

The requests and answers are those of the public API of the Hugging Face Hub, as `huggingface_hub` sends them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mambamed.documents.splits import FoldName
from mambamed.errors import ModelError
from mambamed.run.hub import Reference, local_model
from mambamed.run.hub_card import hub_card
from tests.answers.stubs import stub_run, write_blobs

COMMIT = "c" * 40


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


@pytest.fixture
def hub() -> Iterator[type[Hub]]:
    pytest.importorskip("huggingface_hub")

    class Own(Hub):
        files, private, exists, url = {}, [], False, ""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Own.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield Own
    server.shutdown()
    server.server_close()
    thread.join()


def mambamed(hub, home: Path, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: the library reads its variables when it is imported."""
    known = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": "hf_of_the_library", "NO_PROXY": "*"}
    command = [sys.executable, "-m", "mambamed", *map(str, words)]
    return subprocess.run(command, env={**known, **own, **variables}, capture_output=True, text=True)


def test_a_model_goes_to_the_hub_and_predicts_from_there_also_offline(hub, tmp_path) -> None:
    run, home = stub_run(tmp_path / "run").root, tmp_path / "home"
    write_blobs(tmp_path / "images", 1)
    pushed = mambamed(hub, home, "export", run, "--push", "hf://org/name", "--license", "cc-by-4.0")
    assert pushed.returncode == 0, pushed.stderr
    assert hub.private == [True] and set(hub.files) == {"model.mambamed", "README.md"}
    assert hub.files["model.mambamed"] == (run / "model.mambamed").read_bytes()
    assert str(tmp_path) not in hub.files["README.md"].decode()
    hub.files["README.md"] += b"A person's sentence.\n"
    again = mambamed(hub, home, "export", run, "--push", "hf://org/name")
    assert again.returncode == 0 and "README.md was edited on the hub" in again.stderr
    assert hub.files["README.md"].endswith(b"A person's sentence.\n")

    words = ("hf://org/name", tmp_path / "images", "--device", "cpu", "--precision", "fp32", "-o")
    done = mambamed(hub, home, "predict", *words, tmp_path / "online")
    assert done.returncode == 0, done.stderr
    hub.files.clear()
    offline = mambamed(hub, home, "predict", *words, tmp_path / "offline", HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    first, second = (tmp_path / each / "case_0.nii.gz" for each in ("online", "offline"))
    assert first.read_bytes() == second.read_bytes()

    (blob,) = [path for path in (home / "hub").rglob("blobs/*") if path.stat().st_size > 10_000]
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    bad = mambamed(hub, home, "predict", *words, tmp_path / "bad", HF_HUB_OFFLINE="1")
    assert bad.returncode == 2 and "corrupt" in bad.stderr and not (tmp_path / "bad").exists()
    absent = mambamed(hub, tmp_path / "other", "predict", *words, tmp_path / "bad", HF_HUB_OFFLINE="1")
    assert absent.returncode != 0 and "hf://org/name: is not in the cache" in absent.stderr
    assert "hf_of_the_library" not in "".join(each.stderr + each.stdout for each in (pushed, done, bad))


@pytest.mark.parametrize("text", ["hf://name", "hf://a/b/c", "hf://../b/x@", "hf:"])
def test_what_is_no_reference_is_refused(text) -> None:
    with pytest.raises(ModelError, match="expected hf://org/name"):
        Reference.of(text)
    assert local_model(Path("runs/brats")) == Path("runs/brats")
    assert str(Reference.of(Path("hf://org/name@v1.0"))) == "hf://org/name@v1.0"


def test_the_card_states_scores_and_numbers_of_persons_but_not_their_names(tmp_path) -> None:
    """The mean of 0.8, 0.9, 0.7, 0.8, 0.8 is 0.8; six cases of five persons."""
    from mambamed import evaluate
    from tests.faults.fault_files import LABEL, packed

    run = stub_run(tmp_path / "run")
    for number in range(6):
        path = tmp_path / "masks" / f"sub-{'abcdeff'[number]}_ses-{number}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(packed(LABEL))
    scores = tmp_path / "scores"
    evaluate(tmp_path / "masks", tmp_path / "masks", scores, regions="one=1,two=2", report=False)
    run.fold_folder(0).mkdir(exist_ok=True)
    for name in ("summary.json", "cases.csv"):
        shutil.copy(scores / name, run.fold_folder(0) / name)
    folds: list[FoldName] = [0]
    card = hub_card(run, folds, "# stub\n", None, None)
    assert card.startswith("---\nlibrary_name: ") and '"pipeline_tag' not in card
    assert "Fold 0: validated on 6 cases of" in card and "| 0 | one | Dice | 1 |" in card
    assert "| 0 | one | HD95 (mm), max-directed | 0 |" in card
    assert "sub-a" not in card and str(tmp_path) not in card
    assert "did not name the training data" in card and "not stated by the publisher" in card
