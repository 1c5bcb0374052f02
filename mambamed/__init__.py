"""mambamed: 3D medical imaging with Mamba networks.

The commands are functions of this package, with the same names and parameters: `mambamed.predict` is
`mambamed predict`, and `mambamed.recipes.list` is `mambamed recipes list`. A path may be a `str` or a `Path`,
and a parameter that takes a list also takes one value.
`docs/architecture.md` describes the packages below this one and the path of a scan through them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mambamed import recipes
    from mambamed.api import (
        best,
        bids,
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
        runs,
        schema,
        study,
        train,
        view,
    )

__version__ = "0.2.0"
__all__ = [
    "best",
    "bids",
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
    "recipes",
    "runs",
    "schema",
    "study",
    "train",
    "view",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'mambamed' has no attribute {name!r}")
    if name == "recipes":
        return importlib.import_module("mambamed.recipes")
    api = importlib.import_module("mambamed.api")
    checked = importlib.import_module("mambamed.arguments").with_checked_arguments
    globals()[name] = checked(getattr(api, name), api.predict)
    return globals()[name]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
