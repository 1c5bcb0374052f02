"""Folders are built as the challenges' and nnU-Net's documentation describe them; files may be empty here,
for a converter reads no voxel."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mambamed.cli.commands import app
from mambamed.cli.reference import reference
from mambamed.converters import CONVERTERS, convert
from mambamed.converters.inputs import find_inputs
from mambamed.errors import DatasetError
from mambamed.recipe import load_recipe, shipped_recipes


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def document(folder: Path, content: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def msd(folder: Path, cases=("b", "a"), **changes) -> Path:
    pairs = [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in cases]
    content = {"name": "Task", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "Anterior"}}
    document(folder, content | {"training": pairs} | changes)
    return touch(folder, *[f"{side}Tr/{c}.nii.gz" for side in ("images", "labels") for c in cases])


def nnunet(folder: Path, **changes) -> Path:
    content = {"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "liver": 1}}
    document(folder, content | changes)
    return touch(folder, *[f"imagesTr/c1_000{i}.nii.gz" for i in (0, 1)], "labelsTr/c1.nii.gz")


def test_a_decathlon_task_is_recognized(tmp_path) -> None:
    dataset = convert(msd(tmp_path))
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert dataset.manifest.labels == {"background": 0, "Anterior": 1}
    assert dataset.cases[0].channels[0].volume is None
    assert dataset.cases[0].label == tmp_path / "labelsTr" / "a.nii.gz"


def test_decathlon_channels_lie_in_the_fourth_axis(tmp_path) -> None:
    dataset = convert(msd(tmp_path, modality={"0": "FLAIR", "1": "T1w", "2": "CT"}))
    assert dataset.manifest.channels == {"FLAIR": "mri", "T1w": "mri", "CT": "ct"}
    assert [channel.volume for channel in dataset.cases[0].channels] == [0, 1, 2]
    assert len({channel.path for channel in dataset.cases[0].channels}) == 1


@pytest.mark.parametrize("name", ["../../evil.nii.gz", "/tmp/evil.nii.gz"])
def test_a_path_in_a_document_cannot_leave_the_folder(tmp_path, name) -> None:
    msd(tmp_path, training=[{"image": name, "label": name}])
    with pytest.raises(DatasetError, match=r"dataset\.json: training\.0\.image: .*inside the folder.*evil"):
        convert(tmp_path)


def test_an_nnunet_folder_is_recognized(tmp_path) -> None:
    dataset = convert(nnunet(tmp_path))
    assert dataset.manifest.channels == {"CT": "ct", "PET": "mri"}
    assert [c.path.name for c in dataset.cases[0].channels] == ["c1_0000.nii.gz", "c1_0001.nii.gz"]


def test_regions_of_nnunet_become_labels_and_regions(tmp_path) -> None:
    nnunet(tmp_path, labels={"background": 0, "whole": [1, 2, 3], "core": [2, 3], "active": 3})
    manifest = convert(tmp_path).manifest
    assert manifest.labels == {"background": 0, "label_1": 1, "label_2": 2, "active": 3}
    assert manifest.regions == {"whole": (1, 2, 3), "core": (2, 3), "active": (3,)}


@pytest.mark.parametrize(
    ("lost", "words"),
    [("imagesTr/c1_0001.nii.gz", "c1: channel c1_0001 is missing"), ("labelsTr/c1.nii.gz", "c1: no label")],
)
def test_what_a_case_lacks_is_named(tmp_path, lost, words) -> None:
    (nnunet(tmp_path) / lost).unlink()
    (case,) = convert(tmp_path).cases
    assert words in (case.fault or "")


def brats(folder: Path, case: str, names: str, separator: str) -> Path:
    return touch(folder, *[f"{case}/{case}{separator}{name}.nii.gz" for name in names.split()])


def test_brats_2023_is_recognized(tmp_path) -> None:
    for visit in ("000", "001"):
        brats(tmp_path, f"BraTS-GLI-00005-{visit}", "t1n t1c t2w t2f seg", "-")
    dataset = convert(tmp_path)
    assert list(dataset.manifest.channels) == ["t1n", "t1c", "t2w", "t2f"]
    assert dataset.manifest.regions == {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
    assert {case.subject for case in dataset.cases} == {"BraTS-GLI-00005"}


def test_brats_2021_keeps_its_label_4(tmp_path) -> None:
    brats(tmp_path, "BraTS2021_00000", "t1 t1ce t2 flair seg", "_")
    dataset = convert(tmp_path)
    assert dataset.manifest.regions == {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}
    names = [channel.path.name for channel in dataset.cases[0].channels]
    assert names == [f"BraTS2021_00000_{name}.nii.gz" for name in ("t1", "t1ce", "t2", "flair")]


def test_the_cavity_of_treated_tumors_is_a_label_of_2024(tmp_path) -> None:
    brats(tmp_path, "BraTS-GLI-02064-100", "t1n t1c t2w t2f seg", "-")
    manifest = convert(tmp_path).manifest
    assert manifest.labels == {"background": 0, "NCR": 1, "ED": 2, "ET": 3, "RC": 4}
    assert manifest.regions["RC"] == (4,)


@pytest.mark.parametrize("population", ["MEN", "MET", "PED", "SSA"])
def test_other_populations_of_2023_have_the_same_names(tmp_path, population) -> None:
    brats(tmp_path, f"BraTS-{population}-00001-000", "t1n t1c t2w t2f seg", "-")
    dataset = convert(tmp_path)
    assert dataset.manifest.labels == {"background": 0, "NCR": 1, "ED": 2, "ET": 3}
    assert dataset.cases[0].subject == f"BraTS-{population}-00001"


def test_children_of_2024_have_labels_of_their_own(tmp_path) -> None:
    folder = brats(tmp_path / "BraTS-PEDs2024_Training", "BraTS-PED-00001-000", "t1n t1c t2w t2f seg", "-")
    own = {"background": 0, "ET": 1, "NET": 2, "CC": 3, "ED": 4}
    assert convert(folder).manifest.labels == own
    assert convert(folder.rename(tmp_path / "other"), "brats-ped2024").manifest.labels == own


def test_a_plan_of_radiotherapy_has_one_channel_and_its_target(tmp_path) -> None:
    """As the folder of 2024 has it: BraTS-MEN-RT-0003-1_t1c.nii.gz and _gtv.nii.gz."""
    for plan in ("0003-1", "0003-2", "0011-1"):
        brats(tmp_path, f"BraTS-MEN-RT-{plan}", "t1c gtv", "_")
    for format in ("auto", "brats", "brats-men-rt"):
        dataset = convert(tmp_path, format)
        assert dataset.manifest.channels == {"t1c": "mri"}
        assert (dataset.manifest.labels, dataset.manifest.regions) == ({"background": 0, "GTV": 1}, {})
        assert [case.subject for case in dataset.cases] == ["BraTS-MEN-RT-0003"] * 2 + ["BraTS-MEN-RT-0011"]
        assert [case.fault for case in dataset.cases] == [None] * 3
    (tmp_path / "BraTS-MEN-RT-0011-1" / "BraTS-MEN-RT-0011-1_gtv.nii.gz").unlink()
    assert "gtv is missing" in (convert(tmp_path).cases[2].fault or "")
    cases = find_inputs(tmp_path, ["t1c"])
    assert [(case.id, len(case.channels), case.fault) for case in cases] == [
        (f"BraTS-MEN-RT-{plan}", 1, None) for plan in ("0003-1", "0003-2", "0011-1")
    ]


def test_what_a_source_without_answers_lacks_is_said(tmp_path) -> None:
    (tmp_path / "points.csv").write_text("case,landmark,x,y,z\na,tip,1,2,3\nb,tip,1,2,3\n")
    with pytest.raises(DatasetError, match=r"a: 0 of 1 images of this case are in .* \(and 1 more cases\)"):
        convert(tmp_path)
    (tmp_path / "points.csv").unlink()
    (tmp_path / "participants.tsv").write_text("participant_id\tside\tage\na\tleft\t70\n")
    touch(tmp_path, "images/a.nii.gz")
    with pytest.raises(DatasetError, match=r"1 case, but no label.*--class-column \(side, age\)"):
        convert(tmp_path)


def test_grades_of_2019_lie_in_folders(tmp_path) -> None:
    brats(tmp_path / "HGG", "BraTS19_CBICA_AAB_1", "t1 t1ce t2 flair seg", "_")
    brats(tmp_path / "LGG", "BraTS19_TCIA09_141_1", "t1 t1ce t2 flair seg", "_")
    first, second = convert(tmp_path).cases
    assert (first.id, first.subject) == ("BraTS19_CBICA_AAB_1", "BraTS19_CBICA_AAB")
    assert second.fault is None


def test_the_one_misnamed_segmentation_of_2020_is_found(tmp_path) -> None:
    brats(tmp_path, "BraTS20_Training_355", "t1 t1ce t2 flair", "_")
    touch(tmp_path, "BraTS20_Training_355/W39_1998.09.19_Segm.nii")
    (case,) = convert(tmp_path).cases
    assert case.label is not None and case.label.name == "W39_1998.09.19_Segm.nii"


def test_nnunet_v1_has_modality_and_a_list_of_pairs(tmp_path) -> None:
    pairs = [{"image": "./imagesTr/c1.nii.gz", "label": "./labelsTr/c1.nii.gz"}]
    content = {
        "modality": {"0": "MRI", "1": "CT"},
        "labels": {"0": "background", "1": "x"},
        "training": pairs,
    }
    document(tmp_path, content)
    touch(tmp_path, *[f"imagesTr/c1_000{i}.nii.gz" for i in (0, 1)], "labelsTr/c1.nii.gz")
    dataset = convert(tmp_path)
    assert dataset.manifest.channels == {"MRI": "mri", "CT": "ct"}
    assert [c.path.name for c in dataset.cases[0].channels] == ["c1_0000.nii.gz", "c1_0001.nii.gz"]
    assert dataset.manifest.labels == {"background": 0, "x": 1}


def test_two_label_maps_of_one_case_are_refused(tmp_path) -> None:
    nnunet(tmp_path)
    names = [path.name for path in (tmp_path / "labelsTr").iterdir()]
    touch(tmp_path, f"labelsTr/{names[0].removesuffix('.gz')}")
    with pytest.raises(DatasetError, match="duplicate case"):
        convert(tmp_path)


def test_nnunet_may_list_its_files(tmp_path) -> None:
    listed = {"c1": {"images": ["a/ct.nii.gz", "a/pet.nii.gz"], "label": "a/seg.nii.gz"}}
    nnunet(tmp_path, dataset=listed)
    (case,) = convert(tmp_path).cases
    assert [c.path for c in case.channels] == [tmp_path / "a" / "ct.nii.gz", tmp_path / "a" / "pet.nii.gz"]
    nnunet(tmp_path, dataset={"c1": {"images": ["a.nii.gz"], "label": "../evil.nii.gz"}})
    with pytest.raises(DatasetError, match=r"dataset\.c1\.label: expected a path inside the folder"):
        convert(tmp_path)


def test_years_of_brats_are_not_mixed(tmp_path) -> None:
    brats(tmp_path, "BraTS2021_00000", "t1 t1ce t2 flair seg", "_")
    brats(tmp_path, "BraTS-GLI-00005-000", "t1n t1c t2w t2f seg", "-")
    with pytest.raises(DatasetError, match="BraTS 2021 and 2023, whose labels differ"):
        convert(tmp_path)


def test_a_modality_that_is_missing_is_named(tmp_path) -> None:
    brats(tmp_path, "a", "t1n t1c t2w t2f seg", "-")
    brats(tmp_path, "b", "t1n t1c t2w seg", "-")
    with pytest.raises(DatasetError, match="no images in a known layout"):
        convert(tmp_path)  # without a BraTS id, nothing says what the labels mean
    whole, lacking = convert(tmp_path, "brats").cases
    assert whole.fault is None
    assert (lacking.fault or "").startswith("b: t2f is missing")


def test_amos_keeps_ct_and_mri_apart(tmp_path) -> None:
    cases = ("amos_0004", "amos_0499", "amos_0500")
    touch(tmp_path, *[f"{side}Tr/{c}.nii.gz" for side in ("images", "labels") for c in cases])
    with pytest.raises(DatasetError, match="--format amos-ct or amos-mr"):
        convert(tmp_path)
    ct = convert(tmp_path, "amos-ct")
    assert [case.id for case in ct.cases] == ["amos_0004", "amos_0499"]
    assert ct.manifest.channels == {"CT": "ct"}
    assert ct.manifest.labels["arota"] == 8 and len(ct.manifest.labels) == 16
    mr = convert(tmp_path, channels={"MRI": "mri"})
    assert [case.id for case in mr.cases] == ["amos_0500"]
    assert mr.manifest.channels == {"MRI": "mri"}


def test_amos_takes_its_labels_from_its_document_and_its_cases_from_its_folders(tmp_path) -> None:
    """The challenge's document, which lists pairs as a Decathlon task does; 0507 was moved there later."""
    msd(tmp_path, ("amos_0001", "amos_0600"), modality={"0": "CT"}, labels={"0": "background", "1": "spleen"})
    touch(tmp_path, "imagesTr/amos_0507.nii.gz", "labelsTr/amos_0507.nii.gz")
    dataset = convert(tmp_path, "amos-mr")
    assert [case.id for case in dataset.cases] == ["amos_0507", "amos_0600"]
    assert dataset.manifest.labels == {"background": 0, "spleen": 1}
    (tmp_path / "labelsTr" / "amos_0600.nii.gz").unlink()
    assert "amos_0600: no label" in (convert(tmp_path, "amos-mr").cases[1].fault or "")


