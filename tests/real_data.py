"""Where the real datasets lie that some tests read."""

import os
from pathlib import Path

DATA = Path(os.environ.get("MAMBAMED_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
