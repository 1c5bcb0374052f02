"""Evaluation of folders: who belongs to whom, what is a fault, what the files say."""

import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mambamed import api
from mambamed.errors import DatasetError
from mambamed.evaluation.compare import compare
from mambamed.evaluation.masks import evaluate
from mambamed.evaluation.pairing import pair_up
from mambamed.io.json_files import read_json, write_json
from mambamed.io.tables import read_csv
from tests.real_data import DATA

SHAPE = (8, 9, 6)


def write(path: Path, array, affine=None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(array), np.eye(4) if affine is None else affine), path)


def block(low: int = 2, high: int = 5, label: int = 1) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[low:high, 2:6, 1:4] = label
    return labels


def write_dataset(tmp_path: Path, predictions: dict[str, np.ndarray], references: dict[str, np.ndarray]):
    for folder, masks in (("predictions", predictions), ("references", references)):
        for case, labels in masks.items():
            write(tmp_path / folder / f"{case}.nii.gz", labels)
    return tmp_path / "predictions", tmp_path / "references"


def of(evaluation, region, metric):
    return next(s for s in evaluation.summaries if (s.region, s.metric) == (region, metric))


def test_scores_are_those_of_the_masks_and_the_files_agree(tmp_path) -> None:
    folders = write_dataset(tmp_path, {"a": block(), "b": block(3, 6)}, {"a": block(), "b": block()})
    found = evaluate(*folders, labels={"background": 0, "organ": 1}, output=tmp_path / "out")
    assert found.faults == ()
    dice = of(found, "organ", "dice")
    assert dice.mean == pytest.approx((1 + 2 / 3) / 2)  # two of three planes are shared
    assert of(found, "organ", "hd95:max-directed").mean == pytest.approx(0.5)
    headers, rows = read_csv(tmp_path / "out" / "cases.csv")
    assert headers[:4] == ["case", "region", "dice", "hd95:max-directed"]
    assert [float(row["dice"]) for row in rows] == pytest.approx([1, 2 / 3])
    _, (first, second) = read_csv(tmp_path / "out" / "summary.csv")
    assert float(first["mean"]) == pytest.approx(dice.mean)
    assert (second["metric"], second["defined"]) == ("hd95:max-directed", "2")


def test_the_summary_has_the_schema_of_nnunet(tmp_path) -> None:
    folders = write_dataset(
        tmp_path, {"a": block(), "b": block(3, 6)}, {"a": block(), "b": block() + block(6, 8, 2)}
    )
    regions = {"whole": (1, 2), "second": (2,)}
    evaluate(*folders, regions=regions, output=tmp_path / "out")
    document = json.loads((tmp_path / "out" / "summary.json").read_text())
    # As compute_metrics_on_folder of nnU-Net 2 writes it.
    assert {"metric_per_case", "mean", "foreground_mean"} <= set(document)
    assert list(document["mean"]) == ["(1, 2)", "2"]
    first = document["metric_per_case"][0]
    assert set(first) == {"metrics", "prediction_file", "reference_file"}
    theirs = {"Dice", "FN", "FP", "IoU", "TN", "TP", "n_pred", "n_ref"}
    assert theirs <= set(first["metrics"]["2"])
    assert math.isnan(first["metrics"]["2"]["Dice"])  # in neither mask
    assert document["mean"]["2"]["Dice"] == 0  # nanmean: case b only
    assert document["foreground_mean"]["Dice"] == pytest.approx(
        np.mean([document["mean"][k]["Dice"] for k in document["mean"]])
    )
    assert document["settings"]["protocol"] == "mambamed"


def test_wrong_pairs_are_told_all_at_once_and_count_in_the_penalized_mean(tmp_path) -> None:
    far = np.eye(4)
    far[0, 3] = 10
    references = {case: block() for case in ("good", "missing", "moved", "strange", "soft")}
    folders = write_dataset(
        tmp_path, {"good": block(), "strange": block(label=4), "extra": block()}, references
    )
    write(folders[0] / "moved.nii.gz", block(), far)
    write(folders[0] / "soft.nii.gz", block() * np.float32(0.5))
    found = evaluate(*folders, labels={"background": 0, "organ": 1}, output=tmp_path / "out")
    lines = "\n".join(str(fault) for fault in found.faults)
    assert len(found.faults) == 5
    for words in (
        ("missing", "no prediction"),
        ("moved.nii.gz", "origin", "10 mm"),
        ("strange.nii.gz", "label 4"),
        ("soft.nii.gz", "0.5"),
        ("extra.nii.gz", "no reference"),
    ):
        assert any(all(word in line for word in words) for line in lines.splitlines()), words
    dice = of(found, "organ", "dice")
    assert (dice.cases, dice.defined, dice.unscored) == (5, 1, 4)
    assert dice.mean == 1.0
    assert dice.mean_penalized == pytest.approx(1 / 5)
    distance = of(found, "organ", "hd95:max-directed")
    assert distance.mean_penalized == pytest.approx(4 * np.linalg.norm(SHAPE) / 5)
    _, rows = read_csv(tmp_path / "out" / "cases.csv")
    assert [row["presence"] for row in rows].count("unscored") == 4
    assert "with misses" in found.table.headers