def test_synapse_pairs_images_and_labels_by_number(tmp_path) -> None:
    training, testing = tmp_path / "RawData" / "Training", tmp_path / "RawData" / "Testing"
    touch(training, "img/img0001.nii.gz", "label/label0001.nii.gz", "img/img0002.nii.gz")
    touch(testing, "img/img0061.nii.gz")
    first, second = convert(tmp_path).cases
    assert (first.id, first.label) == ("img0001", training / "label" / "label0001.nii.gz")
    assert "img0002: no label" in (second.fault or "")


def test_synapse_may_lie_in_averaged_folders_and_be_spelled_as_the_recipe_does(tmp_path) -> None:
    touch(tmp_path, "averaged-training-images/img0001_avg.nii.gz")
    touch(tmp_path, "averaged-training-labels/label0001_avg.nii.gz")
    organs = convert(tmp_path).manifest.labels
    assert list(organs.values()) == list(range(14))
    spelled = {name.upper(): value for name, value in organs.items() if value} | {"background": 0}
    assert convert(tmp_path, labels=spelled).manifest.labels == spelled


def acdc(folder: Path, patient: str, group: str, es: int) -> None:
    """As the challenge's readme and folders have it."""
    names = [f"{patient}_frame{frame:02d}{end}.nii.gz" for frame in (1, es) for end in ("", "_gt")]
    touch(folder / patient, *names, f"{patient}_4d.nii.gz")
    facts = f"ED: 1\nES: {es}\nGroup: {group}\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n"
    (folder / patient / "Info.cfg").write_text(facts)


