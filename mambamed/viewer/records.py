"""What the records of `predict` and `classify` say about cases."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from mambamed.documents.prediction import CaseResult, PredictionRecord, records_of
from mambamed.errors import MambamedError
from mambamed.evaluation.classification import holds_probabilities


def recorded(place: Path) -> dict[str, CaseResult]:
    """Case -> what the record of predictions says; nothing if there is none of mambamed."""
    found: dict[str, CaseResult] = {}
    if place.is_dir() or holds_probabilities(place):
        for path in records_of(place):
            with suppress(MambamedError):
                found |= PredictionRecord.read(path).cases
    return found


def least_expected_dice(known: CaseResult | None) -> float | None:
    """The least Dice that `predict --uncertainty` expects of a structure; None if it was not computed."""
    numbers = known.uncertainty.values() if known and known.uncertainty else ()
    return min((n.expected_dice for n in numbers if n.expected_dice is not None), default=None)
