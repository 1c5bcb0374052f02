"""The tasks `train`, `compile`, `exact`, `profile` and `loader` of `gpu_check.py`: steps of recipes."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from gpu_device import Here, kernels_of

from mambamed.batches.device_feed import on_device
from mambamed.batches.loader import batches_ahead, loader_threads
from mambamed.errors import MambamedError
from mambamed.progress import Silence
from mambamed.recipe import load_recipe
from mambamed.run.folder import create_run, planned_run
from mambamed.run.workplace import choose_workplace
from mambamed.training.deterministic import deterministic
from mambamed.training.fit import probe_step
from mambamed.training.imagined import ImaginedDataset
from mambamed.training.journal import SilentJournal
from mambamed.training.session import Session

RECIPES = {  # short name -> recipe, overrides
    "nnmamba": ("brats_nnmamba", ()),
    "nnunet": ("brats_nnunet", ()),
    "segmamba": ("brats_segmamba", ()),
    "umamba_bot": ("brats_umamba_bot", ()),
    "mamba_bi": ("msd_braintumor_mamba_bi", ()),
    "umamba_enc": ("brats_umamba_enc", ("network.patch_size={patch}",)),
}


@contextlib.contextmanager
def training(
    here: Here,
    name: str,
    precision: str,
    *,
    compile_steps: bool = False,
    changes: tuple[str, ...] = (),
    layout: Any = None,
) -> Iterator[tuple[Any, Any, Any, Any]]:
    """Session, state, loop and a batch of a recipe, on random numbers of its shapes."""
    recipe_name, overrides = RECIPES[name]
    precision = here.precision(precision)
    patch = f"[{here.edge},{here.edge},{here.edge}]"
    given = [f"training.patch_size={patch}", f"training.batch_size={here.batch}"]
    given += [text.format(patch=patch) for text in overrides] + [f"training.precision={precision}", *changes]
    recipe = load_recipe(recipe_name, given)
    place, _ = choose_workplace(str(here.device), precision, search=True)
    place = dataclasses.replace(
        place, compiled=compile_steps, **({} if layout is None else {"layout": layout})
    )
    dataset = ImaginedDataset(recipe)
    with tempfile.TemporaryDirectory() as folder:
        run = create_run(planned_run(recipe, dataset.plan, dataset.manifest, Path(folder) / "run"))
        session = Session(run, dataset, 0, place, Silence())  # type: ignore[arg-type]
        state, batch = session.fresh_state(), session.first_batch()
        yield session, state, session._loop(state, SilentJournal()), batch


def take_steps(here: Here, loop: Any, state: Any, batch: Any, count: int) -> tuple[list[float], list[float]]:
    """Seconds and losses of `count` training steps on one batch; NaN for a loss that was not finite."""
    seconds, losses = [], []
    for _ in range(count):
        before = state.counters.loss_sum, state.counters.loss_count
        here.wait()
        began = time.perf_counter()
        loop._take_step(itertools.repeat(batch))
        here.wait()
        loop._count()
        seconds.append(time.perf_counter() - began)
        state.counters.step += 1
        taken = state.counters.loss_count > before[1]
        losses.append(state.counters.loss_sum - before[0] if taken else math.nan)
    return seconds, losses


def train(here: Here, name: str, precision: str, setting: str = "") -> None:
    """Measure steps of a recipe, and compare their memory with the planner's estimates."""
    layout = torch.channels_last_3d if "channels_last" in setting else None
    changes = ("network.gradient_checkpointing=true",) if "checkpointed" in setting else ()
    estimates: dict[str, float] = {}
    here.free()
    with training(here, name, precision, layout=layout, changes=changes) as (session, state, loop, batch):
        if "no_benchmark" in setting:
            torch.backends.cudnn.benchmark = False  # the next session sets it anew
        if not setting and precision == "bf16":
            estimates = planner(here, session)
            here.free()
        seconds, losses = take_steps(here, loop, state, batch, 1 + here.steps)
        finite = state.is_finite()
        here.row(
            network=name, precision=session.place.precision, setting=setting,
            step_s=statistics.median(seconds[1:]), first_s=seconds[0], seconds=seconds, losses=losses,
            skipped=state.counters.skipped, finite=finite, **here.peaks(), **estimates,
            **({} if finite else {"fault": "weights are not finite"}),
        )  # fmt: skip


def planner(here: Here, session: Any) -> dict[str, float]:
    """The memory of a step according to `--fit`: by its estimate, and by its probe on the device."""
    run, place = session.run, session.place
    patch, batch = run.plan.patch_size, run.plan.batch_size
    no_device = dataclasses.replace(place, device=torch.device("cpu"))
    found = {"estimate_gib": probe_step(run.recipe, run.manifest, patch, batch, no_device)}
    if here.on_gpu:
        found["probe_gib"] = probe_step(run.recipe, run.manifest, patch, batch, place)
    return {name: round(value, 3) for name, value in found.items()}


def compiled(here: Here, name: str) -> None:
    """Measure training steps with torch.compile."""
    torch._dynamo.reset()
    with training(here, name, "bf16", compile_steps=True) as (_, state, loop, batch):
        seconds, losses = take_steps(here, loop, state, batch, 2 + here.steps)
        here.row(
            network=name, step_s=statistics.median(seconds[2:]), first_s=seconds[0], seconds=seconds,
            losses=losses, skipped=state.counters.skipped, **here.peaks(),
        )  # fmt: skip


