"""What a path is shown as, and what is read for it."""

import json
from pathlib import Path

import numpy as np
import pytest

from mambamed.converters import convert
from mambamed.demonstration.phantom import write_phantoms
from mambamed.errors import DatasetError, RecipeError
from mambamed.io.images import read_image, write_image
from mambamed.preparation.prepare import prepare
from mambamed.progress import Silence
from mambamed.recipe import load_recipe
from mambamed.viewer import Answers, open_subject, view
from mambamed.viewer.case_rows import position
from mambamed.viewer.content import CaseView, Column, Subject
from tests.io.test_dicom import write_series
from tests.real_data import DATA
from tests.viewer import scenes


def roles(answers: Answers, index: int = 0) -> list[tuple[str, str]]:
    return [(volume["role"], volume["name"]) for volume in answers.case(index)["volumes"]]


def test_an_evaluation_lists_scores_and_its_unscored_case(tmp_path) -> None:
    shown = open_subject([scenes.mask_evaluation(tmp_path)], None, None)
    assert [column.title for column in shown.columns] == [
        "worst Dice", "structure", "mean Dice", "WT Dice", "ET Dice", "missed or invented"
    ]  # fmt: skip
    assert shown.sort_by == 0 and shown.ids == ["HEAD-0000", "HEAD-0001", "HEAD-0002"]
    first = dict(zip([column.title for column in shown.columns], shown.rows[0], strict=True))
    assert first["worst Dice"] == min(first["WT Dice"], first["ET Dice"])
    answers = Answers(shown)
    assert answers.case(2)["remarks"][0].endswith("Predict it, or use --only-predicted.")
    assert answers.case(3) is None and answers.volume(0, 6) is None
    assert answers.subject()["rows"][2][0] is None  # NaN, which is no JSON


def test_masks_of_another_project_and_of_other_references_are_told_apart(tmp_path, monkeypatch) -> None:
    """Two projects with the same relative paths; the viewer is started in the wrong one."""
    for project in ("ours", "other"):
        (tmp_path / project).mkdir()
        monkeypatch.chdir(tmp_path / project)
        scenes.mask_evaluation(Path())
    masks = Answers(open_subject([tmp_path / "ours" / "evaluation"], None, None)).case(0)["volumes"][-2:]
    assert [Path(mask["source"]).resolve().relative_to(tmp_path).parts[0] for mask in masks] == ["ours"] * 2
    (tmp_path / "more").mkdir()
    scenes.tiny_image(tmp_path / "more" / "HEAD-0000.nii.gz")
    shown = open_subject([tmp_path / "ours" / "evaluation"], None, tmp_path / "more")
    sources = {volume["role"]: volume["source"] for volume in Answers(shown).case(0)["volumes"]}
    assert sources["reference"] == str(tmp_path / "more" / "HEAD-0000.nii.gz")
    scenes.tiny_image(tmp_path / "nobody" / "x.nii.gz")
    with pytest.raises(DatasetError, match=r"--references .*nobody: none of the cases"):
        open_subject([tmp_path / "ours" / "evaluation"], None, tmp_path / "nobody")


def test_an_evaluation_has_the_uncertainty_of_its_predictions(tmp_path) -> None:
    evaluation = scenes.mask_evaluation(tmp_path)
    numbers = {"entropy": 0.1, "disagreement": 0.0}
    least = {"WT": numbers | {"expected_dice": 0.9}, "ET": numbers | {"expected_dice": 0.25}}
    facts = {"command": "x", "versions": {}, "git_commit": None, "platform": "x", "cpu_cores": 1}
    cases = {"HEAD-0001": {"status": "done", "uncertainty": least}, "HEAD-0000": {"status": "done"}}
    document = {"format": 1, **facts, "torch_threads": 1, "version": "0.2.0", "cases": cases}
    (tmp_path / "predictions" / "run.json").write_text(json.dumps(document))
    scenes.tiny_image(tmp_path / "predictions" / "uncertainty" / "HEAD-0001_entropy.nii.gz")
    answers = Answers(open_subject([evaluation], None, None))
    assert answers.subject()["columns"][-1] == {"title": "least expected Dice", "better": "higher"}
    assert [row[-1] for row in answers.subject()["rows"]] == [None, 0.25, None]
    assert roles(answers, 1)[-1] == ("saliency", "entropy") and answers.volume(1, 6)
    assert ("saliency", "entropy") not in roles(answers, 0)


