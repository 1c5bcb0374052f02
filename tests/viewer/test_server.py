"""Requests as a browser, another page or another program would send them; names of RFC 9110 and Fetch."""

import gzip
import hashlib
import http.client
import json
from importlib import resources
from pathlib import Path
from urllib.parse import urlencode

import nibabel as nib
import numpy as np
import pytest

from mambamed.errors import RunError
from mambamed.viewer import Answers, Server
from mambamed.viewer.content import Subject
from tests.viewer import scenes


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("viewed")
    with scenes.viewed(scenes.mask_evaluation(folder)) as server:
        yield server


def ask(server, path, method="GET", body=None, **headers):
    """Status, headers and body of a request; `path` is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    try:
        host = headers.pop("Host", f"127.0.0.1:{server.server_port}")
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        if host is not None:
            connection.putheader("Host", host)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        reply = connection.getresponse()
        return reply.status, dict(reply.getheaders()), reply.read()
    finally:
        connection.close()


def below(server, name):
    return f"/{server.token}/{name}"


SERVED = {
    "": "text/html",
    "page.css": "text/css",
    "main.js": "text/javascript",
    "niivue.umd.js": "text/javascript",
    "report.html": "text/html",
    "subject.json": "application/json",
    "case/0.json": "application/json",
}
NOT_SERVED = [
    *(
        "../../../../etc/passwd",
        "..%2f..%2fetc/passwd",
        "/etc/passwd",
        "//etc/passwd",
        "case/../subject.json",
    ),
    *("..", ".", "%00", "main.js%00", "page/main.js", "index.html/", "subject.json?x=1", "page.html"),
    *("case/3.json", "case/-1.json", "case/0", "volume/0/9.nii", "volume/99/0.nii", "volume/0/0"),
    *("volume/00000000000000000000/0.nii", "notes.json", "notes", "training.json"),
    *("server.py", "__init__.py", "niivue.LICENSE"),
]


@pytest.mark.parametrize("name", SERVED)
def test_what_is_listed_is_served(server, name) -> None:
    status, headers, body = ask(server, below(server, name))
    assert status == 200 and headers["Content-Type"].startswith(SERVED[name]) and body


@pytest.mark.parametrize("name", NOT_SERVED)
def test_everything_else_is_not_found(server, name) -> None:
    assert ask(server, below(server, name))[0] == 404


@pytest.mark.parametrize(
    "path", ["/", "/x/", "/subject.json", "//", "http://127.0.0.1/", "*", "/" + "a" * 32 + "/"]
)
def test_another_token_is_not_found(server, path) -> None:
    assert ask(server, path)[0] == 404
    assert ask(server, below(server, "").removesuffix("/"))[0] == 404
    assert ask(server, f"/{server.token[:-1]}/subject.json")[0] == 404
    assert ask(server, f"/{server.token}x/subject.json")[0] == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "192.168.1.2", "", None]
)
def test_another_host_name_is_not_found(server, host) -> None:
    """A page that rebinds its own name to 127.0.0.1 sends that name."""
    assert ask(server, below(server, "subject.json"), Host=host)[0] == 404


@pytest.mark.parametrize("host", ["localhost", "localhost:9999", "127.0.0.1:1", "[::1]:8000", "LOCALHOST"])
def test_a_tunnel_may_have_another_port(server, host) -> None:
    assert ask(server, below(server, "subject.json"), Host=host)[0] == 200


def test_other_sites_may_link_to_the_page_but_load_nothing(server) -> None:
    other = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}
    assert ask(server, below(server, "volume/0/0.nii"), **other)[0] == 404
    assert ask(server, below(server, ""), **other | {"Sec_Fetch_Mode": "navigate"})[0] == 200


def test_the_policy_allows_nothing_from_elsewhere(server) -> None:
    for name in ("", "main.js", "subject.json", "nothing"):
        _, headers, _ = ask(server, below(server, name))
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'self'") and "unsafe" not in policy and "http" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
    _, headers, _ = ask(server, below(server, "report.html"))
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_other_methods_are_refused_and_nothing_can_be_written(server) -> None:
    assert (
        ask(server, below(server, "notes"), "POST", b"case=x", X_Mambamed="note", Content_Length="6")[0]
        == 404
    )
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        assert ask(server, below(server, ""), method)[0] == 501
    assert ask(server, below(server, "subject.json"), "HEAD")[2] == b""


def test_a_volume_is_a_nifti_file_of_the_image(server, tmp_path) -> None:
    found = json.loads(ask(server, below(server, "case/0.json"))[2])
    assert [volume["role"] for volume in found["volumes"]] == ["image"] * 4 + ["reference", "prediction"]
    _, headers, body = ask(server, below(server, "volume/0/4.nii"))
    assert headers["Content-Encoding"] == "gzip"
    path = tmp_path / "mask.nii"
    path.write_bytes(gzip.decompress(body))
    file = nib.load(found["volumes"][4]["source"])
    assert np.array_equal(
        np.asarray(nib.load(path).dataobj), np.asarray(nib.as_closest_canonical(file).dataobj)
    )


def test_a_file_that_cannot_be_read_gives_one_line(tmp_path) -> None:
    path = tmp_path / "broken.nii.gz"
    path.write_bytes(b"not an image")
    with scenes.viewed(path) as server:
        status, _, body = ask(server, below(server, "volume/0/0.nii"))
    assert status == 422 and "broken.nii.gz: is neither gzip nor NIfTI" in json.loads(body)["fault"]


def test_what_nobody_expected_gives_one_line() -> None:
    def open_case(index):
        raise ZeroDivisionError("by\nzero")

    with scenes.served(Subject("x", "image", ["a"], open_case, Path("x"))) as server:
        status, _, body = ask(server, below(server, "case/0.json"))
    assert (status, json.loads(body)["fault"]) == (
        500, "unexpected ZeroDivisionError: by zero. Please report it."
    )  # fmt: skip


def test_notes_are_taken_only_from_the_page(tmp_path) -> None:
    image = scenes.tiny_image(tmp_path / "a.nii.gz")
    notes = tmp_path / "notes.csv"
    note = {"X_Mambamed": "note", "Content_Length": "31"}
    body = b"case=0&mark=wrong&note=too+big!"
    from mambamed.viewer import open_subject

    with scenes.served(open_subject([image], None, None), notes) as server:
        path = below(server, "notes")
        assert ask(server, path, "POST", body, Content_Length="31")[0] == 404
        assert (
            ask(server, path, "POST", body, **note, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="cors")[0]
            == 404
        )
        assert ask(server, path, "POST", b"x" * 70000, **note | {"Content_Length": "70000"})[0] == 404
        for case in (b"1", b"a", b"\xb2"):
            content = b"case=%s&mark=right" % case
            assert ask(server, path, "POST", content, **note | {"Content_Length": "17"})[0] == 404
        assert ask(server, path, "POST", body, **note | {"Content_Length": "\xb2"})[0] == 404
        assert not notes.exists()
        status, _, answer = ask(server, path, "POST", body, **note)
        assert (status, json.loads(answer)) == (200, {"a": {"mark": "wrong", "note": "too big!"}})
        assert ask(server, path, "POST", b"case=0&mark=maybe", **note | {"Content_Length": "17"})[0] == 422
        longest = urlencode({"case": 0, "mark": "wrong", "note": "図" * 2000}).encode()
        assert ask(server, path, "POST", longest, **note | {"Content_Length": str(len(longest))})[0] == 200
    assert notes.read_text(encoding="utf-8") == f"case,mark,note\na,wrong,{'図' * 2000}\n"


def test_a_port_in_use_is_named(tmp_path) -> None:
    shown = Subject("x", "image", [], lambda index: None, tmp_path)
    with (
        Server(Answers(shown)) as first,
        pytest.raises(RunError, match=f"--port {first.server_port}: .*another"),
    ):
        Server(Answers(shown), first.server_port)


def test_niivue_is_the_published_file() -> None:
    """The number is of package/dist/niivue.umd.js in the archive that `npm pack @niivue/niivue@0.69.0` gets.

    `npm view @niivue/niivue@0.69.0 dist.integrity` is the SHA-512 of this archive in base64:
    YMjQvJgD1W2b7DuoxkwlC4VxbrgIePRJ5qyQzXKxi2v2MBVg285P/CIQyg46oDDGDIcaNlbd+MhtO/edMbXJkA==
    """
    script = resources.files("mambamed.viewer") / "page" / "niivue.umd.js"
    published = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
    assert hashlib.sha256(script.read_bytes()).hexdigest() == published
