"""Makes the small prepared dataset of the training tests available to tests that stop `train`."""

from tests.training.conftest import prepared as prepared
