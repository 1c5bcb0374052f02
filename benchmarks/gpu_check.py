"""Correctness, speed and memory of mambamed on a CUDA device, in one run of about eight minutes.

    python benchmarks/gpu_check.py OUT                        # a CUDA device
    python benchmarks/gpu_check.py OUT --device cpu --small   # the same code on a CPU, with tiny shapes
    python benchmarks/gpu_check.py OUT --list                 # the tasks, in the order in which they run
    python benchmarks/gpu_check.py OUT --only agree speed     # tasks whose names begin with one of these

Tasks, the most important ones first. Tasks that do not fit into the time are reported as such:

    machine     device, versions, and three ceilings measured in this run: copy, bf16 product, exp2
    agree       every scan backend and its gradients compared with a float64 scan on the CPU: short and long
                sequences, bf16 and fp16, the types and views of a Mamba block under autocast, reversed; and
                whether a second run gives the same bits
    fused       the fused kernels of a Mamba block, both directions, compared with float64 on the CPU
    peer        some of `agree` for the kernels of mamba_ssm, where they are installed
    speed       forward and backward of the scan at the shapes of the networks, compared with mamba_ssm and
                mambapy where they are installed, and with two lower limits: bytes and exponentials
    captured    the scan without Triton, with one launch per operation and by recorded CUDA graphs
    tune        each Triton kernel, and the scan with other numbers of chunks
    train       steps of whole recipes by the training loop: seconds, peak memory and the planner's estimates,
                losses, skipped steps; bf16, fp16, fp32; with gradient checkpointing; other settings of cuDNN
    profile     one training step: time per kernel, fraction of the time in which the device is idle
    block       the parts of a Mamba block: convolution, projections, scan
    loader      patches per second by number of threads, and a training step on these batches
    predict     a case of 240x240x155 on the device and on the CPU: equal labels, memory; with little memory
    exact       two steps with --deterministic
    compile     training steps with torch.compile

On a CUDA device, several processes first compile the Triton kernels at the same time (WARM). The seconds of a
first step (`first_s`) are those with a warm cache; the time of compiling is printed separately.
Tasks run one after the other in a child process. If a task ends the process (illegal address, no memory) or
exceeds its time, another child continues with the next task. Rows are appended to OUT/rows.jsonl as they are
measured, and written to OUT/gpu_check.json at the end, when short tables are printed, the last one of the
goals. The exit code is 1 if a task failed, but not if a goal is missed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from gpu_rows import append_row, show

CHECKOUT = Path(__file__).resolve().parents[1]
FULL_SECONDS, CPU_SECONDS = 470, 3600  # for all tasks
TASK_SECONDS = {"compile": 100, "predict": 90, "train": 100}  # limit per task; 60 for the others
CPU_FACTOR = 10  # of these limits on a CPU
WARM_SECONDS = 130
# The tasks of processes that compile at the same time: Triton compiles a set of kernels per kind of numbers
# and state size, which takes seconds each.
WARM = (
    ("agree",),
    ("speed",),
    ("train:nnmamba:bf16",),
    ("train:segmamba:bf16",),
    ("train:mamba_bi:bf16",),
    ("train:umamba_enc:bf16",),
    ("train:nnmamba:fp16",),
    ("train:nnmamba:fp32",),
)
# After these errors a device cannot be used by the same process.
DEVICE_IS_LOST = ("illegal memory access", "device-side assert", "unspecified launch failure", "misaligned")
FRESH = ("exact", "predict_bounded", "speed:0")  # tasks that start in a new process

KINDS = {  # first part of a task's name -> module and function; the other parts are its arguments
    "machine": "gpu_device:machine",
    "agree": "gpu_scan:agree",
    "peer": "gpu_scan:peer",
    "fused": "gpu_scan:fused_agrees",
    "speed": "gpu_scan:speed",
    "captured": "gpu_scan:captured",
    "tune": "gpu_scan:tune",
    "train": "gpu_training:train",
    "compile": "gpu_training:compiled",
    "exact": "gpu_training:exact",
    "profile": "gpu_training:profile",
    "loader": "gpu_training:loader",
    "block": "gpu_scan:block",
    "predict": "gpu_prediction:predict",
    "predict_bounded": "gpu_prediction:predict_bounded",
}
NETWORKS = ("nnmamba", "nnunet", "segmamba", "umamba_bot", "mamba_bi")  # see `gpu_training.RECIPES`
AGREE, SPEED = range(8), range(7)  # indices of shapes in gpu_scan
AGREE_SMALL, SPEED_SMALL = range(3), range(1)


def tasks_of(small: bool) -> list[str]:
    """Names of all tasks in the order in which they run."""
    speed = SPEED_SMALL if small else SPEED
    tasks = ["machine"]
    tasks += [f"agree:{n}" for n in (AGREE_SMALL if small else AGREE)]
    tasks += [f"fused:{states}" for states in ((8,) if small else (8, 16, 64, 256))]
    tasks += [f"train:{name}:bf16" for name in NETWORKS]
    tasks += ["profile:nnmamba", "profile:segmamba", "profile:mamba_bi", "block:32"]
    tasks += [f"speed:{n}" for n in speed]
    tasks += [f"peer:{n}" for n in (SPEED_SMALL if small else (0, 1, 3))]
    tasks += [f"captured:{n}" for n in (SPEED_SMALL if small else (0, 1, 2))]
    tasks += [f"tune:{n}" for n in (SPEED_SMALL if small else (0, 1, 2, 4))]
    tasks += ["predict", "loader"]
    tasks += [f"train:{name}:{kind}" for name in NETWORKS for kind in ("fp16", "fp32")]
    tasks += ["train:umamba_enc:bf16", "train:segmamba:bf16:checkpointed"]
    for setting in ("no_benchmark", "channels_last", "channels_last+no_benchmark"):
        tasks += [f"train:{name}:bf16:{setting}" for name in ("nnmamba", "nnunet", "segmamba")]
    tasks += ["exact:nnunet", "exact:nnmamba", "predict_bounded"]
    tasks += [f"compile:{name}" for name in NETWORKS]
    return [task for task in tasks if not small or has_form_on_cpu(task)]


def has_form_on_cpu(task: str) -> bool:
    """Whether a task is in the short run: without settings of a GPU, and without what runs the same code."""
    kind, *arguments = task.split(":")
    if kind == "predict_bounded" or {"fp16", "fp32"} & {*arguments} or "no_benchmark" in task:
        return False
    repeated = kind in ("profile", "compile", "exact") or "channels_last" in task
    return not repeated or "nnmamba" in arguments


def run_all(options: argparse.Namespace) -> int:
    """Run the tasks in children, and print what they found; returns the exit code."""
    wanted = tasks_of(options.small)
    if options.only:
        wanted = [task for task in wanted if task.startswith(tuple(options.only))]
    if options.list:
        print("\n".join(wanted))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    rows_file = options.out / "rows.jsonl"
    rows_file.write_text("")
    deadline = time.monotonic() + options.seconds
    left = list(wanted)
    if options.device == "cuda" and not options.only:
        warm(wanted, options)
    while left and time.monotonic() < deadline:
        count = next((i for i, task in enumerate(left) if i and task.startswith(FRESH)), len(left))
        left = run_child(left[:count], left[count:], rows_file, deadline, options)
    for task in left:
        append_row(rows_file, {"task": task, "fault": "no time left"})
    rows = [row for row in rows_of(rows_file) if "begun" not in row]
    (options.out / "gpu_check.json").write_text(json.dumps(rows, indent=1))
    show(rows)
    return 0 if all(row.get("fault", "no time left") == "no time left" for row in rows) else 1


def warm(tasks: list[str], options: argparse.Namespace) -> None:
    """Fill Triton's cache by several processes; their rows go to a temporary folder."""
    began = time.monotonic()
    children = []
    with tempfile.TemporaryDirectory() as parent:
        for number, names in enumerate(WARM):
            group = [task for task in tasks if task in names or task.partition(":")[0] in names]
            if not group:
                continue
            folder = Path(parent) / str(number)
            folder.mkdir()
            with (folder / "log").open("w") as log:
                children.append(
                    subprocess.Popen(
                        child_command(group, folder, options),
                        stdout=log,
                        stderr=log,
                        env={**os.environ, "OMP_NUM_THREADS": "2"},
                    )
                )
        while any(child.poll() is None for child in children) and time.monotonic() - began < WARM_SECONDS:
            time.sleep(0.5)
        for child in children:
            child.kill()
            child.wait()
    codes = [child.returncode for child in children]
    print(f"compiled for {time.monotonic() - began:.0f} s in {len(children)} processes, exit codes {codes}")


