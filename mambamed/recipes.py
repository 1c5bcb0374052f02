"""The commands `mambamed recipes ...` as functions, e.g. `mambamed.recipes.list()`."""

from __future__ import annotations

from mambamed import api
from mambamed.arguments import with_checked_arguments

__all__ = ["check", "list", "new", "schema", "show"]

list = with_checked_arguments(api.recipes_list, api.predict)
new = with_checked_arguments(api.recipes_new, api.predict)
show = with_checked_arguments(api.recipes_show, api.predict)
check = with_checked_arguments(api.recipes_check, api.predict)
schema = with_checked_arguments(api.recipes_schema, api.predict)


def __dir__() -> tuple[str, ...]:
    return tuple(__all__)