def test_what_is_empty_is_counted_by_name(tmp_path) -> None:
    empty = np.zeros(SHAPE, np.uint8)
    folders = write_dataset(
        tmp_path,
        {"both": empty, "missed": empty, "invented": block(), "good": block()},
        {"both": empty, "missed": block(), "invented": empty, "good": block()},
    )
    found = evaluate(*folders, labels={"organ": 1}, penalty_mm=50)
    distance = of(found, "organ", "hd95:max-directed")
    assert (distance.defined, distance.empty, distance.infinite) == (1, 1, 2)
    assert distance.mean == 0
    assert distance.mean_penalized == pytest.approx(100 / 3)
    assert of(found, "organ", "dice").mean == pytest.approx(1 / 3)
    brats = evaluate(*folders, labels={"organ": 1}, empty="brats")
    assert of(brats, "organ", "dice").mean == pytest.approx(2 / 4)
    assert any("empty/empty" in note for note in found.table.notes)


def test_a_mask_stored_along_other_axes_is_the_same_mask(tmp_path) -> None:
    labels = block()
    labels[2, 2, 1] = 0
    flipped = np.diag([-1.0, 1.0, 1.0, 1.0])
    flipped[0, 3] = SHAPE[0] - 1
    write(tmp_path / "references" / "a.nii.gz", labels)
    write(tmp_path / "predictions" / "a.nii.gz", labels[::-1].copy(), flipped)
    found = evaluate(tmp_path / "predictions", tmp_path / "references", labels={"organ": 1})
    assert found.faults == ()
    assert of(found, "organ", "dice").mean == 1


def test_a_coarser_prediction_is_resampled_only_when_asked(tmp_path) -> None:
    reference = np.zeros((8, 8, 8), np.uint8)
    reference[2:6, 2:6, 2:6] = 1
    coarse = np.diag([2.0, 2.0, 2.0, 1.0])
    coarse[:3, 3] = 0.5
    write(tmp_path / "references" / "a.nii.gz", reference)
    write(tmp_path / "predictions" / "a.nii.gz", reference[::2, ::2, ::2].copy(), coarse)
    folders = (tmp_path / "predictions", tmp_path / "references")
    (fault,) = evaluate(*folders, labels={"organ": 1}).faults
    assert "shape" in str(fault)
    assert of(evaluate(*folders, labels={"organ": 1}, resample=True), "organ", "dice").mean == 1


def test_labels_that_came_through_a_float_are_rounded(tmp_path) -> None:
    folders = write_dataset(tmp_path, {"a": block()}, {"a": block() * np.float32(0.99999997)})
    assert of(evaluate(*folders, labels={"organ": 1}), "organ", "dice").mean == 1


@pytest.mark.parametrize(
    "document",
    [
        {"labels": {"0": "background", "1": "organ", "2": "other"}},
        {"labels": {"background": 0, "organ": 1, "other": 2}},
        {"labels": {"background": 0, "organ": [1], "both": [1, 2]}},
        {"labels": {"background": 0, "a": 1, "b": 2}, "regions": {"organ": [1], "both": [1, 2]}},
    ],
)
def test_labels_and_regions_come_from_the_manifest(tmp_path, document) -> None:
    write(tmp_path / "data" / "labelsTr" / "a.nii.gz", block() + block(5, 7, 2))
    write(tmp_path / "predictions" / "a.nii.gz", block())
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(document))
    found = evaluate(tmp_path / "predictions", tmp_path / "data")
    assert list(found.regions) in (["organ", "other"], ["organ", "both"])
    assert of(found, "organ", "dice").mean == 1
    assert str(tmp_path / "data" / "dataset.json") in found.settings["labels_from"]


