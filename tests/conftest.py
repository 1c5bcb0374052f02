"""For all tests: on a continuous-integration machine, hypothesis draws the same examples every time."""

import os

from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("same")
