"""Lists as a user writes them, and the sets of the test data that need one: ten lines of Python each."""

import csv
import json
from pathlib import Path

import pytest

from mambamed.converters import convert
from mambamed.converters.case_list import find_cases
from mambamed.converters.inputs import find_inputs
from mambamed.errors import DatasetError
from mambamed.geometry import voxel_to_world
from mambamed.progress import Silence
from tests.converters.small_images import LPS, write_small
from tests.real_data import DATA


class Collector(Silence):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def needs(name: str):
    return pytest.mark.skipif(not (DATA / name).is_dir(), reason=f"no {DATA / name}")


@pytest.fixture
def folder(tmp_path) -> Path:
    for number, case in enumerate(("p1", "p2")):
        write_small(tmp_path / case / "t1.nii.gz", seed=number)
        write_small(tmp_path / case / "flair.nrrd.nii", seed=number + 9)
        write_small(tmp_path / case / "seg.nii.gz", value=number + 1)
    (tmp_path / "cases.csv").write_text(
        "case,subject,T1w,FLAIR,label,class,age\n"
        "p2,a,p2/t1.nii.gz,p2/flair.nrrd.nii,p2/seg.nii.gz,MS,34\n"
        "p1,a,p1/t1.nii.gz,p1/flair.nrrd.nii,p1/seg.nii.gz,HC,\n"
    )
    return tmp_path


def test_every_column_of_a_list_finds_its_place(folder) -> None:
    dataset = convert(folder / "cases.csv")
    first, second = dataset.cases
    assert [channel.path for channel in first.channels] == [
        folder / "p1" / "t1.nii.gz",
        folder / "p1" / "flair.nrrd.nii",
    ]
    assert (first.id, first.subject, first.class_name) == ("p1", "a", "HC")
    assert (second.covariates, first.covariates) == ({"age": "34"}, {"age": ""})
    assert second.label == folder / "p2" / "seg.nii.gz"
    manifest = dataset.manifest
    assert manifest.name == folder.name
    assert manifest.channels == {"T1w": "mri", "FLAIR": "mri"}
    assert manifest.labels == {"background": 0, "label_1": 1, "label_2": 2}
    assert manifest.classes == ("HC", "MS")


def test_a_folder_is_known_by_its_only_list(folder) -> None:
    assert [case.id for case in convert(folder).cases] == ["p1", "p2"]
    (folder / "other.csv").write_text("case,class\np1,x\n")
    with pytest.raises(DatasetError, match="no images in a known layout"):
        convert(folder)


def test_what_is_said_of_all_cases_lies_beside_the_list_or_in_the_recipe(folder) -> None:
    said = {"labels": {"background": 0, "lesion": 1, "scar": 2}, "regions": {"both": [1, 2]}}
    (folder / "cases.json").write_text(json.dumps({"name": "mine", "channels": {"FLAIR": "mri"}, **said}))
    dataset = convert(folder / "cases.csv")
    assert dataset.manifest.labels == said["labels"]
    assert dataset.manifest.regions == {"both": (1, 2)}
    assert dataset.manifest.name == "mine"
    assert [channel.path.name for channel in dataset.cases[0].channels] == ["flair.nrrd.nii"]
    (folder / "cases.json").unlink()
    wished = convert(folder, channels={"t1w": "mri"}, labels={"background": 0, "x": 1, "y": 2}).manifest
    assert (wished.channels, wished.labels) == ({"t1w": "mri"}, {"background": 0, "x": 1, "y": 2})


def test_a_json_list_holds_the_same(folder) -> None:
    rows = [
        {
            "case": case,
            "channels": {"T1w": f"{case}/t1.nii.gz"},
            "points": {"nose": [1, 2.5, 3], "chin": None},
            "covariates": {"age": 34},
        }
        for case in ("p1", "p2")
    ]
    (folder / "list.json").write_text(json.dumps({"channels": {"T1w": "mri"}, "cases": rows}))
    dataset = convert(folder / "list.json")
    assert dataset.cases[0].points == {"nose": (1.0, 2.5, 3.0), "chin": None}
    assert dataset.cases[0].covariates == {"age": "34"}
    assert dataset.manifest.landmarks == ("nose", "chin")
    assert dataset.manifest.labels == {}


def test_a_case_of_a_list_may_lack_all_landmarks(folder) -> None:
    (folder / "p1" / "voxels.json").write_text('{"nose": [1, 2, 3], "chin": null}')
    table = "case,image,points\np1,p1/t1.nii.gz,p1/voxels.json\np2,p2/t1.nii.gz,absent\n"
    (folder / "l.csv").write_text(table)
    first, second = convert(folder / "l.csv").cases
    assert first.points == {"nose": tuple(voxel_to_world(LPS, [1, 2, 3]).tolist()), "chin": None}
    assert second.points == {"nose": None, "chin": None}