def test_a_position_that_is_no_number_is_named(tmp_path) -> None:
    row = {"x": "1", "y": "2.5", "z": "3"}
    assert position(tmp_path, row, "") == (1.0, 2.5, 3.0) and position(tmp_path, row, "reference_") is None
    with pytest.raises(DatasetError, match=r"cases\.csv:.*Run evaluate again"):
        position(tmp_path, row | {"y": "2,5"}, "")


def test_a_dataset_and_its_prepared_form_have_channels_and_labels(tmp_path) -> None:
    write_phantoms(tmp_path / "data", 5)  # as many as folds
    raw = convert(tmp_path / "data", format="brats")
    prepare(raw, tmp_path / "prepared", recipe=load_recipe("phantom_nnmamba"))
    answers = Answers(open_subject([tmp_path / "prepared"], None, None))
    channels = [("image", name) for name in ("t1n", "t1c", "t2w", "t2f")]
    assert roles(answers) == [*channels, ("reference", "label")]
    assert {label["name"] for label in answers.subject()["labels"]} == {"NCR", "ED", "ET"}
    assert answers.volume(0, 4) and answers.volume(0, 3)
    masks = open_subject([tmp_path / "prepared/references"], tmp_path / "prepared", None)
    assert roles(Answers(masks)) == [*channels, ("prediction", "prediction")]


def test_masks_of_several_models_are_layers_of_one_case(tmp_path) -> None:
    for model in ("a", "b"):
        scenes.tiny_image(tmp_path / model / "case.nii.gz")
    scenes.tiny_image(tmp_path / "images" / "case_0000.nii.gz")
    scenes.tiny_image(tmp_path / "images" / "case_0001.nii.gz")
    answers = Answers(open_subject([tmp_path / "a", tmp_path / "b"], tmp_path / "images", None))
    assert roles(answers) == [
        ("image", "channel 0"), ("image", "channel 1"), ("prediction", "a"), ("prediction", "b")
    ]  # fmt: skip


def test_a_folder_per_case_is_shown_without_anything_to_learn(tmp_path) -> None:
    for case in ("p1", "p2"):
        for name in ("t1", "flair", "seg"):
            scenes.tiny_image(tmp_path / case / f"{case}_{name}.nii.gz")
    shown = open_subject([tmp_path], None, None)
    assert shown.ids == ["p1", "p2"]
    assert roles(Answers(shown), 1) == [
        ("image", "flair"), ("image", "t1"), ("reference", "p2_seg.nii.gz")
    ]  # fmt: skip


def test_a_folder_of_many_images_is_no_case(tmp_path) -> None:
    """As in a dataset whose classes are in a table that has several columns of classes."""
    (tmp_path / "images").mkdir()
    for number in range(30):
        (tmp_path / "images" / f"sub-{number:02d}.nii.gz").touch()
    shown = open_subject([tmp_path], None, None)
    assert len(shown.ids) == 30 and shown.ids[3] == "sub-03"
    scenes.tiny_image(tmp_path / "few" / "t1.nii.gz")
    scenes.tiny_image(tmp_path / "alone.nii.gz")
    shown = open_subject([tmp_path], None, None)
    assert sorted(shown.ids) == ["alone", "few", *(f"sub-{number:02d}" for number in range(30))]


def test_unlabelled_images_have_their_channels(tmp_path) -> None:
    for case in ("a", "b"):
        for number in range(2):
            scenes.tiny_image(tmp_path / "nnunet" / "imagesTs" / f"{case}_{number:04d}.nii.gz")
        for name in ("T1w", "FLAIR"):
            scenes.tiny_image(tmp_path / "bids" / f"sub-{case}" / "anat" / f"sub-{case}_{name}.nii.gz")
    names = {"channel_names": {"0": "T1", "1": "FLAIR"}}
    (tmp_path / "nnunet" / "dataset.json").write_text(json.dumps(names))
    shown = open_subject([tmp_path / "nnunet" / "imagesTs"], None, None)
    assert shown.ids == ["a", "b"] and roles(Answers(shown)) == [("image", "T1"), ("image", "FLAIR")]
    shown = open_subject([tmp_path / "bids"], None, None)
    assert shown.ids == ["sub-a", "sub-b"] and roles(Answers(shown)) == [("image", "FLAIR"), ("image", "T1w")]


