import pytest

from mambamed.cases import Case, ChannelFile, check_case_id
from mambamed.documents.manifest import DatasetManifest
from mambamed.errors import DatasetError


def test_a_manifest_survives_json(tmp_path) -> None:
    manifest = DatasetManifest(
        name="brats",
        channels={"t1n": "mri", "t1c": "mri"},
        labels={"background": 0, "NCR": 1, "ED": 2, "ET": 3},
        regions={"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)},
        landmarks=("nose",),
        classes=("small", "large"),
    )
    assert DatasetManifest.checked(manifest.to_json(), tmp_path) == manifest


def test_foreground_is_the_regions_where_there_are_any() -> None:
    labels = {"background": 0, "a": 1, "b": 2}
    assert DatasetManifest(name="d", channels={}, labels=labels).foreground == {"a": (1,), "b": (2,)}
    assert DatasetManifest(name="d", channels={}, labels=labels, regions={"both": (1, 2)}).foreground == {
        "both": (1, 2)
    }


@pytest.mark.parametrize(
    ("labels", "regions", "words"),
    [
        ({"a": 1}, {}, "background"),
        ({"background": 0, "a": 1, "b": 1}, {}, "share the value 1"),
        ({"background": 0, "a": 1}, {"WT": (1, 4)}, r"WT names labels \[4\]"),
    ],
)
def test_a_manifest_that_cannot_be_right_is_refused(labels, regions, words) -> None:
    with pytest.raises(DatasetError, match=words):
        DatasetManifest.of("d", channels={}, labels=labels, regions=regions)


@pytest.mark.parametrize("case_id", ["", "..", "../evil", "/tmp/evil", "a\\b", "two\nlines", "x" * 201])
def test_an_id_that_could_leave_its_folder_is_refused(case_id) -> None:
    with pytest.raises(DatasetError):
        check_case_id(case_id)


@pytest.mark.parametrize("case_id", ["BRATS_001", "-o", "ünï cödé", "a.b.c", "%s{0}", "x" * 200])
def test_strange_but_harmless_ids_are_taken(case_id) -> None:
    check_case_id(case_id)


def test_a_case_without_a_subject_is_its_own(tmp_path) -> None:
    assert Case("c1", (ChannelFile(tmp_path),)).subject == "c1"
    assert Case("c1", (ChannelFile(tmp_path),), subject="p7").subject == "p7"


def test_what_else_is_known_of_a_case_is_nothing_unless_said(tmp_path) -> None:
    assert Case("c1", (ChannelFile(tmp_path),)).covariates == {}
    assert Case("c1", (ChannelFile(tmp_path),), covariates={"age": "71"}).covariates["age"] == "71"