def test_points_of_a_list_lie_in_a_file_a_case_or_in_one_of_all(folder) -> None:
    (folder / "p1" / "voxels.json").write_text('{"nose": [1, 2, 3]}')
    (folder / "all.csv").write_text("case,landmark,x,y,z\np2,nose,1,2,3\nGHOST,nose,1,2,3\n")
    (folder / "l.csv").write_text(
        "case,image,points\np1,p1/t1.nii.gz,p1/voxels.json\np2,p2/t1.nii.gz,all.csv\n"
    )
    subjects = (folder / "all.csv").read_text().replace("case,", "subject,")
    cases = (folder / "all.csv").read_text()
    for table in (cases, subjects):  # a table of points may call its cases subjects
        (folder / "all.csv").write_text(table)
        ghost, first, second = convert(folder / "l.csv").cases
        assert first.points == {"nose": tuple(voxel_to_world(LPS, [1, 2, 3]).tolist())}
        assert second.points == {"nose": (1.0, 2.0, 3.0)}
        assert (ghost.fault or "").startswith("GHOST: has landmarks in")


def test_images_of_a_table_without_paths_lie_beside_it(tmp_path) -> None:
    for case in ("a", "b"):
        write_small(tmp_path / "images" / f"{case}.nii.gz")
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tside\tage\na\tleft\t3\nb\tright\t4\nc\tleft\t5\n"
    )
    dataset = convert(tmp_path, class_column="side")
    assert dataset.manifest.classes == ("left", "right")
    assert dataset.manifest.channels == {"image": "mri"}
    assert dataset.cases[1].covariates == {"age": "4"}
    assert (dataset.cases[2].fault or "").startswith("c: stands in")
    with pytest.raises(DatasetError, match=r"--class-column: .*side, age.* got 'sex'"):
        convert(tmp_path, class_column="sex")
    with pytest.raises(DatasetError, match="no label, landmark or class to learn from"):
        convert(tmp_path)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"channels": ["T1"]}, r"channels: expected an object, got \['T1'\]"),
        ({"regions": {"whole": 1}}, r"regions\.whole: expected a valid array, got 1"),
        ({"classes": 3}, "classes: expected a valid array, got 3"),
        (
            {"cases": [{"case": "a", "T1": ["a.nii.gz"]}]},
            r"cases\.0: T1: expected one value per case, got \['a.nii.gz'\]",
        ),
        ({"cases": []}, "no cases. Write one row per case"),
    ],
)
def test_a_document_that_says_what_cannot_be_is_one_line(tmp_path, said, line) -> None:
    write_small(tmp_path / "a.nii.gz")
    document = {"cases": [{"case": "a", "T1": "a.nii.gz", "class": "x"}]} | said
    (tmp_path / "l.json").write_text(json.dumps(document))
    with pytest.raises(DatasetError, match=line):
        convert(tmp_path / "l.json")


def test_a_numbered_channel_that_a_case_beside_its_table_lacks_is_named(tmp_path) -> None:
    for name in ("a_0000", "a_0001", "b_0000", "c_0001"):
        write_small(tmp_path / "images" / f"{name}.nii.gz")
    (tmp_path / "classes.csv").write_text("case,class\na,x\nb,y\nc,y\n")
    whole, second, first = convert(tmp_path).cases
    assert whole.fault is None
    assert second.fault == f"b: channel b_0001 is missing in {tmp_path / 'images'}. Add it."
    assert first.fault == f"c: channel c_0000 is missing in {tmp_path / 'images'}. Add it."
    with pytest.raises(DatasetError, match=r"expected 1 channels per case \(T1\), got 2"):
        find_inputs(tmp_path / "classes.csv", ["T1"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,T1w\na,x.nii.gz\n", "no column case, case_id, id or participant_id"),
        ("case,T1w\n,x.nii.gz\n", "case: missing in the row"),
        ("case,T1w,class\na,x.nii.gz,u\na,y.nii.gz,v\n", "duplicate case a"),
        ("case,T1w,class,Class\na,x.nii.gz,u,v\n", "columns class and Class differ only in capitals"),
        ("case,T1w,class\n../evil,x.nii.gz,u\n", "path separator"),
        ("case,class\na,u\n", "no column of images"),
        (f"case,class\na,{'long ' * 60}\n", "no column of images"),
        (f"case,T1w\na,{'x' * 300}\n", "no column of images"),
    ],
)
def test_a_list_that_cannot_be_right_is_one_line(tmp_path, text, words) -> None:
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(DatasetError, match=words) as caught:
        convert(tmp_path / "l.csv")
    assert "\n" not in str(caught.value)


