"""Imported first: the made files of the tests of faults and the small runs of those of inference."""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "faults"), str(TESTS / "inference"), str(TESTS.parent)]
