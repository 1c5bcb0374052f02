"""BIDS: `sub-01/ses-01/anat/sub-01_ses-01_T1w.nii.gz`, with `participants.tsv` (and `sub-01_sessions.tsv`).

Every session with the channels is a case, `sub-01_ses-01`; `sub-01` is its subject. The class is a column of
`participants.tsv` or of the sessions' table: `--class-column`, or the first of diagnosis, group, dx, class.
`participants.tsv` has one row per person, or one per visit if it has a column `session_id`.
Cases with the class "n/a" are left out of a dataset of classes. All other columns become covariates.
Label maps are those of `derivatives`, named `sub-01_..._dseg.nii.gz`; `dseg.tsv` names their labels.

Source: the BIDS specification 1.10, bids-specification.readthedocs.io.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mambamed.cases import Case, ChannelFile
from mambamed.converters.bids_labels import is_predicted, label_tables, labels_of_tables
from mambamed.converters.found_classes import found_classes
from mambamed.converters.options import ConvertOptions
from mambamed.converters.segmented import named_labels
from mambamed.documents.manifest import DatasetManifest, RawDataset
from mambamed.errors import DatasetError
from mambamed.io.case_columns import SESSION_COLUMNS, CaseColumns, is_stated
from mambamed.io.images import case_id_of
from mambamed.io.segments import is_segmentation
from mambamed.io.tables import column_of, read_csv
from mambamed.schema_errors import some_of

_PARTICIPANTS = "participants.tsv"
_CLASS_COLUMNS = ("diagnosis", "group", "dx", "class")
NO_CHANNELS = ("dseg", "probseg", "mask", "defacemask")
_SUBJECT = re.compile(r"sub-[^_]+")
_SESSION = re.compile(r"ses-[^_]+")


def recognizes(source: Path) -> bool:
    """Whether folders of subjects contain anatomical images."""
    return any(True for pattern in ("sub-*/anat/*", "sub-*/ses-*/anat/*") for _ in source.glob(pattern))


def convert(source: Path, options: ConvertOptions) -> RawDataset:
    """The sessions with the channels: T1w, or those of the recipe.

    Raises DatasetError: no such column, no class and no label map, or several images of one channel.
    """
    channels = dict(options.channels or {"T1w": "mri"})
    known, columns = _table(source / _PARTICIPANTS, "participant_id")
    column = _class_column(source, options, columns)
    labels = _label_maps(source)
    found = (_case(folder, source, list(channels), known, column, labels) for folder in _folders(source))
    cases = [case for case in found if case is not None]
    classes = found_classes([case.class_name for case in cases], column or "class", source)
    warnings = []
    there = {*(case.id for case in cases), *(case.subject for case in cases)}
    if without := [row for row in known if row not in there]:
        warnings.append(f"{source / _PARTICIPANTS}: no image of {', '.join(channels)}: {some_of(without)}")
    if classes and not labels:
        if unknown := [case.id for case in cases if not (case.class_name or case.fault)]:
            warnings.append(f"{source}: {column} is not known, so left out: {some_of(unknown)}")
        cases = [case for case in cases if case.class_name or case.fault]
    named: Mapping[str, int] = {}
    regions: Mapping[str, tuple[int, ...]] = {}
    tables = label_tables(source) if labels else []
    if labels:
        if stated := labels_of_tables(tables):
            named = stated
        elif options.labels:
            named = options.labels
            if options.progress and not any(case.label and is_segmentation(case.label) for case in cases):
                options.progress.say(
                    f"{source}: labels: named by the recipe alone, BIDS has only their numbers"
                )
        else:
            named, regions = named_labels(cases, options.progress)
    manifest = DatasetManifest.of(
        name=source.resolve().name,
        source=source,
        channels=channels,
        labels=dict(named),
        regions=regions,
        classes=classes if not labels else (),
    )
    documents = (source / _PARTICIPANTS, *source.glob("sub-*/*_sessions.tsv"), *tables)
    cases.sort(key=lambda case: case.id)
    return RawDataset(manifest, cases, documents=documents, warnings=tuple(warnings))


def find_cases(source: Path, channels: Sequence[str]) -> list[Case]:
    """The sessions to predict; none if no image has the suffix of a channel.

    Args:
        channels: the model's channel names, e.g. T1w or T1; a single channel may have another name if all
            images have one suffix.
    """
    folders = _folders(source)
    suffixes = channels_in(source)
    known = {suffix.lower().removesuffix("w"): suffix for suffix in suffixes}
    names = [known.get(name.lower().removesuffix("w"), "") for name in channels]
    if len(channels) == len(suffixes) == 1:
        names = list(suffixes)
    if not any(names):
        return []
    wanted = [suffix or name for suffix, name in zip(names, channels, strict=True)]
    people, _ = _table(source / _PARTICIPANTS, "participant_id")
    found = (_case(folder, source, wanted, people, None, {}) for folder in folders)
    cases = [case for case in found if case is not None]
    cases = [replace(case, missing={k: channels[k] for k in case.missing}) for case in cases]
    return sorted(cases, key=lambda case: case.id)


def channels_in(source: Path) -> list[str]:
    """The suffixes of the anatomical images, e.g. T1w, sorted."""
    found = {_suffix(path) for folder in _folders(source) for path in folder.iterdir()}
    return sorted(found - {"", *NO_CHANNELS})


def _folders(source: Path) -> list[Path]:
    """The folders of anatomical images, with and without sessions."""
    return sorted(p for pattern in ("sub-*/anat", "sub-*/ses-*/anat") for p in source.glob(pattern))


def _suffix(path: Path) -> str:
    return (case_id_of(path) or "").rpartition("_")[2]


def _table(path: Path, key: str) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Rows of a table by its key column, and its other columns; both empty if there is no such file.

    Rows of participants with a column of sessions are by visit, e.g. `sub-01_ses-02`.
    """
    if not path.is_file():
        return {}, []
    headers, rows = read_csv(path)
    if key not in headers:
        raise DatasetError(f"{path}: {key}: missing column. Add it, as BIDS requires.")
    columns = CaseColumns(None, key, column_of(headers, SESSION_COLUMNS) if key != "session_id" else None)
    ids = [case for case, _ in columns.identify(rows)]
    if fault := columns.twice(path, ids):
        raise DatasetError(fault)
    used = columns.used
    known = {i: {k: v for k, v in row.items() if k not in used} for i, row in zip(ids, rows, strict=True)}
    return known, [header for header in headers if header not in used]