def test_a_text_longer_than_a_file_name_is_a_covariate(tmp_path) -> None:
    write_small(tmp_path / "a.nii.gz")
    (tmp_path / "l.csv").write_text(f"case,T1w,class,report\na,a.nii.gz,u,{'x' * 300}\n")
    (case,) = convert(tmp_path / "l.csv").cases
    assert case.covariates == {"report": "x" * 300} and len(case.channels) == 1


def test_an_empty_cell_of_a_channel_is_the_cases_fault(folder) -> None:
    (folder / "l.csv").write_text(
        "case,T1w,PET,label\np1,p1/t1.nii.gz,,p1/seg.nii.gz\np2,a.nii,b.nii,c.nii\n"
    )
    first, second = convert(folder / "l.csv").cases
    assert first.fault == f"p1: channel PET has no file in {folder / 'l.csv'}. Add it."
    assert second.fault is None  # whether its files are there is for verification to say


@needs("mr_sequences")
def test_mr_sequences_convert_as_they_are() -> None:
    dataset = convert(DATA / "mr_sequences")
    assert len(dataset.cases) == 38
    assert dataset.manifest.classes == ("FLAIR", "T1", "T1c", "T2")
    assert not any(case.fault for case in dataset.cases)
    assert len({case.subject for case in dataset.cases}) < 38


@needs("stroke_severity")
def test_stroke_severity_converts_once_its_class_is_named() -> None:
    dataset = convert(DATA / "stroke_severity", class_column="nihss_ge5")
    assert len(dataset.cases) == 708
    assert dataset.manifest.classes == ("0", "1")
    assert set(dataset.cases[0].covariates) == {"side", "age", "sex"}


@needs("ms_lesions")
def test_ms_lesions_convert_by_a_list_of_two_lines(tmp_path) -> None:
    source, channels = DATA / "ms_lesions", ("t1", "t1ce", "t2", "flair")
    with (tmp_path / "ms.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", *channels, "label"])
        for case in ("patient07", "patient26"):
            writer.writerow([case, *(source / case / f"{case}_{name}.nii.gz" for name in (*channels, "seg"))])
    dataset = convert(tmp_path / "ms.csv")
    assert dataset.manifest.channels == dict.fromkeys(channels, "mri")
    assert dataset.manifest.labels == {"background": 0, "label_1": 1}
    assert all(channel.path.is_file() for case in dataset.cases for channel in case.channels)


@needs("ct_organs")
def test_ct_organs_convert_by_a_list_of_one_line(tmp_path) -> None:
    folder = DATA / "ct_organs"
    row = f"example,{folder / 'example_ct_sm.nii.gz'},{folder / 'example_seg.nii.gz'}"
    (tmp_path / "ct.csv").write_text(f"case,CT,label\n{row}\n")
    manifest = convert(tmp_path / "ct.csv").manifest
    assert manifest.channels == {"CT": "ct"}
    assert len(manifest.labels) == 42  # the readme of the data: 41 organs


@needs("hippocampus_derived")
def test_derived_classes_and_points_convert_by_a_list(tmp_path) -> None:
    images, derived = DATA / "Task04_Hippocampus" / "imagesTr", DATA / "hippocampus_derived"
    with (derived / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))[:3]
    lines = [f"{r['case']},{images / r['case']}.nii.gz,{derived / 'points.csv'},{r['class']}" for r in rows]
    (tmp_path / "h.csv").write_text("\n".join(["case,MRI,points,class", *lines]) + "\n")
    dataset = convert(tmp_path / "h.csv")
    good = [case for case in dataset.cases if not case.fault]
    assert len(good) == 3
    assert good[0].points is not None and good[0].points["anterior_tip"] == (24.2, 44.867, 8.267)
    assert len(dataset.manifest.landmarks) == 4