def test_references_are_found_in_brats_folders_with_their_regions_and_visits(tmp_path) -> None:
    for visit in ("000", "001"):
        case = f"BraTS-GLI-00007-{visit}"
        write(tmp_path / "data" / case / f"{case}-seg.nii.gz", block(label=3) + block(5, 7, 2))
        write(tmp_path / "predictions" / f"{case}.nii.gz", block(label=3))
    found = evaluate(tmp_path / "predictions", tmp_path / "data")
    assert dict(found.regions) == {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
    assert {case.subject for case in found.cases} == {"BraTS-GLI-00007"}
    assert of(found, "TC", "dice").mean == 1


@pytest.mark.parametrize(
    ("folder", "case", "end", "expected"),
    [
        ("gli", "BraTS-GLI-02064-101", "-seg", {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,), "RC": (4,)}),
        ("2024", "BraTS-PED-00001-000", "-seg", {"WT": (1, 2, 3, 4), "TC": (1, 2, 3), "ET": (1,)}),
        ("rt", "BraTS-MEN-RT-0003-1", "_gtv", {"GTV": (1,)}),
        ("old", "BraTS2021_00000", "_seg", {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}),
    ],
)
def test_each_population_of_brats_is_scored_by_its_own_labels(tmp_path, folder, case, end, expected) -> None:
    """The regions as the challenges define them; see `converters.brats`."""
    write(
        tmp_path / folder / case / f"{case}{end}.nii.gz",
        block(label=1) + block(5, 7, expected.get("RC", (0,))[0]),
    )
    write(tmp_path / "predictions" / f"{case}.nii.gz", block(label=1))
    found = evaluate(tmp_path / "predictions", tmp_path / folder)
    assert (dict(found.regions), found.faults) == (expected, ())


def test_every_label_that_occurs_is_scored_where_none_is_named(tmp_path) -> None:
    folders = write_dataset(tmp_path, {"a": block(), "b": block()}, {"a": block(), "b": block(label=7)})
    found = evaluate(*folders)
    assert dict(found.regions) == {"1": (1,), "7": (7,)}
    assert of(found, "7", "dice").mean == 0


@pytest.mark.parametrize("case", ["absent", "empty", "strangers", "duplicate", "metric", "protocol"])
def test_what_cannot_be_compared_is_refused_with_the_reason(tmp_path, case) -> None:
    predictions, references = write_dataset(tmp_path, {"a": block()}, {"a": block()})
    options, word = {}, case
    if case == "absent":
        predictions, word = tmp_path / "nowhere", "no such folder"
    elif case == "empty":
        predictions, word = tmp_path / "out", "no images"
        predictions.mkdir()
    elif case == "strangers":
        (predictions / "a.nii.gz").rename(predictions / "z.nii.gz")
        word = "name of a reference"
    elif case == "duplicate":
        write(references / "a.nii", block())
    elif case == "metric":
        options = {"metrics": ("dize",)}
    else:
        options = {"protocol": "brats1999"}
    with pytest.raises(DatasetError, match=word):
        evaluate(predictions, references, **options)


def test_some_cases_are_evaluated_and_the_table_says_so(tmp_path) -> None:
    folders = write_dataset(tmp_path, {"a": block()}, {"a": block(), "b": block()})
    for cases in ("predicted", ["a"]):
        found = evaluate(*folders, labels={"organ": 1}, cases=cases)
        assert found.faults == ()
        assert any("1 of 2 references left out" in note for note in found.table.notes)
    with pytest.raises(DatasetError, match="no reference of q"):
        evaluate(*folders, cases=["q"])


def test_two_single_files_are_compared_whatever_their_names(tmp_path) -> None:
    write(tmp_path / "a.nii.gz", block())
    write(tmp_path / "b.nii.gz", block())
    assert pair_up(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz").pairs == {
        "b": (tmp_path / "b.nii.gz", tmp_path / "a.nii.gz")
    }


def test_the_paper_table_stands_beside_the_papers_row(tmp_path) -> None:
    folders = write_dataset(tmp_path, {"a": block(3, 6)}, {"a": block()})
    regions = {"ET": (1,), "WT": (1, 2)}
    paper = {"WT": 93.46, "ET": 85.72, "WT HD95": 4.5, "source": "their table 1"}
    found = evaluate(*folders, regions=regions, table="brats", paper=paper, output=tmp_path / "out")
    assert found.paper_table is not None
    ours, theirs = found.paper_table.rows
    assert found.paper_table.headers[1:4] == ["Dice % WT", "Dice % ET", "Dice % Average"]
    assert ours == ["predictions", "66.67", "66.67", "66.67", "1.00", "1.00", "1.00"]
    assert theirs == ["paper (their table 1)", "93.46", "85.72", "89.59", "4.50", "-", "-"]
    assert r"\toprule" in (tmp_path / "out" / "table_brats.tex").read_text()
    assert "| 93.46 |" in (tmp_path / "out" / "table_brats.md").read_text()
    assert set(found.written) == set((tmp_path / "out").iterdir())


