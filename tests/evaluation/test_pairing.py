"""Which prediction belongs to which reference, and which labels are scored."""

import json
from pathlib import Path

import pytest

from mambamed.errors import DatasetError
from mambamed.evaluation.pairing import pair_up, read_regions, restricted


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_cases_are_paired_by_name_and_the_others_are_listed(tmp_path) -> None:
    predictions = touch(tmp_path / "p", "a.nii.gz", "b-seg.nii.gz", "x.nii.gz")
    references = touch(tmp_path / "r", "a.nrrd", "b.nii.gz", "c.nii.gz")
    pairing = pair_up(predictions, references)
    assert pairing.pairs == {
        "a": (references / "a.nrrd", predictions / "a.nii.gz"),
        "b": (references / "b.nii.gz", predictions / "b-seg.nii.gz"),
        "c": (references / "c.nii.gz", None),
    }
    assert pairing.extra == (predictions / "x.nii.gz",)
    assert pairing.answers.labels is None
    assert set(restricted(pairing, "predicted").pairs) == {"a", "b"}
    assert set(restricted(pairing, ["c"]).pairs) == {"c"}
    with pytest.raises(DatasetError, match="no reference of x"):
        restricted(pairing, ["x"])


def test_two_files_are_a_pair_whatever_their_names(tmp_path) -> None:
    touch(tmp_path, "mine.nii", "theirs.nii.gz")
    pairing = pair_up(tmp_path / "mine.nii", tmp_path / "theirs.nii.gz")
    assert pairing.pairs == {"theirs": (tmp_path / "theirs.nii.gz", tmp_path / "mine.nii")}


def test_folders_without_a_common_case_are_rejected(tmp_path) -> None:
    predictions, references = touch(tmp_path / "p", "x.nii"), touch(tmp_path / "r", "a.nii")
    with pytest.raises(DatasetError, match=r"no prediction has the name of a reference .*x.* references a"):
        pair_up(predictions, references)
    with pytest.raises(DatasetError, match="no such folder"):
        pair_up(tmp_path / "absent", references)
    with pytest.raises(DatasetError, match="duplicate case a"):
        pair_up(touch(tmp_path / "twice", "a.nii", "a.nii.gz"), references)


@pytest.mark.parametrize(
    ("labels", "regions"),
    [
        ({"0": "background", "1": "core", "2": "edema"}, {"core": (1,), "edema": (2,)}),
        ({"background": 0, "whole": [1, 2], "core": 1}, {"whole": (1, 2), "core": (1,)}),
    ],
)
def test_a_dataset_json_next_to_the_references_names_the_labels(tmp_path, labels, regions) -> None:
    predictions, references = touch(tmp_path / "p", "a.nii"), touch(tmp_path / "r" / "labelsTr", "a.nii")
    (tmp_path / "r" / "dataset.json").write_text(json.dumps({"labels": labels}))
    for source in (references, tmp_path / "r"):
        answers = pair_up(predictions, source).answers
        assert answers.regions == regions
        assert answers.labels == (0, 1, 2)
    asked = pair_up(predictions, references, labels={"background": 0, "lesion": 3}).answers
    assert (asked.regions, asked.labels) == ({"lesion": (3,)}, (0, 3))


@pytest.mark.parametrize("text", ["WT", "WT=", "=1", "WT=1,WT=2", "WT=a", "WT=-1"])
def test_regions_that_cannot_be_parsed_are_rejected(text) -> None:
    with pytest.raises(DatasetError, match=r"--regions .*: cannot parse"):
        read_regions(text)


NAMES = {"background": 0, "Anterior": 1, "Posterior": 2}


def named(folder: Path, document: str, **content) -> Path:
    touch(folder, "a.nii.gz")
    (folder / document).write_text(json.dumps({"cases": {}, **content}))
    return folder


def test_the_record_of_predict_names_the_labels_of_references_without_names(tmp_path) -> None:
    references = touch(tmp_path / "r", "a.nii.gz")
    for number, document in enumerate(("run.json", "run_1_of_2.json")):
        predictions = named(tmp_path / f"p{number}" / "q", document, labels=NAMES)
        assert pair_up(predictions, references).answers.regions == {"Anterior": (1,), "Posterior": (2,)}
        single = pair_up(predictions / "a.nii.gz", references / "a.nii.gz")
        assert single.answers.names == NAMES
    united = named(tmp_path / "u" / "q", "run.json", labels=NAMES, regions={"whole": [1, 2]})
    assert pair_up(united, references).answers.regions == {"whole": (1, 2)}