def child_command(group: list[str], folder: Path, options: argparse.Namespace) -> list[str]:
    """The command of a process that runs a group of tasks and writes its rows to a folder."""
    command = [sys.executable, str(Path(__file__).resolve()), str(folder), "--device", options.device]
    command += ["--checkout", str(options.checkout), "--child", *group]
    return [*command, "--small"] if options.small else command


def run_child(
    group: list[str], rest: list[str], rows_file: Path, deadline: float, options: argparse.Namespace
) -> list[str]:
    """Run a group of tasks in a child, killed if it exceeds its time; returns the tasks left to do."""
    child = subprocess.Popen(child_command(group, options.out, options))
    killed = ""
    while child.poll() is None and not killed:
        time.sleep(0.3)
        task, since = running_task(rows_file, group)
        limit = TASK_SECONDS.get(task.partition(":")[0].partition("_")[0], 60)
        limit *= CPU_FACTOR if options.device == "cpu" else 1
        if time.monotonic() > deadline:
            killed = "no time left"
        elif since is not None and time.time() - since > limit:
            killed = f"took more than {limit} s"
    if killed:
        child.kill()
        child.wait()
    rows = rows_of(rows_file)
    started = [row["task"] for row in rows if "begun" in row and row["task"] in group]
    done = {row["task"] for row in rows if "done" in row}
    for task in started:
        if task not in done:
            fault = killed or f"its process ended with code {child.returncode}"
            append_row(rows_file, {"task": task, "fault": fault, "done": True})
    if not started and child.returncode:  # not even the first task was started
        append_row(rows_file, {"task": group[0], "fault": f"child ended with code {child.returncode}"})
        started = group[:1]
    return [task for task in group if task not in started] + rest