def evaluations(tmp_path, highs=(5, 6), cases=8):
    """Two models, the second always a plane too large; case c0 is missed by the first."""
    random = np.random.default_rng(0)
    lows = [int(low) for low in random.integers(0, 3, cases)]
    folders = []
    for name, high in zip(("first", "second"), highs, strict=True):
        predictions = {f"c{k}": block(low, high) for k, low in enumerate(lows)}
        if name == "first":
            predictions["c0"] = np.zeros(SHAPE, np.uint8)
        references = {f"c{k}": block(low, 5) for k, low in enumerate(lows)}
        pair = write_dataset(tmp_path / name, predictions, references)
        evaluate(*pair, labels={"organ": 1}, output=tmp_path / f"eval_{name}")
        folders.append(tmp_path / f"eval_{name}")
    return folders


def test_comparison_is_paired_counts_misses_and_is_written(tmp_path) -> None:
    found = compare(evaluations(tmp_path), output=tmp_path / "comparison")
    dice, distance = found.differences
    _, first = read_csv(tmp_path / "eval_first" / "cases.csv")
    _, second = read_csv(tmp_path / "eval_second" / "cases.csv")
    differences = [float(b["dice"]) - float(a["dice"]) for a, b in zip(first, second, strict=True)]
    assert dice.test.mean_difference == pytest.approx(np.mean(differences))
    assert dice.test.pairs == 8
    # The miss counts with the diagonal of the image, the others with 0 and 1 mm.
    assert distance.means == (pytest.approx(np.linalg.norm(SHAPE) / 8), pytest.approx(1.0))
    assert dice.wilcoxon_holm >= dice.test.wilcoxon_p
    assert found.ranks.rows[0][-2:] == ["1.12", "1.88"]  # first is best in 7 of 8 cases: 9/8 and 15/8
    names = {path.name for path in (tmp_path / "comparison").glob("[!.]*")}
    assert names == {"comparison.csv", "comparison.md", "comparison.tex", "comparison.json", "ranks.csv"}


def test_other_cases_or_rules_are_never_compared_silently(tmp_path) -> None:
    first, _ = evaluations(tmp_path)
    folders = write_dataset(tmp_path / "more", {"c1": block()}, {"c1": block()})
    evaluate(*folders, labels={"organ": 1}, output=tmp_path / "eval_one")
    with pytest.raises(DatasetError, match=r"different cases.*--common"):
        compare([first, tmp_path / "eval_one"])
    assert compare([first, tmp_path / "eval_one"], common=True).differences[0].test.pairs == 1
    evaluate(*folders, labels={"organ": 1}, empty="brats", output=tmp_path / "eval_rules")
    with pytest.raises(DatasetError, match="different rules"):
        compare([tmp_path / "eval_one", tmp_path / "eval_rules"])
    with pytest.raises(DatasetError, match="two or more"):
        compare([first])
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DatasetError, match=r"summary\.json"):
        compare([first, tmp_path / "nothing"])


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "brats_tcia").is_dir(), reason=f"no {DATA / 'brats_tcia'}")
def test_five_algorithms_on_real_tumors_are_evaluated_and_two_compared(tmp_path) -> None:
    algorithms = sorted((DATA / "brats_tcia" / "algorithms").iterdir())
    for algorithm in algorithms:
        found = evaluate(algorithm, DATA / "brats_tcia" / "training", output=tmp_path / algorithm.name)
        assert found.faults == ()
        assert 0.85 < of(found, "WT", "dice").mean <= 1
        # The reference of the second case holds no enhancing tumor: named, not dropped.
        et = of(found, "ET", "hd95:max-directed")
        assert et.defined + et.empty + et.infinite == et.cases == 2
    found = compare([tmp_path / algorithm.name for algorithm in algorithms[:2]])
    assert [d.region for d in found.differences] == ["WT", "WT", "TC", "TC", "ET", "ET"]


