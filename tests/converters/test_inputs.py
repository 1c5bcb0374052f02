"""Images to predict: files, folders and lists without reference answers."""

import json

import pytest

from mambamed.converters.inputs import find_inputs
from mambamed.errors import DatasetError
from tests.converters.dataset_folders import brats, touch


def test_inputs_are_one_file_a_case(tmp_path) -> None:
    touch(tmp_path, "b.nii.gz", "a.nii", "._a.nii", "Thumbs.db", "notes.txt")
    cases = find_inputs(tmp_path, ["MRI"])
    assert [(case.id, case.channels[0].path.name) for case in cases] == [("a", "a.nii"), ("b", "b.nii.gz")]
    (single,) = find_inputs(tmp_path / "b.nii.gz", ["T1", "T2"])
    assert [channel.volume for channel in single.channels] == [0, 1]


def test_inputs_with_numbered_channels(tmp_path) -> None:
    touch(tmp_path, "imagesTs/c1_0000.nii.gz", "imagesTs/c1_0001.nii.gz")
    (case,) = find_inputs(tmp_path, ["CT", "PET"])
    assert [channel.path.name for channel in case.channels] == ["c1_0000.nii.gz", "c1_0001.nii.gz"]
    touch(tmp_path, "imagesTs/c2_0000.nii.gz", "imagesTs/c3_0000.nii.gz", "imagesTs/c3_0001.nii.gz")
    c1, c2, c3 = find_inputs(tmp_path, ["CT", "PET"])
    assert c2.fault == f"c2: channel 0001 (PET) is missing in {tmp_path / 'imagesTs'}. Add it."
    assert c1.fault is c3.fault is None
    c1, c2, c3 = find_inputs(tmp_path, ["CT"])
    assert "c1_0001.nii.gz: the model reads no such channel" in (c1.fault or "")
    assert c2.fault is None


def test_what_is_missing_is_known_by_position_and_name(tmp_path) -> None:
    touch(tmp_path, "a_0001.nii.gz", "b_0001.nii.gz", "b_0002.nii.gz", "c_0001.nii.gz", "c_0007.nii.gz")
    a, b, c = find_inputs(tmp_path, ["T1", "T2", "PD"], incomplete=True)
    assert (a.missing, b.missing) == ({0: "T1", 2: "PD"}, {0: "T1"})
    assert a.named(["T1", "T2", "PD"]) == ["T2"] and "0000 (T1), 0002 (PD) is missing" in (a.fault or "")
    assert c.missing == {} and "c_0007.nii.gz: the model reads no such channel" in (c.fault or "")
    (tmp_path / "l.csv").write_text("case,PD,T1\nd,d_pd.nii,\ne,,\n")
    d, e = find_inputs(tmp_path / "l.csv", ["T1", "T2", "PD"], incomplete=True)
    assert d.missing == {0: "T1", 1: "T2"} and [each.path.name for each in d.channels] == ["d_pd.nii"]
    assert e.missing == {} and e.fault  # nothing is there
    with pytest.raises(DatasetError, match="no column T1, T2, which the model needs"):
        find_inputs(tmp_path / "l.csv", ["T1", "T2", "PD"])


def test_inputs_of_a_list_have_images_and_covariates_but_no_answers(tmp_path) -> None:
    (tmp_path / "l.csv").write_text(
        "case,T2,T1,label,class,age\nb,b2.nii,b1.nii,no.nii,x,3\na,,a1.nii,no.nii,,4\n"
    )
    a, b = find_inputs(tmp_path / "l.csv", ["T1", "T2"])
    assert [channel.path.name for channel in b.channels] == ["b1.nii", "b2.nii"]
    assert (b.label, b.class_name, b.covariates) == (None, None, {"age": "3"})
    assert a.fault == f"a: channel T2 has no file in {tmp_path / 'l.csv'}. Add it."
    with pytest.raises(DatasetError, match="no column PET, which the model needs"):
        find_inputs(tmp_path / "l.csv", ["T1", "PET"])
    (tmp_path / "one.csv").write_text("case,image\na,a.nii\n")
    assert find_inputs(tmp_path / "one.csv", ["CT"])[0].channels[0].path == tmp_path / "a.nii"
    (tmp_path / "one.csv").write_text("case,image\na,a.nii\na,b.nii\n")
    with pytest.raises(DatasetError, match="duplicate case a"):
        find_inputs(tmp_path / "one.csv", ["CT"])


def test_inputs_with_brats_names(tmp_path) -> None:
    brats(tmp_path, "P-1", "t1n t1c t2w t2f", "-")
    (case,) = find_inputs(tmp_path, ["t1n", "t1c", "t2w", "t2f"])
    assert case.id == "P-1"
    assert case.label is None


def test_inputs_that_are_nothing_are_one_line(tmp_path) -> None:
    with pytest.raises(DatasetError, match="no images to predict"):
        find_inputs(tmp_path, ["MRI"])
    touch(tmp_path, "a.nii", "a.nii.gz")
    with pytest.raises(DatasetError, match="duplicate case a"):
        find_inputs(tmp_path, ["MRI"])
    with pytest.raises(DatasetError, match="is not an image"):
        find_inputs(touch(tmp_path, "x.txt") / "x.txt", ["MRI"])


def test_a_folder_of_other_channels_is_named_with_what_was_expected(tmp_path) -> None:
    for name in ("t1n", "t1c", "t2w", "t2f"):
        touch(tmp_path, f"BraTS-1/BraTS-1-{name}.nii.gz")
    fact = r"the model reads 1 channel \(MRI\), and the cases in the folder have 4 \(t1c, t1n, t2f, t2w\)\."
    with pytest.raises(DatasetError, match=fact):
        find_inputs(tmp_path, ["MRI"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")
    with pytest.raises(
        DatasetError, match=r"the model reads 2 channels \(a, b\); looked for .*; found 1 \.txt\."
    ):
        find_inputs(tmp_path / "other", ["a", "b"])


@pytest.mark.parametrize("image", ["imagesTs/a_0000.nii.gz", "imagesTs/a.nii.gz"])
def test_numbers_of_channels_must_be_those_of_the_model(tmp_path, image) -> None:
    """nnU-Net's and the Decathlon's documents name the channels that files or volumes number."""
    touch(tmp_path, image, image.replace("_0000", "_0001"))
    document = tmp_path / "dataset.json"
    for names, line in (
        ({"0": "T2", "1": "t1"}, r"T2 0, t1 1 \(.*dataset\.json\) \| T1 0, T2 1 \(the model\)"),
        ({"1": "T1", "0": "PD"}, r"T1 1 \(.*dataset\.json\) \| T1 0 \(the model\)"),
        ({"0": "t1", "1": "T-2"}, None),
        ({"0": "first", "1": "second"}, None),
        ("MRI", None),
    ):
        document.write_text(json.dumps({"channel_names": names, "labels": {}}))
        for source in (tmp_path, tmp_path / "imagesTs", *(tmp_path.glob("imagesTs/a.nii.gz"))):
            if line is None:
                assert [case.fault for case in find_inputs(source, ["T1", "T2"])] == [None]
            else:
                with pytest.raises(DatasetError, match=f"numbers disagree: {line}"):
                    find_inputs(source, ["T1", "T2"])
    document.write_text(json.dumps({"channel_names": {"0": "T2", "1": "T1"}}))
    (tmp_path / "l.csv").write_text("case,T2,T1\na,t2.nii,t1.nii\n")
    assert len(find_inputs(tmp_path / "l.csv", ["T1", "T2"])) == 1