def running_task(rows_file: Path, group: list[str]) -> tuple[str, float | None]:
    """The task that the child is running, and when it began."""
    rows = rows_of(rows_file)
    begun = [row for row in rows if "begun" in row and row["task"] in group]
    if not begun or any("done" in row and row["task"] == begun[-1]["task"] for row in rows):
        return "", None
    return begun[-1]["task"], begun[-1]["begun"]


def rows_of(rows_file: Path) -> list[dict[str, Any]]:
    """The rows that are completely written."""
    return [json.loads(line) for line in rows_file.read_text().splitlines() if line.endswith("}")]


def run_tasks(options: argparse.Namespace) -> int:
    """Run the tasks of a child, one after the other; returns its exit code."""
    sys.path[:0] = [str(options.checkout), str(options.checkout / "tests" / "ssm")]
    from gpu_device import Here

    here = Here(options.device, options.small, options.out)
    rows_file = options.out / "rows.jsonl"
    for task in options.child:
        kind, *arguments = task.split(":")
        here.task = task
        append_row(rows_file, {"task": task, "begun": time.time()})
        began, lost = time.monotonic(), False
        module, _, function = KINDS[kind].partition(":")
        try:
            getattr(importlib.import_module(module), function)(here, *arguments)
        except Exception as error:
            first = str(error).strip().partition("\n")[0]
            here.row(fault=f"{type(error).__name__}: {first}"[:400], traceback=traceback.format_exc()[-1500:])
            lost = any(words in str(error) for words in DEVICE_IS_LOST)
        append_row(rows_file, {"task": task, "done": True, "took_s": round(time.monotonic() - began, 1)})
        if lost:
            return 3
        here.free()
    return 0


def main() -> int:
    """Read the options, and run as parent or child."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="folder for rows.jsonl and gpu_check.json")
    parser.add_argument("--checkout", type=Path, default=CHECKOUT, help="a source checkout of mambamed")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny shapes, to test this program")
    parser.add_argument("--seconds", type=float, help=f"limit for all tasks (default: {FULL_SECONDS})")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="tasks whose names begin with NAME")
    parser.add_argument("--list", action="store_true", help="list the tasks")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out, options.checkout = options.out.resolve(), options.checkout.resolve()
    options.seconds = options.seconds or (FULL_SECONDS if options.device == "cuda" else CPU_SECONDS)
    return run_tasks(options) if options.child else run_all(options)


if __name__ == "__main__":
    sys.exit(main())
