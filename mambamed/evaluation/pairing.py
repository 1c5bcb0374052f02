"""Match predictions and references, and find the meaning of their labels."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mambamed.cases import IGNORE
from mambamed.converters import brats
from mambamed.documents.prediction import record_files
from mambamed.errors import DatasetError
from mambamed.io.images import case_id_of, images_by_id
from mambamed.io.json_files import read_json
from mambamed.schema_errors import some_of

# "references" lies in a prepared dataset.
_LABEL_FOLDERS = ("labelsTr", "labelsTs", "labelsVal", "references")
_DOCUMENT = "dataset.json"


@dataclass(frozen=True)
class Answers:
    """The labels that may occur, and the structures that are scored.

    Attributes:
        labels: None: any.
        regions: name -> its labels, in the order of the tables; None: each label that occurs.
        source: where they were found, for messages.
        names: label name -> value, for legends.
    """

    labels: tuple[int, ...] | None
    regions: Mapping[str, tuple[int, ...]] | None
    source: str
    names: Mapping[str, int] = field(default_factory=dict)

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
    return Pairing(pairs, extra, _answers(predictions, references, labels, regions, is_brats and known))


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
        if not name or name in regions or not all(number.isdecimal() for number in numbers):
            raise DatasetError(f"--regions {text}: cannot parse {part!r}. Write e.g. liver=1,tumor=2+3.")
        regions[name] = tuple(int(number) for number in numbers)
    return regions


def subject_of(case_id: str, subjects: Mapping[str, str] | None = None) -> str:
    """The subject of a case: as given, by BraTS' names, or else the case itself.

    >>> subject_of("BraTS-GLI-00005-001"), subject_of("hippocampus_001")
    ('BraTS-GLI-00005', 'hippocampus_001')
    """
    return subjects[case_id] if subjects and case_id in subjects else brats.subject_of(case_id)


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
        case_id = case_id_of(source)
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
    found = images_by_id((path for folder in folders for path in folder.iterdir()), source)
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
    for case_id, path in images_by_id(source.iterdir(), source).items():
        stem = case_id.removesuffix("-seg").removesuffix("_seg")
        name = stem if stem in known and case_id not in known else case_id
        if name in found:
            both = f"{found[name].name} and {path.name}"
            raise DatasetError(f"{source}: duplicate case {name}: {both}. Keep one.")
        found[name] = path
    if not found:
        raise DatasetError(
            f"{source}: no images (.nii.gz, .nii, .nrrd, .mha) found. Choose the folder of the predictions."
        )
    return found


def labels_of_document(document: Mapping[str, Any], path: Path) -> Answers:
    """Labels and regions of a `dataset.json` of the Decathlon, nnU-Net v2, or a prepared dataset.

    Raises:
        DatasetError: its `labels` do not map names and numbers.
    """
    section = document.get("labels")
    if not isinstance(section, Mapping) or not section:
        raise DatasetError(f'{path}: has no "labels"; add them as name: number')
    try:
        if all(str(key).isdigit() for key in section):  # the Decathlon: number -> name
            named = {str(name): (int(value),) for value, name in section.items()}
        else:
            named = {
                str(name): tuple(int(v) for v in value) if isinstance(value, (list, tuple)) else (int(value),)
                for name, value in section.items()
            }
        regions = {
            str(name): tuple(int(v) for v in value) for name, value in (document.get("regions") or {}).items()
        }
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{path}: labels {section} are not names and numbers; correct them") from error
    members = tuple(sorted({value for values in named.values() for value in values} | {0}))
    scored = {name: values for name, values in named.items() if name != IGNORE and any(values)}
    names = {name: values[0] for name, values in named.items() if len(values) == 1}
    return Answers(members, regions or scored, str(path), names)


def _answers(
    predictions: Path,
    references: Path,
    labels: Mapping[str, int] | None,
    regions: Mapping[str, Sequence[int]] | None,
    brats_cases: dict[str, Path] | bool,
) -> Answers:
    found = [each for each in (_of_references(references), _of_predictions(predictions)) if each]
    if labels or regions:
        named = {name: (value,) for name, value in (labels or {}).items() if value != 0 and name != IGNORE}
        united = {name: tuple(members) for name, members in (regions or {}).items()}
        members = {value for values in united.values() for value in values} | {0, *(labels or {}).values()}
        source, names = "the recipe" if labels else "--regions", dict(labels or {})
        found.insert(0, Answers(tuple(sorted(members)), united or named, source, names))
        if not labels:  # --regions says what is scored, whatever the files name
            return found[0]
    for other in found[1:]:
        _check_names(found[0], other)
    if found:
        return found[0]
    if isinstance(brats_cases, dict) and all(case_id.startswith("BraTS") for case_id in brats_cases):
        earlier = all(path.name.partition(".")[0].endswith("_seg") for path in brats_cases.values())
        named, united = brats.answers_of(references, brats_cases, is_earlier=earlier)
        alone = {name: value for name, value in named.items() if value}
        scored = united or {name: (value,) for name, value in alone.items()}
        return Answers(tuple(sorted(named.values())), scored, "BraTS regions", alone)
    return Answers(None, None, "every label that occurs")


def _of_references(references: Path) -> Answers | None:
    return _named_in(folder / _DOCUMENT for folder in (references, references.parent))


def _of_predictions(predictions: Path) -> Answers | None:
    """The names in the record of `predict`, or in a document of another program next to the masks."""
    folder = predictions if predictions.is_dir() else predictions.parent
    documents = (each / _DOCUMENT for each in (predictions, predictions.parent))
    return _named_in([*reversed(record_files(folder)), *documents])


def _named_in(paths: Iterable[Path]) -> Answers | None:
    """The labels of the first of the files that has some."""
    for path in paths:
        if path.is_file():
            document = read_json(path)
            if isinstance(document, Mapping) and document.get("labels"):
                return labels_of_document(document, path)
    return None


def _check_names(first: Answers, second: Answers) -> None:
    """Raise `DatasetError` if a value has two names, or a name two values; spelling is ignored."""
    pairs = [
        (name, value, other, number)
        for name, value in first.names.items()
        for other, number in second.names.items()
        if (value == number) != (_spelling(name) == _spelling(other)) and value and number
    ]
    if pairs:
        first_names, second_names = (
            ", ".join(f"{value} {name}" for name, value in answers.names.items() if value)
            for answers in (first, second)
        )
        raise DatasetError(
            f"{second.source}: labels: names disagree: {second_names} | {first.source}: {first_names}. "
            "Correct one of them, or state what is scored with --regions NAME=VALUE."
        )


def _spelling(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _check_folder(source: Path) -> None:
    if not source.is_dir():
        raise DatasetError(f"{source}: no such folder. Check the path.")