def test_a_folder_of_dicom_files_is_an_image_with_its_reference(tmp_path) -> None:
    write_series(tmp_path / "scan", [3.0 * step for step in range(6)])
    shown = open_subject([tmp_path / "scan"], None, None)
    assert shown.ids == ["scan"] and roles(Answers(shown)) == [("image", "image")]
    image = read_image(tmp_path / "scan")
    write_image(tmp_path / "mask.nii.gz", (image.array > 0).astype(np.uint8), like=image)
    answers = Answers(open_subject([tmp_path / "scan"], None, tmp_path / "mask.nii.gz"))
    assert roles(answers) == [("image", "image"), ("reference", "reference")]
    assert answers.volume(0, 0) and answers.volume(0, 1)


def test_columns_of_one_name_are_told_apart(tmp_path) -> None:
    columns = [Column("mean Dice", "higher"), Column("case"), Column("mean Dice", "higher")]
    shown = Subject("x", "evaluation", [], lambda index: CaseView(), tmp_path, columns)
    titles = [column["title"] for column in Answers(shown).subject()["columns"]]
    assert titles == ["mean Dice", "case", "mean Dice (2)"]


def test_no_image_is_read_before_its_case_is_chosen(tmp_path) -> None:
    for number in range(500):
        (tmp_path / f"case_{number}.nii.gz").touch()  # reading one is an error
    answers = Answers(open_subject([tmp_path], tmp_path, None))
    assert len(answers.subject()["ids"]) == 500


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "mouse_skull_landmarks").is_dir(), reason="no data, see MAMBAMED_TEST_DATA")
def test_landmarks_that_are_compared_with_themselves_have_no_error() -> None:
    skulls = DATA / "mouse_skull_landmarks"
    shown = open_subject([skulls / "landmarks"], skulls / "images", skulls / "landmarks")
    assert len(shown.ids) == 23 and shown.rows[0] == [45, 0, 0.0, 0.0]
    points = Answers(shown).case(0)["points"]
    assert len(points) == 45 and points[0]["error_mm"] == 0 and np.isfinite(points[0]["reference"]).all()


def test_what_cannot_be_shown_is_named(tmp_path) -> None:
    with pytest.raises(DatasetError, match="nothing: no such file or folder"):
        open_subject([tmp_path / "nothing"], None, None)
    with pytest.raises(DatasetError, match="no images"):
        open_subject([tmp_path], None, None)
    model = tmp_path / "model.mambamed"
    model.write_bytes(b"PK")
    with pytest.raises(DatasetError, match=r"model\.mambamed: is not an image"):
        open_subject([model], None, None)
    with pytest.raises(RecipeError, match="--no-browser"):
        view([tmp_path], browser=False)


class Said(Silence):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_the_address_and_the_tunnel_are_printed(tmp_path) -> None:
    image, said = scenes.tiny_image(tmp_path / "scan.nii.gz"), Said()
    found = view([image], browser=False, progress=said, serve=lambda server: None)
    port = found.url.split("/")[2].removeprefix("127.0.0.1:")
    assert said.lines[0] == f"open {found.url}" and port.isdigit()
    assert f"ssh -N -L {port}:127.0.0.1:{port} USER@THIS-MACHINE" in said.lines[1]


def test_only_the_notes_are_written(tmp_path) -> None:
    image = scenes.tiny_image(tmp_path / "scan.nii.gz")
    asked = []
    found = view([image], browser=False, notes=True, serve=lambda server: asked.append(server.url))
    assert asked == [found.url] and found.cases == 1 and found.marked == 0
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]
    view(
        [image], browser=False, notes=True, serve=lambda server: server.answers.notes.put("scan", "right", "")
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.nii.gz", "scan.nii.gz.notes.csv"]
