"""The images of a BIDS dataset that a model reads, chosen by suffix and entities.

Each session with images is a case, `sub-01_ses-1`. A channel of the model is one image of the session, whose
name fits a pattern, e.g. `T1w` or `ce-*_T1w`. Several images that fit are a fault of the case, which names
them; nothing is chosen silently.

Source: the BIDS specification 1.10, "Entities" and "Magnetic Resonance Imaging".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mambamed.converters.bids import NO_CHANNELS, participant_facts
from mambamed.errors import DatasetError, RecipeError
from mambamed.io.images import case_id_of
from mambamed.schema_errors import some_of

DATATYPES = ("anat", "pet", "ct")
_IMAGES = (".nii", ".nii.gz")
_ENTITY = re.compile(r"[a-z]+-([a-zA-Z0-9]+|\*)")
# Name of a channel, in lower case without separators -> pattern. Names that are a suffix need no line.
_KNOWN = {
    **dict.fromkeys(("t1", "t1n", "t1w", "t1wi", "mprage"), "T1w"),
    **dict.fromkeys(("t1c", "t1ce", "t1gd", "t1wce", "t1post"), "ce-*_T1w"),
    **dict.fromkeys(("t2", "t2w", "t2wi"), "T2w"),
    **dict.fromkeys(("flair", "t2f", "t2flair"), "FLAIR"),
    **dict.fromkeys(("pd", "pdw"), "PDw"),
    **dict.fromkeys(("t2star", "t2starw"), "T2starw"),
    **dict.fromkeys(("mra", "tof", "angio"), "angio"),
}


@dataclass(frozen=True)
class Pattern:
    """What the name of an image must have: a suffix, and entities (key -> label, `*` for any)."""

    suffix: str
    entities: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str) -> Pattern:
        """Read a pattern.

        >>> Pattern.of("ce-*_T1w")
        Pattern(suffix='T1w', entities={'ce': '*'})

        Raises:
            RecipeError: it is none.
        """
        *entities, suffix = text.split("_")
        if not suffix.isalnum() or not all(_ENTITY.fullmatch(entity) for entity in entities):
            raise RecipeError(f"--channels: expected e.g. T1w or ce-*_T1w, got {text!r}. Correct the option.")
        return cls(suffix, dict(entity.split("-") for entity in entities))  # type: ignore[misc]

    def __str__(self) -> str:
        return "_".join([*(f"{key}-{label}" for key, label in self.entities.items()), self.suffix])


@dataclass(frozen=True)
class BidsImage:
    """An image and what its name says."""

    path: Path
    entities: Mapping[str, str]
    suffix: str

    def fits(self, pattern: Pattern) -> bool:
        """Whether the name has the suffix and the entities of a pattern."""
        return self.suffix == pattern.suffix and all(
            key in self.entities and label in ("*", self.entities[key])
            for key, label in pattern.entities.items()
        )


@dataclass(frozen=True)
class Choice:
    """The images of a session that a model reads.

    Attributes:
        images: channel -> image.
        fault: why the session cannot be used.
        only_missing: whether all that is wrong is that some, but not all, channels have no image.
    """

    images: Mapping[str, BidsImage]
    fault: str | None = None
    only_missing: bool = False


@dataclass(frozen=True)
class BidsSession:
    """A subject, or one session of it, that has images.

    Attributes:
        name: `sub-01` or `sub-01_ses-1`.
        images: all of them, sorted by name.
        covariates: its row in the tables of participants and sessions.
    """

    name: str
    subject: str
    session: str | None
    images: tuple[BidsImage, ...]
    covariates: Mapping[str, str]

    def chosen(self, patterns: Mapping[str, Pattern], wanted: Mapping[str, str]) -> Choice:
        """The image of each channel.

        Args:
            patterns: channel -> pattern. Of channels with the same suffix, one without entities takes images
                that have none of the entities of the others.
            wanted: key -> label of entities; an image that has the entity must have this label, and for
                "none" must not have the entity.
        """
        found: dict[str, BidsImage] = {}
        lacking: list[str] = []
        kept = [image for image in self.images if _is_wanted(image, wanted)]
        for channel, pattern in patterns.items():
            others = {
                key for each in patterns.values() if each.suffix == pattern.suffix for key in each.entities
            }
            fitting = [
                image
                for image in kept
                if image.fits(pattern) and not (others - pattern.entities.keys()) & image.entities.keys()
            ]
            if len(fitting) > 1:
                return Choice(found, f"{self.name}: {channel}: {_ambiguity(pattern, fitting)}")
            if fitting:
                found[channel] = fitting[0]
            else:
                lacking.append(channel)
        if not lacking:
            return Choice(found)
        names = some_of((image.path.name for image in self.images), most=8)
        shown = ", ".join(f"{channel} ({patterns[channel]})" for channel in lacking)
        fact = f"{self.name}: no image of {shown}; there are {names}"
        return Choice(found, f"{fact}. Add it, or give --channels.", only_missing=bool(found))


def find_sessions(
    source: Path, participants: Sequence[str] | None = None, sessions: Sequence[str] | None = None
) -> list[BidsSession]:
    """The sessions of a BIDS dataset that have images, sorted by name.

    Args:
        participants: labels of subjects, with or without `sub-` (default: all).
        sessions: labels of sessions, with or without `ses-` (default: all, and subjects without sessions).

    Raises:
        DatasetError: no images at all, or an unknown label, or that of a subject without images.
    """
    people = sorted(path.name for path in source.glob("sub-*") if path.is_dir())
    asked = _labels(participants, "sub-")
    if unknown := [name for name in asked or () if name not in people]:
        raise DatasetError(
            f"{source}: --participant-label: no folder {some_of(unknown)}; there are "
            f"{some_of(people, most=8) or 'no folders of subjects'}. Correct the labels."
        )
    visits = _labels(sessions, "ses-")
    found: list[BidsSession] = []
    names: set[str] = set()
    facts_of = participant_facts(source)
    for subject in asked or people:
        folders = [(None, source / subject)]
        folders += [(path.name, path) for path in sorted((source / subject).glob("ses-*")) if path.is_dir()]
        names |= {session for session, _ in folders if session}
        for session, folder in folders:
            if visits is not None and session not in visits:
                continue
            images = [
                image
                for datatype in DATATYPES
                for path in sorted((folder / datatype).glob("*"))
                if (image := _image(path)) is not None
            ]
            if images:
                name = f"{subject}_{session}" if session else subject
                found.append(BidsSession(name, subject, session, tuple(images), facts_of(subject, session)))
    if unknown := [name for name in visits or () if name not in names]:
        raise DatasetError(
            f"{source}: --session-label: no session {some_of(unknown)}; there are "
            f"{some_of(sorted(names), most=8) or 'no sessions'}. Correct the labels."
        )
    searched = f"looked for sub-*/[ses-*/]{{{','.join(DATATYPES)}}}/*.nii*"
    empty = {*(asked or ())} - {session.subject for session in found}
    if empty and visits is None:
        fact = f"no images of {some_of(sorted(empty))}: {searched}"
        raise DatasetError(f"{source}: --participant-label: {fact}. Correct the labels.")
    if not found:
        raise DatasetError(f"{source}: no images: {searched}. Check the path.")
    return found


def patterns_of(
    channels: Iterable[str], given: Mapping[str, str], sessions: Sequence[BidsSession], source: Path
) -> dict[str, Pattern]:
    """The pattern of each channel of a model: the given one, a suffix of its name, or a usual one.

    The only channel of a model may have any name if all images have one suffix.

    Raises:
        RecipeError: `given` names a channel that the model does not read, or is no pattern.
        DatasetError: a channel has no pattern.
    """
    channels = list(channels)
    if unknown := [name for name in given if name not in channels]:
        raise RecipeError(
            f"--channels: the model reads {', '.join(channels)}, and no {unknown[0]!r}. Correct the option."
        )
    suffixes = {image.suffix for session in sessions for image in session.images}
    by_name = {suffix.lower(): suffix for suffix in sorted(suffixes)} | _KNOWN
    patterns: dict[str, Pattern] = {}
    for channel in channels:
        text = given.get(channel) or by_name.get(re.sub(r"[^a-z0-9]", "", channel.lower()))
        if text is None and len(channels) == len(suffixes) == 1:
            text = next(iter(suffixes))
        if text is None:
            raise DatasetError(
                f"{source}: no suffix of BIDS is known for the channel {channel}; the images have "
                f"{some_of(sorted(suffixes), most=12)}. Give e.g. --channels {channel}=T1w."
            )
        patterns[channel] = Pattern.of(text)
    for first, name in enumerate(channels):
        for other in channels[first + 1 :]:
            if patterns[name] == patterns[other]:
                raise DatasetError(
                    f"{source}: channels {name} and {other} both are {patterns[name]}. "
                    f"Give --channels, e.g. {other}=ce-*_T1w."
                )
    return patterns


def pairs_of(text: str | Sequence[str] | None, option: str) -> dict[str, str]:
    """`a=b,c=d`, also given in several parts, as a dictionary.

    Raises:
        RecipeError: a part without "=", or a name given twice.
    """
    parts = [text] if isinstance(text, str) else list(text or ())
    pairs: dict[str, str] = {}
    for part in (word.strip() for each in parts for word in each.split(",")):
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if not (name and sign and value) or name in pairs:
            fact = "given twice" if name in pairs else "expected NAME=VALUE"
            raise RecipeError(f"{option} {part}: {fact}. Correct the option.")
        pairs[name] = value
    return pairs


def _labels(given: Sequence[str] | None, prefix: str) -> list[str] | None:
    if given is None:
        return None
    words = [word for text in given for word in re.split(r"[,\s]+", text) if word]
    return sorted({prefix + word.removeprefix(prefix) for word in words})


def _image(path: Path) -> BidsImage | None:
    name = case_id_of(path)
    if name is None or not path.name.endswith(_IMAGES):
        return None
    *entities, suffix = name.split("_")
    if suffix in NO_CHANNELS or not all("-" in entity for entity in entities):
        return None
    return BidsImage(path, dict(entity.split("-", 1) for entity in entities), suffix)  # type: ignore[misc]


def _is_wanted(image: BidsImage, wanted: Mapping[str, str]) -> bool:
    return all(
        key not in image.entities if label == "none" else image.entities.get(key, label) == label
        for key, label in wanted.items()
    )


def _ambiguity(pattern: Pattern, images: Sequence[BidsImage]) -> str:
    """What several images that fit differ in, and how to choose one of them."""
    keys = dict.fromkeys(key for image in images for key in image.entities)
    differing = [key for key in keys if len({image.entities.get(key) for image in images}) > 1]
    shown = ", ".join(image.path.name for image in images)
    fact = f"{len(images)} images are {pattern} ({shown})"
    if not differing:
        return f"{fact}. Move all but one elsewhere."
    key = differing[0]
    label = images[0].entities.get(key, "none")
    return f"{fact}. Choose by {', '.join(differing)}, e.g. --filter {key}={label}."