def test_acdc_has_two_phases_a_patient(tmp_path) -> None:
    for patient, group, es in (("patient001", "DCM", 12), ("patient002", "NOR", 9)):
        acdc(tmp_path / "training", patient, group, es)
    acdc(tmp_path / "testing", "patient101", "HCM", 14)
    dataset = convert(tmp_path)
    assert [case.id for case in dataset.cases] == [
        "patient001_frame01", "patient001_frame12", "patient002_frame01", "patient002_frame09"
    ]  # fmt: skip
    second = dataset.cases[1]
    assert second.label == tmp_path / "training" / "patient001" / "patient001_frame12_gt.nii.gz"
    assert (second.subject, second.class_name) == ("patient001", "DCM")
    assert second.covariates == {"phase": "ES", "height": "184.0", "weight": "95.0"}
    assert dataset.manifest.labels == {"background": 0, "RV": 1, "MLV": 2, "LVC": 3}
    assert dataset.manifest.classes == ("DCM", "NOR")
    assert not any(case.fault for case in dataset.cases)
    assert [case.id for case in convert(tmp_path / "testing").cases] == [
        "patient101_frame01", "patient101_frame14"
    ]  # fmt: skip


def test_what_a_patient_of_acdc_lacks_is_named(tmp_path) -> None:
    acdc(tmp_path, "patient001", "DCM", 12)
    (tmp_path / "patient001" / "patient001_frame12_gt.nii.gz").unlink()
    (tmp_path / "patient001" / "Info.cfg").write_text("ES: 12\n")
    lost, frame = convert(tmp_path).cases
    assert "Info.cfg: ED: missing. Correct the file." in (lost.fault or "")
    assert "patient001_frame12_gt is missing" in (frame.fault or "")


