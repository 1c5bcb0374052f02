"""Options of converters, from the command line and the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mambamed.progress import Progress


@dataclass(frozen=True)
class ConvertOptions:
    """Options of a converter."""

    format: str = "auto"  # the requested format, or "auto" if the layout was recognized
    channels: Mapping[str, str] | None = None  # channel name -> "ct" or "mri", from the recipe
    labels: Mapping[str, int] | None = None  # label name -> value, from the recipe
    class_column: str | None = None  # column of the table that contains the classes
    progress: Progress | None = None

    def one_channel(self, name: str, kind: str) -> dict[str, str]:
        """The only channel of a dataset, with the name in the recipe if the kind is the same.

        >>> ConvertOptions(channels={"CT scan": "ct"}).one_channel("CT", "ct")
        {'CT scan': 'ct'}
        """
        wanted = dict(self.channels or {})
        return wanted if list(wanted.values()) == [kind] else {name: kind}


def kind_of_channel(name: str) -> str:
    """The kind of a channel by its name, as in nnU-Net: "ct" if the name is CT, else "mri".

    >>> kind_of_channel("CT"), kind_of_channel("T1w")
    ('ct', 'mri')
    """
    return "ct" if name.lower() == "ct" else "mri"