def exact(here: Here, name: str) -> None:
    """Take two steps with --deterministic, twice: the same bits, or the operation without such a form."""
    ends = []
    try:
        for _ in range(2):
            with training(here, name, "bf16") as (_, state, loop, batch), deterministic(True):
                take_steps(here, loop, state, batch, 2)
                ends.append({k: v.clone() for k, v in state.network.state_dict().items()})
            here.free()
    except MambamedError as error:
        here.row(network=name, outcome=str(error)[:200])
        return
    same = all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])
    here.row(
        network=name,
        outcome="the same bits twice" if same else "different bits",
        **({} if same else {"fault": "two runs with --deterministic differ"}),
    )


PARTS = (  # the first one with a word in the kernel's name
    ("copy", ("memcpy", "copy_kernel", "copy_device", "tocopy", "CatArray", "ToNhwc", "ToNchw", "transpose")),
    (
        "scan",
        ("project", "chunk_states", "carry", "outputs", "chunk_adjoints", "gradients", "selective_scan"),
    ),
    ("convolution", ("conv", "cudnn", "xmma", "wgrad", "dgrad", "fprop", "implicit", "mkldnn_convolution")),
    ("product", ("gemm", "cutlass", "nvjet", "addmm", "::mm", "cublas", "matmul")),
    ("norm", ("norm", "batch_norm", "welford")),
    ("upsample", ("upsample",)),
    ("sum", ("reduce", "sum")),
    ("optimizer", ("multi_tensor", "adam", "foreach")),
    (
        "pointwise",
        ("elementwise", "vectorized", "triton_poi", "mul", "add", "silu", "relu", "index", "gather"),
    ),
)


def part_of(kernel: str) -> str:
    """The part of a network that a kernel belongs to."""
    name = kernel.lower()
    return next((part for part, words in PARTS if any(w.lower() in name for w in words)), "other")


def profile(here: Here, name: str) -> None:
    """Measure the time per kernel of a training step in bf16, and the time in which the device is idle."""
    with training(here, name, "bf16") as (_, state, loop, batch):
        take_steps(here, loop, state, batch, 3 if here.on_gpu else 1)
        steps = 2 if here.on_gpu else 1
        began = time.perf_counter()
        for _ in range(steps):
            loop._take_step(itertools.repeat(batch))
        here.wait()
        wall = (time.perf_counter() - began) / steps * 1000
        kinds = torch.profiler.ProfilerActivity
        with torch.profiler.profile(activities=[kinds.CUDA if here.on_gpu else kinds.CPU]) as watched:
            for _ in range(steps):
                loop._take_step(itertools.repeat(batch))
            here.wait()
    totals: dict[str, float] = {}
    calls = 0
    if here.on_gpu:
        for name_of_kernel, ms in kernels_of(watched):
            totals[name_of_kernel] = totals.get(name_of_kernel, 0) + ms / steps
            calls += 1
    else:
        for event in watched.key_averages():
            totals[event.key] = event.self_cpu_time_total / 1000 / steps
            calls += event.count
    busy = sum(totals.values())
    by_kind: dict[str, float] = {}
    for kernel, ms in totals.items():
        by_kind[part_of(kernel)] = by_kind.get(part_of(kernel), 0) + ms
    top = sorted(totals.items(), key=lambda item: -item[1])[:14]
    here.row(
        network=name, wall_ms=wall, busy_ms=busy, idle_share=round(max(0.0, 1 - busy / wall), 3),
        launches=calls // steps,
        by_kind={k: round(v, 2) for k, v in sorted(by_kind.items(), key=lambda item: -item[1])},
        top=[(k, v / busy, v) for k, v in top],
    )  # fmt: skip


def loader(here: Here) -> None:
    """Measure patches per second by number of threads, and nnMamba's step on these batches."""
    counts = (1, 2) if here.small else (2, 4, 8, 16)
    with training(here, "nnmamba", "bf16") as (session, state, loop, batch):
        for threads in counts:
            steps = max(4, 2 * threads)
            list(batches_ahead(session._sampler(0), session._reader(), 0, 1, threads))  # compiles
            began = time.perf_counter()
            for _ in batches_ahead(session._sampler(0), session._reader(), 0, steps, threads):
                pass
            rate = steps * here.batch / (time.perf_counter() - began)
            here.row(threads=threads, patches_s=round(rate, 2))
        seconds, _ = take_steps(here, loop, state, batch, 2 + here.steps)
        same = statistics.median(seconds[2:])
        for where in ("cpu", "gpu") if here.on_gpu else ("cpu",):
            session._augments_on_device = where == "gpu"
            seconds_fed = fed_step(here, session, loop)
            here.row(threads="as trained", augment_on=where, step_s_fed=seconds_fed, step_s_same_batch=same)


def fed_step(here: Here, session: Any, loop: Any) -> float:
    """Seconds of a step on batches that are read, copied and augmented as `Loop` does it."""
    steps, place = 4 if here.small else 24, session.place
    threads, pin = loader_threads(place.device, 1), place.device.type == "cuda"
    source = batches_ahead(session._sampler(0), session._reader(), 0, steps, threads, pin)
    feed = on_device(source, place.device, place.layout) if pin else source
    with contextlib.closing(feed) as batches:
        loop._take_step(iter([next(batches)]))
        here.wait()
        began, count = time.perf_counter(), 0
        for batch in batches:
            loop._take_step(iter([batch]))
            count += 1
        here.wait()
    return (time.perf_counter() - began) / count