def _class_column(source: Path, options: ConvertOptions, columns: Sequence[str]) -> str | None:
    sessions = list(source.glob("sub-*/*_sessions.tsv"))
    offered = [*columns, *(_table(sessions[0], "session_id")[1] if sessions else [])]
    if options.class_column is not None:
        if options.class_column not in offered:
            shown = ", ".join(offered) or "none"
            raise DatasetError(
                f"--class-column: expected a column of the tables in {source} ({shown}), got "
                f"{options.class_column!r}. Choose one of them."
            )
        return options.class_column
    by_lower: dict[str, str] = {}
    for name in dict.fromkeys(offered):
        if (other := by_lower.setdefault(name.lower(), name)) != name and name.lower() in _CLASS_COLUMNS:
            raise DatasetError(
                f"{source}: columns {other} and {name} differ only in capitals. Name one with --class-column."
            )
    return next((by_lower[name] for name in _CLASS_COLUMNS if name in by_lower), None)


def _case(
    folder: Path,
    source: Path,
    channels: Sequence[str],
    known: Mapping[str, Mapping[str, str]],
    column: str | None,
    labels: Mapping[str, Sequence[Path]],
) -> Case | None:
    """The case of an `anat` folder; None if it has none of the channels."""
    parts = folder.relative_to(source).parts
    subject, session = parts[0], next((part for part in parts if part.startswith("ses-")), None)
    case_id = f"{subject}_{session}" if session else subject
    files: dict[str, list[Path]] = {channel: [] for channel in channels}
    for path in sorted(folder.iterdir()):
        if (suffix := _suffix(path)) in files:
            files[suffix].append(path)
    if not any(files.values()):
        return None
    fault = None
    for channel, paths in files.items():
        if not paths:
            fault = f"{case_id}: {channel} is missing in {folder}. Add it."
        elif len(paths) > 1:
            several = f"{len(paths)} images of {channel} ({', '.join(path.name for path in paths)})"
            fault = f"{case_id}: {several}. Write a list of cases that names the right one."
    if len(maps := labels.get(case_id, ())) > 1:
        several = f"{len(maps)} label maps ({', '.join(str(path) for path in maps)})"
        fault = fault or f"{case_id}: {several}. Write a list of cases that names the right one."
    facts = _facts(source, known, subject, session)
    answer = facts.pop(column, "") if column else ""
    return Case(
        case_id,
        tuple(ChannelFile(paths[0]) for paths in files.values() if paths),
        next(iter(maps), None),
        class_name=answer if is_stated(answer) else None,
        subject=subject,
        covariates=facts,
        fault=fault,
        missing={}
        if any(len(paths) > 1 for paths in files.values())
        else {k: name for k, (name, paths) in enumerate(files.items()) if not paths},
    )


def participant_facts(source: Path) -> Callable[[str, str | None], dict[str, str]]:
    """A function of subject and session: their row in `participants.tsv` and in the table of sessions."""
    known, _ = _table(source / _PARTICIPANTS, "participant_id")
    return lambda subject, session: _facts(source, known, subject, session)


def _facts(
    source: Path, known: Mapping[str, Mapping[str, str]], subject: str, session: str | None
) -> dict[str, str]:
    facts = dict(known.get(f"{subject}_{session}") or known.get(subject, {}))
    if session:
        sessions, _ = _table(source / subject / f"{subject}_sessions.tsv", "session_id")
        facts |= sessions.get(session, {})
    return facts


def _label_maps(source: Path) -> dict[str, list[Path]]:
    """Case id -> its label maps in `derivatives`, without predictions of mambamed."""
    found: dict[str, list[Path]] = {}
    for path in sorted((source / "derivatives").glob("**/anat/*_dseg.*")):
        name = case_id_of(path) or ""
        subject, session = _SUBJECT.match(name), _SESSION.search(name)
        if subject and not is_predicted(path):
            case_id = f"{subject[0]}_{session[0]}" if session else subject[0]
            found.setdefault(case_id, []).append(path)
    return found
