"""Positions are compared with what the files' makers say: the mouse atlas' authors (LPS in 3D Slicer), AFIDs'
two files of one set (fcsv and Markups), and hand calculation."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambamed.documents.point_files import read_point_table, read_points
from mambamed.errors import CaseError, DatasetError
from mambamed.io.points import EVERY, expanded, to_world, write_point_table, write_points
from tests.real_data import DATA

MICE = DATA / "mouse_skull_landmarks" / "landmarks"
AFIDS = DATA / "brain_landmarks_template" / "mni_template"
needs_mice = pytest.mark.skipif(not MICE.is_dir(), reason=f"no {MICE}")
needs_afids = pytest.mark.skipif(not AFIDS.is_dir(), reason=f"no {AFIDS}")
SUFFIXES = [".mrk.json", ".fcsv", ".csv", ".json"]
NAMES = st.text(
    st.characters(categories=("L", "N", "P", "S"), codec="utf-8"), min_size=1, max_size=20
).filter(lambda name: name != EVERY and not name.startswith("'"))
COORDINATES = st.floats(-1e4, 1e4, allow_nan=False)


@settings(deadline=None, max_examples=15)
@given(st.dictionaries(NAMES, st.tuples(COORDINATES, COORDINATES, COORDINATES), max_size=5))
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_points_survive_a_round_trip(tmp_path_factory, suffix, points) -> None:
    path = tmp_path_factory.mktemp("points") / f"case{suffix}"
    write_points(path, points)
    assert read_points(path) == points


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_landmark_that_was_not_found_stays_absent(tmp_path, suffix) -> None:
    path = tmp_path / f"case{suffix}"
    write_points(path, {"nose": (1.0, 2.0, 3.0), "chin": (math.nan,) * 3}, scores={"nose": 0.9})
    assert read_points(path) == {"nose": (1.0, 2.0, 3.0), "chin": None}


@needs_mice
def test_markups_are_written_in_lps_with_the_keys_that_slicer_writes(tmp_path) -> None:
    write_points(tmp_path / "a.mrk.json", {"nose": (1.0, -2.0, 3.0)})
    ours = json.loads((tmp_path / "a.mrk.json").read_text())
    theirs = json.loads((MICE / "A_J_.mrk.json").read_text())
    assert ours["@schema"] == theirs["@schema"]
    (markup,), (their_markup,) = ours["markups"], theirs["markups"]
    assert set(markup) | {"display"} == set(their_markup)
    (point,) = markup["controlPoints"]
    assert point["position"] == [-1.0, 2.0, 3.0]
    their_point = their_markup["controlPoints"][0]
    assert set(point) == set(their_point)
    assert {key: type(value) for key, value in point.items()} == {k: type(v) for k, v in their_point.items()}


def test_an_fcsv_says_in_which_system_it_is(tmp_path) -> None:
    path = tmp_path / "a.fcsv"
    write_points(path, {"left, front": (1.5, -2.0, 3.0)})
    head = path.read_text().splitlines()
    assert head[0] == "# Markups fiducial file version = 4.6"
    assert head[1] == "# CoordinateSystem = 0"
    assert head[3].split(",")[1:4] == ["1.5", "-2.0", "3.0"]
    path.write_text(path.read_text().replace("System = 0", "System = LPS"))
    assert read_points(path) == {"left, front": (-1.5, 2.0, 3.0)}


@needs_afids
def test_the_two_files_of_the_afids_give_the_same_positions() -> None:
    markups = read_points(AFIDS / "tpl-MNI152NLin2009cAsym_afids.json")
    fcsv = read_points(AFIDS / "tpl-MNI152NLin2009cAsym_afids.fcsv")
    assert len(fcsv) == 32
    assert fcsv == markups
    # AC of MNI152NLin2009cAsym as the AFIDs protocol places it, mm RAS+.
    assert fcsv["1"] == pytest.approx((-0.231, 2.93275, -4.899))


@needs_mice
def test_markups_of_slicer_are_turned_from_lps() -> None:
    points = read_points(MICE / "129S1_SVLMJ_.mrk.json")
    assert len(points) == 45
    assert points["1"] == (-6.12747, -8.81766, 20.6361)


@pytest.mark.parametrize(
    ("headers", "cells"),
    [("landmark,x,y,z", "1,2,3"), ("name,x_lps,y_lps,z_lps", "-1,-2,3"), ("label,i,j,k", "0.5,1,0")],
)
def test_the_headers_of_a_table_say_in_which_system_it_is(tmp_path, headers, cells) -> None:
    (tmp_path / "a.csv").write_text(f"{headers}\nnose,{cells}\n")
    affine = np.array([[2.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 3], [0, 0, 0, 1]])
    assert read_points(tmp_path / "a.csv", affine) == {"nose": (1.0, 2.0, 3.0)}


def test_voxels_need_the_image_that_they_count(tmp_path) -> None:
    (tmp_path / "a.json").write_text('{"1": {"coordinates": [1, 2, 3], "likelihood": 1.0}, "2": [0, 0, 0]}')
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])
    assert read_points(tmp_path / "a.json", affine) == {"1": (-2.0, -4.0, 9.0), "2": (0.0, 0.0, 0.0)}
    with pytest.raises(CaseError, match="voxels, but their image is not known"):
        read_points(tmp_path / "a.json")


def test_what_nnlandmark_did_not_find_is_absent(tmp_path) -> None:
    absent = '{"1": {"coordinates": [null, null, null], "likelihood": 0.0}, "2": null}'
    (tmp_path / "a.json").write_text(absent)
    assert read_points(tmp_path / "a.json", np.eye(4)) == {"1": None, "2": None}


THREE = {"nose": (1.0, 2.0, 3.0), "chin": None}  # "ear" is not annotated
MARKUPS = {
    "nose": {"position": [-1, -2, 3], "positionStatus": "defined"},
    "chin": {"position": [0, 0, 0], "positionStatus": "missing"},
    "ear": {"position": [0, 0, 0], "positionStatus": "undefined"},
    "eye": {"position": [4, 5, 6], "positionStatus": "preview"},
}
FCSV = "# CoordinateSystem = 0\n# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "a.json",
            '{"coordinate_system": "RAS", "points": {"nose": [1, 2, 3], "chin": null, "ear": "ignore"}}',
        ),
        ("a.json", '{"coordinate_system": "RAS", "points": {"nose": [1, 2, 3], "chin": "absent"}}'),
        ("a.csv", "landmark,x,y,z\nnose,1,2,3\nchin,,,\n"),
        ("a.csv", "landmark,x,y,z,Status\nnose,1,2,3,\nchin,0,0,0,absent\near,0,0,0,ignore\n"),
        ("a.csv", "label,r,a,s,defined,status\nnose,1,2,3,1,\nchin,0,0,0,0,missing\near,0,0,0,0,\n"),
        ("a.fcsv", f"{FCSV}# absent = chin\n1,1,2,3,0,0,0,1,0,0,0,nose,,,2,0\n"),
        (
            "a.fcsv",
            f"{FCSV}1,1,2,3,0,0,0,1,1,1,0,nose,,\n2,0,0,0,0,0,0,1,1,1,0,chin,,,3,0\n3,0,0,0,0,0,0,1,1,1,0,ear,,,0,0\n",
        ),
        (
            "a.mrk.json",
            json.dumps({"markups": [{"controlPoints": [{"label": k} | v for k, v in MARKUPS.items()]}]}),
        ),
    ],
)
def test_what_is_absent_and_what_is_not_annotated_is_honored_in_every_format(tmp_path, name, text) -> None:
    """The status of Slicer's points: "missing" is skipped, "undefined" not yet placed."""
    (tmp_path / name).write_text(text)
    assert read_points(tmp_path / name) == THREE