@pytest.mark.parametrize(
    ("first", "second", "line"),
    [
        (
            NAMES,
            {"background": 0, "Posterior": 1, "Anterior": 2},
            r"Posterior 1, Anterior 2 \(.*\| Anterior 1",
        ),
        (NAMES, {"background": 0, "head": 1, "Posterior": 2}, r"head 1 \(.*\| Anterior 1 \("),
        (
            {"whole": [1, 2], "core": 1, "background": 0},
            {"background": 0, "core": [1, 2]},
            "core 1.2 .*whole 1.2",
        ),
        (NAMES, {"0": "background", "1": "ANTERIOR ", "2": "posterior"}, None),
        (NAMES, {"background": 0, "label_1": 1, "2": 2}, None),
    ],
)
def test_names_of_references_and_predictions_must_agree(tmp_path, first, second, line) -> None:
    predictions = named(tmp_path / "p" / "q", "run.json" if first is NAMES else "dataset.json", labels=first)
    references = named(tmp_path / "r" / "q", "dataset.json", labels=second)
    if line is None:
        assert pair_up(predictions, references).answers.labels == (0, 1, 2)
        return
    for regions in (None, {"mine": (1,)}):  # naming what is scored does not make them agree
        with pytest.raises(DatasetError, match=rf"names disagree: {line}.*Correct one"):
            pair_up(predictions, references, regions=regions)


def test_names_are_those_of_the_dataset_also_for_single_files(tmp_path) -> None:
    predictions = named(tmp_path / "p" / "q", "run.json", labels=NAMES)
    references = touch(tmp_path / "r" / "labelsTr", "a.nii.gz")
    (tmp_path / "r" / "dataset.json").write_text(json.dumps({"labels": {"Posterior": 1, "Anterior": 2}}))
    for one, other in ((predictions, references), (predictions / "a.nii.gz", references / "a.nii.gz")):
        with pytest.raises(DatasetError, match="names disagree: Posterior 1, Anterior 2"):
            pair_up(one, other)


def test_the_recipe_and_regions_must_agree_with_the_files(tmp_path) -> None:
    predictions = named(tmp_path / "p" / "q", "run.json", labels=NAMES)
    references = touch(tmp_path / "r" / "q", "a.nii.gz")
    recipe = {"background": 0, "Posterior": 1, "Anterior": 2}
    both = r"run\.json: labels: names disagree: Posterior 1, Anterior 2 \(the recipe\) \| Anterior 1, Post"
    with pytest.raises(DatasetError, match=both):
        pair_up(predictions, references, labels=recipe)
    with pytest.raises(DatasetError, match=r"Anterior 2 \(--regions\) \| Anterior 1 \("):
        pair_up(predictions, references, regions={"Anterior": (2,)})
    answers = pair_up(predictions, references, regions={"mine": (1,), "both": (1, 2)}).answers
    assert answers.regions == {"mine": (1,), "both": (1, 2)}
    assert answers.notes[0].startswith("other names of the same labels: mine 1 (--regions) | Anterior 1 (")
    unnamed = touch(tmp_path / "u" / "q", "a.nii.gz")
    notes = pair_up(unnamed, references, labels=recipe).answers.notes
    assert notes == ("labels are named by the recipe alone: no file next to the masks names them",)


def test_a_recipe_must_name_the_labels_as_the_year_of_brats_does(tmp_path) -> None:
    # Until 2021 the enhancing tumor has the value 4, since 2023 the value 3 (the challenges' data pages).
    case = touch(tmp_path / "r" / "BraTS2021_00001", "BraTS2021_00001_seg.nii.gz").parent
    predictions = touch(tmp_path / "p" / "q", "BraTS2021_00001.nii.gz")
    labels = {"background": 0, "NCR": 1, "ED": 2, "ET": 3}
    with pytest.raises(DatasetError, match=r"ET 3 \(the recipe\) \| ET 4 \(BraTS regions\)"):
        pair_up(predictions, case, labels=labels)
    assert pair_up(predictions, case, labels=labels | {"ET": 4}).answers.source == "the recipe"


def test_voxels_to_ignore_are_no_structure(tmp_path) -> None:
    predictions, references = touch(tmp_path / "p" / "q", "a.nii.gz"), touch(tmp_path / "r" / "q", "a.nii.gz")
    for spelled in ("ignore", "Ignore", "IGNORE_LABEL"):
        (references / "dataset.json").write_text(
            json.dumps({"labels": {"background": 0, "a": 1, spelled: 2}})
        )
        answers = pair_up(predictions, references).answers
        assert (answers.regions, answers.ignored) == ({"a": (1,)}, 2)
    (references / "dataset.json").write_text(json.dumps({"labels": {"a": 1, "ignore": [2, 3]}}))
    with pytest.raises(DatasetError, match=r"ignore: expected one value, got 2, 3"):
        pair_up(predictions, references)
    with pytest.raises(DatasetError, match="label ignore are not scored"):
        read_regions("a=1,Ignore=2")
