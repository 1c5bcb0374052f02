"""The prepared boxes of the tests of training."""

from tests.training.conftest import prepared

__all__ = ["prepared"]
