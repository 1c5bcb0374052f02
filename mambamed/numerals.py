"""Whole numbers in text that users and files give."""

from __future__ import annotations

_MOST_DIGITS = 18  # an int64 holds any number of 18 digits


def is_whole(text: str) -> bool:
    """Whether `int` reads a text as a number of at most 18 digits.

    `str.isdigit` also accepts "²", which `int` rejects, and numbers of any length, of which `int` rejects
    those of more than 4300 digits.

    >>> is_whole("12"), is_whole("²"), is_whole("9" * 5000), is_whole("-1"), is_whole("")
    (True, False, False, False, False)
    """
    return text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS
