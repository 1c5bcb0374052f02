"""The numbers of a recipe's `paper` section, for the columns of the tables."""

from __future__ import annotations

from collections.abc import Mapping

from mambamed.evaluation.read_back import ALL

# End of a key of `paper` -> metric.
_METRICS = {"dice": "dice", "dsc": "dice", "hd95": "hd95", "nsd": "nsd", "iou": "iou", "assd": "assd"}
_CLASSES = {
    "acc": "accuracy",
    "auc": "auc",
    "f1": "f1",
    "sen": "sensitivity",
    "spe": "specificity",
    "pre": "precision",
}
_WHOLE = {"average", "mean", "avg"}
FRACTIONS = 100.0  # papers report fractions in per cent


def paper_value(paper: Mapping[str, float | str], alone: str, region: str, metric: str) -> float | None:
    """The reported mean in the unit of our metric; None if the paper has none.

    Args:
        alone: metric of a key that names a region or a landmark alone.

    >>> paper_value({"WT": 93.5, "WT HD95": 4.2}, "dice", "WT", "dice")
    0.935
    >>> paper_value({"Average HD95": 4.2}, "dice", "average", "hd95:pooled")
    4.2
    """
    kind = metric.partition(":")[0].partition("@")[0]
    for key, value in paper.items():
        words = key.replace("_", " ").split()
        if isinstance(value, str) or not words or words[-1].upper() == "SD":
            continue
        if kind in _CLASSES.values():
            if region == ALL and len(words) == 1 and _CLASSES.get(words[0].lower()) == kind:
                return value / FRACTIONS
            continue
        found = _METRICS.get(words[-1].lower()) if len(words) > 1 else None
        named = " ".join(words[:-1] if found else words)
        reported = found or alone
        whole = named.lower() in _WHOLE and region.lower() in (ALL, "average")
        if reported == kind and (whole or _squeezed(named) == _squeezed(region)):
            return value if kind in {"hd95", "assd", "error_mm"} else value / FRACTIONS
    return None


def _squeezed(name: str) -> str:
    return name.replace(" ", "").replace("_", "").lower()