def test_the_only_channel_may_be_named_by_its_kind_but_not_by_another_name(tmp_path) -> None:
    write_small(tmp_path / "a.nii.gz")
    write_small(tmp_path / "m.nii.gz", value=1)
    table = "case,{},label\na,a.nii.gz,m.nii.gz\n"
    listed = tmp_path / "cases.csv"
    for column, wanted in (("image", "T1w"), ("t1-w", "T1w"), ("FLAIR", "MRI")):
        listed.write_text(table.format(column))
        assert convert(listed, channels={wanted: "mri"}).manifest.channels == {wanted: "mri"}
        assert len(find_cases(listed, [wanted])) == 1
    listed.write_text(table.format("FLAIR"))
    assert convert(listed, channels={"T1w": "mri"}).manifest.channels == {"FLAIR": "mri"}
    with pytest.raises(DatasetError, match=r"no column T1w, which the model needs; images are in .* FLAIR"):
        find_cases(listed, ["T1w"])


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"channels": {"T2": "mri"}}, r"names disagree: T1w, FLAIR \(images\) \| T2 \(the document"),
        (
            {"labels": {"background": 0, "both": [1, 2]}, "regions": {"Both": [1]}},
            r"names disagree: both 1\+2 \(labels\) \| Both 1 \(regions\)",
        ),
    ],
)
def test_a_document_that_contradicts_its_list_is_refused(folder, said, line) -> None:
    (folder / "cases.json").write_text(json.dumps(said))
    with pytest.raises(DatasetError, match=line):
        convert(folder / "cases.csv")


def test_channels_of_a_folder_are_named_by_the_document(tmp_path) -> None:
    for number in range(2):
        write_small(tmp_path / "images" / f"a_{number:04d}.nii.gz")
    (tmp_path / "cases.csv").write_text("case,class\na,x\n")
    (tmp_path / "cases.json").write_text(json.dumps({"channels": {"CT": "ct", "PET": "mri"}}))
    assert convert(tmp_path / "cases.csv").manifest.channels == {"CT": "ct", "PET": "mri"}
    (tmp_path / "cases.json").write_text(json.dumps({"channels": {"CT": "ct"}}))
    with pytest.raises(DatasetError, match=r"channel_0, channel_1 \(images\) \| CT \("):
        convert(tmp_path / "cases.csv")


def test_visits_of_bids_are_cases_and_participants_subjects(tmp_path) -> None:
    """clinicadl's lists have the columns participant_id, session_id and diagnosis."""
    rows = [("sub-1", "ses-M00", "CN"), ("sub-1", "ses-M12", "AD"), ("sub-2", "ses-M00", "CN")]
    for person, session, _ in rows:
        write_small(tmp_path / "images" / f"{person}_{session}.nii.gz")
    lines = ["participant_id\tsession_id\tdiagnosis", *("\t".join(row) for row in rows)]
    (tmp_path / "list.tsv").write_text("\n".join(lines))
    said = Collector()
    dataset = convert(tmp_path / "list.tsv", class_column="diagnosis", progress=said)
    assert [(case.id, case.subject, case.class_name) for case in dataset.cases] == [
        ("sub-1_ses-M00", "sub-1", "CN"),
        ("sub-1_ses-M12", "sub-1", "AD"),
        ("sub-2_ses-M00", "sub-2", "CN"),
    ]
    assert all(case.channels for case in dataset.cases) and not dataset.cases[0].covariates
    assert "one case per visit (columns participant_id and session_id)" in said.lines[0]
    assert [case.id for case in find_cases(tmp_path / "list.tsv", ["T1w"])] == [c.id for c in dataset.cases]


def test_a_second_column_of_label_maps_is_no_channel(tmp_path) -> None:
    write_small(tmp_path / "a.nii.gz")
    write_small(tmp_path / "m.nii.gz", value=1)
    (tmp_path / "cases.csv").write_text("case,T1,mask,seg\na,a.nii.gz,m.nii.gz,m.nii.gz\n")
    with pytest.raises(DatasetError, match="columns seg and mask both are label maps by their names"):
        convert(tmp_path / "cases.csv")
    assert len(find_cases(tmp_path / "cases.csv", ["T1"])) == 1
    stated = convert(tmp_path / "cases.csv", channels={"T1": "mri", "mask": "mri"}).manifest
    assert list(stated.channels) == ["T1", "mask"]
    (tmp_path / "cases.csv").write_text("case,T1,label,seg\na,a.nii.gz,ill,m.nii.gz\n")
    (case,) = convert(tmp_path / "cases.csv", class_column="label").cases
    assert (case.label, case.class_name, len(case.channels)) == (tmp_path / "m.nii.gz", "ill", 1)


def test_an_unknown_class_is_none_of_the_classes(tmp_path) -> None:
    rows = [("a", "AD"), ("b", "n/a"), ("c", "NC"), ("d", "NaN")]
    for case, _ in rows:
        write_small(tmp_path / f"{case}.nii.gz")
    lines = ["case,image,class", *(f"{case},{case}.nii.gz,{name}" for case, name in rows)]
    (tmp_path / "cases.csv").write_text("\n".join(lines))
    dataset = convert(tmp_path / "cases.csv")
    assert dataset.manifest.classes == ("AD", "NC")
    assert [case.class_name for case in dataset.cases] == ["AD", None, "NC", None]