def test_a_table_of_slicer_with_an_undefined_point_has_none_at_the_origin(tmp_path) -> None:
    """As `ExportControlPointsToCSV` of 3D Slicer writes it."""
    header = "label,l,p,s,defined,selected,visible,locked,description\n"
    (tmp_path / "a.csv").write_text(header + "F-1,-1,-2,3,1,1,1,0,\nF-2,0,0,0,0,1,1,0,\n")
    assert read_points(tmp_path / "a.csv") == {"F-1": (1.0, 2.0, 3.0)}


def test_the_name_of_all_others_stands_for_those_that_the_file_does_not_name(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("landmark,x,y,z\nnose,1,2,3\n*,,,\n")
    assert expanded(read_points(tmp_path / "a.csv"), ["chin", "nose"]) == THREE


def test_a_table_holds_many_cases(tmp_path) -> None:
    cases = {"a": {"nose": (1.0, 2.0, 3.0), "chin": (math.nan,) * 3}, "=b": {"nose": (0.1, 0.2, 0.3)}}
    write_point_table(tmp_path / "t.csv", cases, scores={"a": {"nose": 0.5}})
    system, found = read_point_table(tmp_path / "t.csv")
    assert system == "RAS"
    assert found == {"a": {"nose": (1.0, 2.0, 3.0), "chin": None}, "=b": {"nose": (0.1, 0.2, 0.3)}}
    (tmp_path / "v.json").write_text('{"a": {"nose": [1, 2, 3]}}')
    assert read_point_table(tmp_path / "v.json") == ("voxel", {"a": {"nose": (1.0, 2.0, 3.0)}})
    with pytest.raises(DatasetError, match="points of one case, got 2 cases"):
        read_points(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("landmark,x,y,z\nnose,1,2,3\nnose,1,2,3\n", "duplicate landmark nose"),
        (
            "landmark;x;y;z\nnose;1,5;2;3\n",
            r"nose: expected three numbers, got \(1,5, 2, 3\)\. Use decimal points",
        ),
        ("landmark,x,y,z\nnose,nan,2,3\n", "landmark nose: .* is not a position"),
        ("landmark,x,y,z\n,1,2,3\n", "no name"),
        ("a,b\n1,2\n", "expected the columns landmark,x,y,z"),
        (
            "landmark,x,y,z,status\nnose,1,2,3,gone\n",
            "nose: status: expected defined, absent or ignore, got gone",
        ),
        ("landmark,x,y,z,status\nnose,,,,present\n", "nose: status is present, but the row has no position"),
        ("label,l,p,s,defined\nnose,1,2,3,perhaps\n", "nose: defined: expected 1 or 0, got perhaps"),
        ("landmark,x,y,z\n*,1,2,3\n", r"\* stands for all other landmarks"),
    ],
)
def test_a_table_that_cannot_be_right_is_one_line(tmp_path, text, words) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises((CaseError, DatasetError), match=words) as caught:
        read_points(tmp_path / "a.csv")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "a.csv") in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.mrk.json", "[]", r"content: expected an object, got \[\]"),
        (
            "a.mrk.json",
            '{"markups": [{"coordinateSystem": "XYZ"}]}',
            "coordinateSystem: .* got 'XYZ'",
        ),
        (
            "a.mrk.json",
            '{"markups": [{"coordinateUnits": ["um", "UCUM", "micrometer"]}]}',
            "expected 'mm', got 'um'",
        ),
        ("a.mrk.json", '{"markups": [{"controlPoints": [{"position": [1, 2, 3]}]}]}', "no name"),
        ("a.fcsv", "# CoordinateSystem = 7\n", "CoordinateSystem: expected one of 0, 1"),
        ("a.fcsv", "# CoordinateSystem = 0\nid,1,2\n", "expected 14 cells per line, got 3"),
        ("a.json", "3", "content: expected an object, got 3"),
        ("a.json", '{"nose": [1, 2]}', r"nose: expected three numbers, got \(1, 2\)"),
        ("a.txt", "", "is not a point file"),
    ],
)
def test_a_file_that_is_no_point_file_is_one_line(tmp_path, name, text, words) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match=words):
        read_points(tmp_path / name)


