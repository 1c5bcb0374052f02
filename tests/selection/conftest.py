"""Makes the small prepared dataset of the training tests available to tests of jobs."""

from tests.training.conftest import prepared as prepared