def test_a_folder_without_images_is_one_line(tmp_path) -> None:
    with pytest.raises(DatasetError, match="no images"):
        convert(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        convert(tmp_path / "absent")
    with pytest.raises(DatasetError, match="--format: expected auto, landmarks"):
        convert(tmp_path, "dicomish")


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


def test_voxels_that_nobody_labeled_have_a_label_of_nnunet(tmp_path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    manifest = convert(nnunet(tmp_path, labels=labels)).manifest
    assert manifest.labels == {"background": 0, "label_1": 1, "core": 2, "ignore": 3}
    assert manifest.regions == {"whole": (1, 2), "core": (2,)}
    assert (
        convert(nnunet(tmp_path, labels={"background": 0, "a": 1, "ignore": 2})).manifest.labels["ignore"]
        == 2
    )


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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"labels": {"0": "background", "1": "x", "2": "x"}},
            "labels: expected each name once, got 'x'",
        ),
        ({"labels": {"1": "x"}}, "background"),
        (
            {"modality": {"0": "T1", "1": "T1"}},
            "modality: expected a different name .* got 'T1' twice",
        ),
        ({"labels": []}, r"labels: expected an object, got \[\]"),
    ],
)
def test_a_document_that_cannot_be_right_is_refused(tmp_path, changes, words) -> None:
    with pytest.raises(DatasetError, match=words):
        convert(msd(tmp_path, **changes))


