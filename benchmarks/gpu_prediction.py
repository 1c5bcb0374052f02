"""The tasks `predict` and `predict_bounded` of `gpu_check.py`: sliding windows on a device and on the CPU."""

from __future__ import annotations

import copy
import statistics
import time
from typing import Any

import numpy as np
import torch
from gpu_device import Here
from gpu_training import training
from torch.nn import functional

from mambamed.errors import MambamedError
from mambamed.geometry import orientation_of
from mambamed.preparation.grid import CaseGeometry
from mambamed.run.device import autocast
from mambamed.volumes.restore import labels_of_slabs
from mambamed.volumes.sliding_window import Windows, window_slabs

SAME_LABELS = 0.9995  # share of the voxels


def learned(here: Here) -> tuple[Any, Any, Any]:
    """A network trained for seconds, its session, and a case with its labels.

    The structures are where a smooth random field is above a threshold. Few voxels are close to a threshold,
    so that labels of two devices can be compared.
    """
    steps = 6 if here.small else 60

    def field(shape: tuple[int, ...], seed: int) -> Any:
        random = torch.Generator().manual_seed(seed)
        coarse = torch.randn(1, 1, *(max(2, n // 16) for n in shape), generator=random).to(here.device)
        fine = functional.interpolate(coarse, shape, mode="trilinear")[0, 0]
        return (fine - fine.mean()) / fine.std()

    def case(shape: tuple[int, ...], seed: int) -> tuple[Any, Any]:
        smooth = field(shape, seed)
        noise = torch.randn(4, *shape, generator=torch.Generator().manual_seed(seed))
        image = 0.3 * noise.to(here.device) + smooth
        label = (smooth > 0.3).long() + (smooth > 0.8).long() + (smooth > 1.3).long()
        return image, label

    with training(here, "nnmamba", "bf16") as (session, state, _, _):
        network = state.network.train()
        optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
        losses = []
        for step in range(steps):
            pairs = [case((here.edge,) * 3, 2 * step + i) for i in range(2)]
            image, label = torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])
            with autocast(here.device, session.place.precision):
                outputs = network(image)
            loss = session.task.loss(outputs, session.task.encode(label, image.shape[2:]))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
            optimizer.step()
            losses.append(float(loss.detach()))
    here.row(learned=True, first_loss=losses[0], last_loss=statistics.mean(losses[-3:]), steps=steps)
    if not here.small and not losses[-1] < 0.8 * losses[0]:
        here.row(fault=f"the loss did not fall: {losses[0]:.3f} to {losses[-1]:.3f}")
    torch.backends.cudnn.benchmark = False  # as `predict` has it
    shape = (40, 44, 36) if here.small else (240, 240, 155)
    return network.eval(), session, case(shape, 12345)


def predicted(
    here: Here, network: Any, session: Any, image: Any, device: torch.device, precision: str
) -> tuple[Any, int, list[str]]:
    """Labels of a case as `mambamed predict` chooses them, the number of windows, and the messages."""
    said: list[str] = []
    counts: list[int] = []
    shape = tuple(image.shape[1:])
    rows = tuple(map(tuple, np.eye(4).tolist()))
    geometry = CaseGeometry(shape, rows, orientation_of(np.eye(4)), (0, 0, 0), shape, shape)

    batch = here.batch if device.type == "cuda" else 1
    windows = Windows((here.edge, here.edge, here.edge), batch_size=batch)
    slabs = window_slabs(
        [network],
        image.cpu(),
        windows,
        device=device,
        precision=precision,
        resident=True,
        on_progress=lambda done, total: counts.append(total),
        on_message=said.append,
    )
    return labels_of_slabs(slabs, geometry, session.task), counts[0], said


def predict(here: Here) -> None:
    """Compare the labels of one case on the device, in each precision, with those of the CPU in fp32."""
    network, session, (image, _) = learned(here)
    on_cpu = copy.deepcopy(network).to("cpu")
    began = time.perf_counter()
    wanted, _, _ = predicted(here, on_cpu, session, image, torch.device("cpu"), "fp32")
    cpu_seconds = time.perf_counter() - began
    tf32 = torch.backends.cudnn.allow_tf32
    for precision in ("fp32", "fp32, no TF32", "bf16", "fp16") if here.on_gpu else (here.precision("bf16"),):
        torch.backends.cudnn.allow_tf32 = tf32 and "no TF32" not in precision
        kind = precision.partition(",")[0]
        predicted(here, network, session, image, here.device, kind)
        here.free()
        began = time.perf_counter()
        labels, windows, _ = predicted(here, network, session, image, here.device, kind)
        seconds = time.perf_counter() - began
        same = float((labels == wanted).mean())
        here.row(
            precision=precision, seconds=seconds, windows=windows, same_label=round(same, 6),
            labels=len(set(wanted.ravel()[::97].tolist())), cpu_seconds=cpu_seconds, **here.peaks(),
            **({} if same >= SAME_LABELS else {"fault": f"only {same:.4%} of the labels are the CPU's"}),
        )  # fmt: skip
    torch.backends.cudnn.allow_tf32 = tf32


def predict_bounded(here: Here) -> None:
    """Predict with little memory: smaller batches, then the sum on the CPU, and the same labels."""
    network, session, (image, _) = learned(here)
    wanted, _, _ = predicted(here, network, session, image, here.device, "bf16")
    whole = torch.cuda.get_device_properties(0).total_memory
    here.free()
    predicted(here, network, session, image, here.device, "bf16")
    peak = torch.cuda.max_memory_reserved()
    for share in (0.75, 0.5):
        here.free()
        torch.cuda.set_per_process_memory_fraction(share * peak / whole)
        try:
            labels, _, said = predicted(here, network, session, image, here.device, "bf16")
            same = float((labels == wanted).mean())
            here.row(
                limit_gib=round(share * peak / 2**30, 2), said=said, same_label=same,
                **({} if same >= SAME_LABELS else {"fault": f"only {same:.4%} of the labels are the same"}),
            )  # fmt: skip
        except MambamedError as error:  # the windows do not fit at all
            here.row(limit_gib=round(share * peak / 2**30, 2), said=[str(error)[:150]])
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