def test_the_command_offers_every_protocol_and_reads_regions() -> None:
    from typing import get_args

    from mambamed.evaluation.pairing import read_regions
    from mambamed.metrics.rules import EMPTY_RULES, PROTOCOLS

    assert get_args(api.Protocol) == tuple(PROTOCOLS)
    assert get_args(api.Empty) == tuple(EMPTY_RULES)
    for wrong in ("liver", "=1", "a=x", "a=1,a=2", "a=-1"):
        with pytest.raises(DatasetError, match="--regions"):
            read_regions(wrong)


def test_what_nobody_has_labeled_is_not_scored(tmp_path) -> None:
    """By hand: 4 voxels of the organ, 2 of them found, 2 unknown ones of which one is called organ."""
    reference, prediction = np.zeros((2, 4, 4, 4), np.uint8)
    reference[0, 0], reference[3, 3, :2] = 1, 9
    prediction[0, 0, :2], prediction[3, 3, 0] = 1, 1
    folders = write_dataset(tmp_path, {"a": prediction}, {"a": reference})
    found = evaluate(*folders, labels={"background": 0, "organ": 1, "ignore": 9})
    assert list(found.regions) == ["organ"] and not found.faults
    assert of(found, "organ", "dice").mean == pytest.approx(2 * 2 / (4 + 2))


def test_one_structure_of_a_mask_with_several_is_scored(tmp_path) -> None:
    masks = {case: block() + block(6, 8, 2) for case in "abc"}
    folders = write_dataset(tmp_path, masks, {**masks, "a": block(3, 6) + block(6, 8, 3)})
    found = api.evaluate(*folders, regions="Anterior=1,Tail=9", metrics="dice")
    assert found.faults == ()
    # of three planes each, two are shared; the lesion of label 2 or 3 takes no part
    assert of(found, "Anterior", "dice").mean == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert "other labels, ignored: 2 (2, 3)" in found.table.notes
    assert "labels that occur in no file: 9" in found.table.notes


def test_a_label_that_the_recipe_does_not_know_stays_a_fault(tmp_path) -> None:
    masks = {"a": block() + block(6, 8, 2)}
    found = evaluate(*write_dataset(tmp_path, masks, masks), regions={"Anterior": (1,)})
    assert len(found.faults) == 1


def test_references_without_a_prediction_are_counted_and_the_option_is_named(tmp_path) -> None:
    folders = write_dataset(tmp_path, {"a": block()}, {case: block() for case in "abc"})
    found = api.evaluate(*folders, metrics="dice")
    note = "2 of 3 references have no prediction and count as missed, unless --only-predicted is given"
    assert note in found.table.notes
    assert not [n for n in api.evaluate(*folders, only_predicted=True).table.notes if "no prediction" in n]


def test_regions_of_two_evaluations_must_be_made_of_the_same_labels(tmp_path) -> None:
    folders = evaluations(tmp_path)
    path = folders[1] / "summary.json"
    summary = read_json(path)
    write_json(path, summary | {"regions": {"organ": [2]}})
    with pytest.raises(
        DatasetError, match=r"names disagree: organ 1 \(eval_first\) \| organ 2 \(eval_second\)"
    ):
        compare(folders)
    text = (folders[1] / "cases.csv").read_text().replace(",organ,", ",ORGAN,")
    (folders[1] / "cases.csv").write_text(text)
    write_json(path, summary | {"regions": {"ORGAN": [1]}})
    assert {difference.region for difference in compare(folders).differences} == {"organ"}


def test_intervals_are_by_the_subjects_of_a_prepared_dataset_or_of_bids(tmp_path) -> None:
    ids = [f"c{n}" for n in range(10)]
    bids = [f"sub-{n // 2}_ses-{n % 2}" for n in range(10)]
    notes = []
    for names in (ids, bids):
        root = tmp_path / names[0]
        masks = {name: block(n % 3, 5) for n, name in enumerate(names)}
        folders = write_dataset(root, masks, masks)
        if names is ids:
            entry = {"shape": [8, 8, 8], "channels": 1, "has_label": True}
            cases = [{"id": name, "subject": f"p{n // 2}", **entry} for n, name in enumerate(names)]
            index = {"name": "d", "channels": {"a": "mri"}, "prepared_format": 1, "cases": cases}
            index["labels"] = {"background": 0, "organ": 1}
            write_json(root / "dataset.json", index)
            write_json(root / "plan.json", {})
            write_json(root / "splits.json", [])
        evaluation = evaluate(*folders, labels={"organ": 1})
        notes.append([note for note in evaluation.table.notes if "subjects" in note])
        assert len({case.subject for case in evaluation.cases}) == 5
    assert notes == [["10 cases of 5 subjects: intervals and tests are by subject"]] * 2