def test_nan_is_no_position_on_the_way_to_the_world(tmp_path) -> None:
    with pytest.raises(CaseError, match="landmark nose"):
        to_world({"nose": (math.nan, 0.0, 0.0)}, "RAS", tmp_path, None)


def test_a_position_that_overflows_on_its_way_to_the_world_is_one_line(tmp_path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"nose": [1e308, 1e308, 1]}')
    with pytest.raises(CaseError, match=r"a\.json: landmark nose: \(.*inf.*\) is not a position"):
        read_points(path, np.diag([2.0, 2.0, 2.0, 1.0]))


@pytest.mark.parametrize(
    "text", [r'{"a\nb": [1, 2]}', r'{"nose": ["a\nb", 2, 3]}', r'{"a\nb": [1, 2, Infinity]}']
)
def test_a_name_or_text_with_a_line_break_stays_in_one_line(tmp_path, text) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises((CaseError, DatasetError)) as caught:
        read_points(path, np.eye(4))
    assert "\n" not in str(caught.value) and r"a\nb" in str(caught.value)


def test_a_case_with_a_line_break_in_its_name_stays_in_one_line(tmp_path) -> None:
    path = tmp_path / "a.json"
    path.write_text(r'{"a\nb": {"nose": [1, 2]}}')
    with pytest.raises(DatasetError, match=r"a\.json: 'a\\nb': landmark nose: expected three numbers"):
        read_point_table(path)
