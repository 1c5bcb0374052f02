"""A stand-in for `python -m mambamed WORDS` in jobs, which starts at once; jobs themselves are the real ones.

`good` ends well, `bad` fails, `count FILE` counts to thirty in the file and goes on with --resume; told to
stop, it saves and exits with 130, as a training does.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = r"""#!/bin/bash
shift 2
case $1 in
good) echo "$*"; env | grep -E '^(SLURM_|OMP_)' | sort; exit 0;;
some) echo "mambamed: c1: is no image. Leave it out." >&2; exit 3;;
train | bad) echo "mambamed: r.yaml: wrong. Correct it." >&2; exit 2;;
killed) kill -9 $$;;
count)
  n=$(cat $2 2>/dev/null || echo 0)
  [ $n -gt 0 ] && [ "${@: -1}" != --resume ] && { echo "trained already" >&2; exit 2; }
  trap 'echo $n > $2; exit 130' TERM
  while [ $n -lt 30 ]; do
    sleep 0.1; n=$((n + 1)); echo $n > $2.now
    [ $((n % 10)) = 0 ] && echo $n > $2
  done;;
esac
"""
PYTHON = """#!/bin/bash
exec {python} -c '
import sys
sys.executable, sys.path[:0] = "{folder}/program", ["{root}"]
from mambamed.cluster.step import main
raise SystemExit(main(sys.argv[3:]))' "$@"
"""


def fake_python(folder: Path) -> str:
    """A program for `sys.executable` with which jobs run the stand-in."""
    folder.mkdir()
    texts = {"program": PROGRAM, "python": PYTHON.format(python=sys.executable, folder=folder, root=ROOT)}
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return str(folder / "python")