def test_every_converter_is_a_choice_of_the_command_line() -> None:
    section = re.search(r"`--format` ([^|]+) \|", reference())
    assert section is not None and section[1].split(", ") == ["auto", *CONVERTERS]
    refused = CliRunner().invoke(app, ["prepare", "anything", "--format", "tiff"])
    assert refused.exit_code == 2 and "'tiff' is not one of 'auto'" in refused.output


def test_the_names_of_formats_are_known_without_the_readers() -> None:
    code = (
        "import sys, mambamed.converters; print(sorted({'numpy', 'pydantic', 'nibabel'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def amos(folder: Path) -> Path:
    cases = ("amos_0004", "amos_0500")
    return touch(folder, *[f"{side}Tr/{c}.nii.gz" for side in ("images", "labels") for c in cases])


def synapse(folder: Path) -> Path:
    return touch(folder, "Training/img/img0001.nii.gz", "Training/label/label0001.nii.gz")


def two_patients(folder: Path) -> Path:
    acdc(folder / "training", "patient001", "DCM", 12)
    return folder


def one_glioma(folder: Path) -> Path:
    return brats(folder, "BraTS-GLI-00005-000", "t1n t1c t2w t2f seg", "-")


@pytest.mark.parametrize(
    ("build", "recipe"),
    [
        (amos, "amos_ct_nnmamba"),
        (amos, "amos_mr_nnunet"),
        (synapse, "synapse_nnunet"),
        (two_patients, "acdc_nnunet"),
        (one_glioma, "brats_nnmamba"),
    ],
)
def test_a_recipe_finds_its_channels_and_labels_in_the_downloaded_folder(tmp_path, build, recipe) -> None:
    """By itself, and with the command of its header."""
    wanted = load_recipe(recipe).dataset
    folder = build(tmp_path)
    command = re.search(r"mambamed prepare .*", shipped_recipes()[recipe].read_text(encoding="utf-8"))
    assert command is not None
    asked = re.search(r"--format (\S+)", command[0])
    assert asked is not None or recipe == "brats_nnmamba"
    for format in ("auto", asked[1] if asked else "brats"):
        manifest = convert(folder, format, channels=wanted.channels, labels=wanted.labels).manifest
        assert manifest.channels == wanted.channels
        assert manifest.labels == wanted.labels
