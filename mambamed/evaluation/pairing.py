"""Match predictions and references, and find the meaning of their labels."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mambamed.cases import IGNORE, TWO_OF_ONE_ID, Case, SegmentNames, person_of
from mambamed.converters import brats
from mambamed.converters.segmented import named_labels
from mambamed.documents.agreement import Naming, disagreement, special, spelling
from mambamed.documents.foreign.dataset_json import LabelNames
from mambamed.documents.prediction import record_files
from mambamed.errors import CaseError, DatasetError
from mambamed.io.images import case_id_of, labels_by_id, put_once
from mambamed.io.json_files import read_json
from mambamed.io.segments import is_segmentation, read_contents
from mambamed.numerals import is_whole
from mambamed.schema_errors import named, some_of

# "references" lies in a prepared dataset.
_LABEL_FOLDERS = ("labelsTr", "labelsTs", "labelsVal", "references")
_DOCUMENT = "dataset.json"
_SEGMENTATIONS = "the segmentations"


@dataclass(frozen=True)
class Answers:
    """The labels that may occur, and the structures that are scored.

    Attributes:
        labels: None: any.
        regions: name -> its labels, in the order of the tables; None: each label that occurs.
        source: where they were found, for messages.
        names: label name -> value, for legends.
        segments: what the names of segments are in a label map, for files that have them.
        notes: about the names, for the table.
    """

    labels: tuple[int, ...] | None
    regions: Mapping[str, tuple[int, ...]] | None
    source: str
    names: Mapping[str, int] = field(default_factory=dict)
    segments: SegmentNames = field(default_factory=SegmentNames)
    notes: tuple[str, ...] = ()

    @property
    def naming(self) -> Naming:
        """All names, to compare with those of another source."""
        return Naming.of(self.source, self.names, self.regions)

    @property
    def ignored(self) -> int | None:
        """The label "ignore", whose voxels are not scored."""
        return self.names.get(IGNORE)


@dataclass(frozen=True)
class Pairing:
    """Predictions and references, by case.

    Attributes:
        pairs: case id -> reference and prediction (or None).
        extra: predictions without a reference.
    """

    pairs: Mapping[str, tuple[Path, Path | None]]
    extra: tuple[Path, ...]
    answers: Answers


def pair_up(
    predictions: Path,
    references: Path,
    labels: Mapping[str, int] | None = None,
    regions: Mapping[str, Sequence[int]] | None = None,
) -> Pairing:
    """Find the references and the prediction of each.

    Args:
        predictions: folder of label maps named by case, or one label map.
        references: the same; or a folder of BraTS cases; or a Decathlon, nnU-Net or prepared dataset.
        labels, regions: structures to score (default: from a `dataset.json` next to the references or the
            predictions, else the BraTS definitions for BraTS cases, else each label that occurs).

    Raises:
        DatasetError: no such folder, no label maps in it, two files of one case, or no case in common.
    """
    known, is_brats = find_references(references)
    if predictions.is_file() and references.is_file():
        found = {next(iter(known)): predictions}
    else:
        found = find_predictions(predictions, known)
    pairs = {case_id: (path, found.get(case_id)) for case_id, path in sorted(known.items())}
    if not any(prediction for _, prediction in pairs.values()):
        ours, theirs = some_of(sorted(found)), some_of(sorted(known))
        raise DatasetError(
            f"{predictions}: no prediction has the name of a reference "
            f"(predictions {ours}; references {theirs}). Name both by case."
        )
    extra = tuple(path for case_id, path in sorted(found.items()) if case_id not in known)
    files = [path for pair in pairs.values() for path in pair if path is not None]
    files = files if any(map(is_segmentation, files)) else []
    answers = _answers(predictions, references, labels, regions, is_brats and known, files)
    if answers.source == _SEGMENTATIONS:
        answers = replace(answers, notes=(*answers.notes, *_notes_on_segments(pairs, answers)))
    return Pairing(pairs, extra, answers)


def _notes_on_segments(pairs: Mapping[str, tuple[Path, Path | None]], answers: Answers) -> list[str]:
    """Names that one side has alone, and values without a name that are taken for those of segments."""
    references = [reference for reference, _ in pairs.values()]
    predictions = [prediction for _, prediction in pairs.values() if prediction]
    sides = {"references": references, "predictions": predictions}
    found: dict[str, dict[str, str]] = {}
    notes = []
    for side, files in sides.items():
        names = found.setdefault(side, {})
        for path in filter(is_segmentation, files):
            with suppress(CaseError):  # scoring the case reports it
                names |= {spelling(name): name for name in read_contents(path).values}
        if bare := [path for path in files if not is_segmentation(path)]:
            listed = some_of(f"{named(name)} {value}" for name, value in answers.names.items() if value)
            notes.append(
                f"{side} without names of labels ({some_of(path.name for path in bare)}): their values are "
                f"taken for those of the segmentations: {listed}"
            )
    for side, other in (tuple(sides), tuple(sides)[::-1]):
        alone = [name for spelled, name in found[side].items() if spelled not in found[other]]
        if alone and found[other]:
            notes.append(f"only the {side} have {some_of(map(named, alone))}")
    return notes


def read_regions(text: str) -> dict[str, tuple[int, ...]]:
    """Parse `--regions`.

    Raises:
        DatasetError: invalid syntax, or a duplicate name.

    >>> read_regions("WT=1+2+3,ET=3")
    {'WT': (1, 2, 3), 'ET': (3,)}
    """
    regions: dict[str, tuple[int, ...]] = {}
    for part in text.split(","):
        name, _, members = part.partition("=")
        numbers = [member.strip() for member in members.split("+")]
        name = name.strip()
        if special(name) == IGNORE:
            raise DatasetError(f"--regions {text}: voxels of the label {IGNORE} are not scored. Remove it.")
        if not name or name in regions or not all(map(is_whole, numbers)):
            raise DatasetError(f"--regions {text}: cannot parse {part!r}. Write e.g. liver=1,tumor=2+3.")
        regions[name] = tuple(int(number) for number in numbers)
    return regions


def subject_of(case_id: str, subjects: Mapping[str, str] | None = None) -> str:
    """The subject of a case: as given, by the names of BraTS or BIDS, or else the case itself.

    >>> subject_of("BraTS-GLI-00005-001"), subject_of("sub-01_ses-02"), subject_of("hippocampus_001")
    ('BraTS-GLI-00005', 'sub-01', 'hippocampus_001')
    """
    return (subjects or {}).get(case_id) or brats.subject_of(person_of(case_id))


def repeated_people(subjects: Iterable[str]) -> str | None:
    """A note if some subjects have several cases.

    >>> repeated_people(["a", "a", "b"])
    '3 cases of 2 subjects: intervals and tests are by subject'
    """
    known = list(subjects)
    count = len(set(known))
    return (
        f"{len(known)} cases of {count} subjects: intervals and tests are by subject"
        if count < len(known)
        else None
    )


def restricted(pairing: Pairing, cases: Collection[str] | Literal["predicted"] | None) -> Pairing:
    """The pairs of some cases: ids, "predicted" (those with a prediction), or None (all).

    Raises:
        DatasetError: an id without a reference.
    """
    if cases is None:
        return pairing
    if cases == "predicted":
        wanted = {case_id for case_id, (_, prediction) in pairing.pairs.items() if prediction}
    else:
        wanted = set(cases)
        if unknown := sorted(wanted - set(pairing.pairs)):
            raise DatasetError(f"evaluate: no reference of {some_of(unknown)}. Check the case ids.")
    return replace(pairing, pairs={i: pair for i, pair in pairing.pairs.items() if i in wanted})


def find_references(source: Path) -> tuple[dict[str, Path], bool]:
    """Case id -> label map, and whether the files are named as BraTS names them.

    Raises:
        DatasetError: no such folder, no label maps, or two of one case.
    """
    if source.is_file():
        case_id = case_id_of(source) or (source.stem if is_segmentation(source) else None)
        if case_id is None:
            raise DatasetError(f"{source}: is not a label map. Expected .nii.gz, .nii, .nrrd or .mha.")
        return {case_id: source}, False
    _check_folder(source)
    found = brats.case_files(source)
    segmentations = {
        case: files[name] for name in brats.ANSWERS for case, files in found.items() if name in files
    }
    if segmentations:
        return segmentations, True
    folders = [source / name for name in _LABEL_FOLDERS if (source / name).is_dir()] or [source]
    found = _label_files((path for folder in folders for path in folder.iterdir()), source)
    if not found:
        raise DatasetError(
            f"{source}: no reference label maps found. Choose the folder that contains them, "
            f"a folder of BraTS cases, or one with {', '.join(_LABEL_FOLDERS)}"
        )
    return found, False


def find_predictions(source: Path, references: Iterable[str] = ()) -> dict[str, Path]:
    """Case id -> predicted label map. `CASE-seg` is the prediction of CASE if that is a reference.

    Raises:
        DatasetError: no such folder, no label maps, or two of one case.
    """
    _check_folder(source)
    known = set(references)
    found = {}
    for case_id, path in _label_files(source.iterdir(), source).items():
        stem = case_id.removesuffix("-seg").removesuffix("_seg")
        name = stem if stem in known and case_id not in known else case_id
        if name in found:
            both = f"{found[name].name} and {path.name}"
            raise DatasetError(f"{source}: duplicate case {name}: {both}. {TWO_OF_ONE_ID}")
        found[name] = path
    if not found:
        raise DatasetError(
            f"{source}: no images (.nii.gz, .nii, .nrrd, .mha) found. Choose the folder of the predictions."
        )
    return found


def _label_files(paths: Iterable[Path], where: Path) -> dict[str, Path]:
    """Case id -> label map or segmentation; DICOM objects count by the name of their file."""
    files = sorted(path for path in paths if path.is_file())
    found = labels_by_id(files, where)
    for path in files:
        if case_id_of(path) is None and is_segmentation(path):
            put_once(found, path.stem, path, path.stem, where)
    return found


def labels_of_document(document: Mapping[str, Any], path: Path) -> Answers:
    """Labels and regions of a `dataset.json` of the Decathlon, nnU-Net v2, or a prepared dataset.

    Raises:
        DatasetError: its `labels` do not map names and numbers.
    """
    if not document.get("labels"):
        raise DatasetError(f'{path}: has no "labels"; add them as name: number')
    content = LabelNames.checked(
        {key: document[key] for key in ("labels", "regions") if document.get(key)}, path
    )
    named = {name: value if isinstance(value, tuple) else (value,) for name, value in content.labels.items()}
    members = tuple(sorted({value for values in named.values() for value in values} | {0}))
    scored = {name: values for name, values in named.items() if name != IGNORE and any(values)}
    names = {name: value for name, value in content.labels.items() if isinstance(value, int)}
    return Answers(members, content.regions or scored, str(path), names)


def _answers(
    predictions: Path,
    references: Path,
    labels: Mapping[str, int] | None,
    regions: Mapping[str, Sequence[int]] | None,
    brats_cases: dict[str, Path] | bool,
    segmentations: Sequence[Path] = (),
) -> Answers:
    """The labels asked for, else those that are named next to the masks, after a check that all agree.

    A name that an option gives to a value may be new for `--regions`, but not for a recipe.

    Args:
        segmentations: all files, if some of them have named segments, else none.
    """
    found = [*_of_references(references), *_of_predictions(predictions)]
    if not found and isinstance(brats_cases, dict) and (known := _of_brats(references, brats_cases)):
        found = [known]
    if not found and segmentations and not labels:
        found = [_of_segments(segmentations)]
    for other in found[1:]:
        _check(other, found[0])
    if not labels and not regions:
        return _with_segments(found[0]) if found else Answers(None, None, "every label that occurs")
    named = {name: (value,) for name, value in (labels or {}).items() if value != 0 and name != IGNORE}
    united = {name: tuple(members) for name, members in (regions or {}).items()}
    members = {value for values in united.values() for value in values} | {0, *(labels or {}).values()}
    source, names = "the recipe" if labels else "--regions", dict(labels or {})
    asked = Answers(tuple(sorted(members)), united or named, source, names)
    notes = [] if found else [f"labels are named by {source} alone: no file next to the masks names them"]
    for other in found:
        _check(other, asked, only_names=not labels)
        if not labels and (line := disagreement(asked.naming, other.naming)):
            notes.append(f"other names of the same labels: {line}")
    return _with_segments(replace(asked, notes=tuple(notes)), asked if labels or not found else found[0])


def _of_segments(files: Sequence[Path]) -> Answers:
    """The names in the segmentations themselves."""
    labels, regions = named_labels([Case(f"{n}", (), label=path) for n, path in enumerate(files)])
    scored = {name: (value,) for name, value in labels.items() if value}
    members = tuple(sorted(labels.values()))
    return Answers(members, regions or scored, _SEGMENTATIONS, labels)


def _with_segments(answers: Answers, known: Answers | None = None) -> Answers:
    """The answers, with what the names of segments are in a label map: in `known`, if it is given."""
    known = known or answers
    regions = dict(known.regions or {})
    values = {value for members in regions.values() for value in members} - {*known.names.values()}
    labels = {**known.names, **{f"label_{value}": value for value in sorted(values)}}
    return replace(answers, segments=SegmentNames(labels, regions))


def _of_brats(references: Path, cases: dict[str, Path]) -> Answers | None:
    """What the challenges call the labels; None if the cases do not have their ids."""
    if not all(case_id.startswith("BraTS") for case_id in cases):
        return None
    earlier = all(path.name.partition(".")[0].endswith("_seg") for path in cases.values())
    named, united = brats.answers_of(references, cases, is_earlier=earlier)
    alone = {name: value for name, value in named.items() if value}
    scored = united or {name: (value,) for name, value in alone.items()}
    return Answers(tuple(sorted(named.values())), scored, "BraTS regions", alone)


def names_near(predictions: Path | None, references: Path | None) -> Answers:
    """The labels that documents next to the masks name, without a check that they agree.

    Args:
        predictions, references: a mask or a folder of masks; None if there are none.
    """
    found = [] if references is None else _of_references(references)
    found += [] if predictions is None else _of_predictions(predictions)
    if not found and references is not None and references.is_dir():
        with suppress(DatasetError):
            known, is_brats = find_references(references)
            found += filter(None, [_of_brats(references, known) if is_brats else None])
    return _with_segments(found[0]) if found else Answers(None, None, "")


def _of_references(references: Path) -> list[Answers]:
    folder = references if references.is_dir() else references.parent
    return _named_in(each / _DOCUMENT for each in (folder, folder.parent))[:1]


def _of_predictions(predictions: Path) -> list[Answers]:
    """The names in the records of `predict`, and in a document of another program next to the masks."""
    folder = predictions if predictions.is_dir() else predictions.parent
    documents = (each / _DOCUMENT for each in (folder, folder.parent))
    name = case_id_of(predictions) if predictions.is_file() else None
    own = record_files(folder, f"{name}.run") if name else []
    return [*_named_in(reversed([*record_files(folder), *own])), *_named_in(documents)[:1]]


def _named_in(paths: Iterable[Path]) -> list[Answers]:
    """The labels of those of the files that have some."""
    found = []
    for path in paths:
        document = read_json(path) if path.is_file() else None
        if isinstance(document, Mapping) and document.get("labels"):
            found.append(labels_of_document(document, path))
    return found


def _check(answers: Answers, first: Answers, *, only_names: bool = False) -> None:
    """Raise `DatasetError` if two sources disagree; both sides are shown."""
    if line := disagreement(first.naming, answers.naming, only_names=only_names):
        raise DatasetError(f"{answers.source}: labels: names disagree: {line}. Correct one of them.")


def _check_folder(source: Path) -> None:
    if not source.is_dir():
        raise DatasetError(f"{source}: no such folder. Check the path.")
