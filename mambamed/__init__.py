"""mambamed: 3D medical imaging with Mamba networks.

The commands are functions of this package, with the same names and parameters: `mambamed.predict` is
`mambamed predict`. A path may be a `str` or a `Path`, and a parameter that takes a list also takes one value.
`docs/architecture.md` describes the packages below this one and the path of a scan through them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mambamed.api import (
        classify,
        compare,
        convert_points,
        demo,
        doctor,
        evaluate,
        export,
        extend,
        import_weights,
        landmarks,
        predict,
        prepare,
        schema,
        train,
    )

__version__ = "0.2.0"
__all__ = [
    "classify",
    "compare",
    "convert_points",
    "demo",
    "doctor",
    "evaluate",
    "export",
    "extend",
    "import_weights",
    "landmarks",
    "predict",
    "prepare",
    "schema",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        checked = importlib.import_module("mambamed.arguments").with_checked_arguments
        return checked(getattr(importlib.import_module("mambamed.api"), name))
    raise AttributeError(f"module 'mambamed' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
