"""Functions of tensors as recorded graphs of launches: one launch per call instead of one per operation.

A CUDA graph repeats the launches of a function on the same memory. Hence arguments are copied into buffers of
the graph, and results out of them into the caller's tensors: nothing that the caller holds is a buffer. A
function is recorded at the second call with the same key, and the first one launches its operations, so that
what is called once is not recorded. Where a function cannot be recorded, a line in the log says so.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

MOST = 32  # graphs that are kept
IDLE = 4096  # calls without a use after which a graph may be replaced: recording costs hundreds of calls

Function = Callable[..., Sequence[Tensor | None]]


@dataclass
class Recorded:
    """A recorded graph; `replay` computes its results from its arguments, which are None where they were."""

    arguments: list[Tensor | None]
    results: Sequence[Tensor | None]
    replay: Callable[[], None]
    used: int = 0  # number of the last call


class Graphs(ABC):
    """Calls functions through graphs that are recorded when they are needed.

    Calls from several threads are done one after the other. All graphs of a stream share their memory.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, Recorded | None] = OrderedDict()  # None: called once
        self._guard, self._calls = threading.RLock(), 0
        self._failed, self._told = False, set[str]()

    def __len__(self) -> int:
        return sum(each is not None for each in self._known.values())

    def run(
        self,
        key: Hashable,
        function: Function,
        arguments: Sequence[Tensor | None],
        targets: Sequence[Tensor | None],
        dtype: torch.dtype,
    ) -> bool:
        """Write the results of `function(*arguments)` to `targets` by a graph.

        Args:
            key: what `function` does in addition to its arguments.
            function: returns as many tensors or None as there are targets. It does not wait for the device,
                and changes none of its arguments.
            arguments: any dtype and strides; at least the first is a tensor.
            targets: any strides.
            dtype: in which the function gets its arguments.

        Returns: False if nothing was done; then the caller calls the function itself.
        """
        first = arguments[0]
        assert first is not None
        if self.busy():
            self._say("a graph is being recorded around the scan")
            return False
        shapes = tuple(None if t is None else tuple(t.shape) for t in arguments)
        mode = (dtype, torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision())
        key = (key, shapes, mode, first.device, self.stream(first.device))
        with self._guard:
            graph = self._graph(key, function, arguments, dtype)
            if graph is None:
                return False
            graph.used = self._calls
            for buffer, given in zip(graph.arguments, arguments, strict=True):
                if buffer is not None and given is not None:
                    buffer.copy_(given)
            graph.replay()
            for target, result in zip(targets, graph.results, strict=True):
                if target is not None and result is not None:
                    target.copy_(result)
        return True

    def _graph(
        self, key: Hashable, function: Function, arguments: Sequence[Tensor | None], dtype: torch.dtype
    ) -> Recorded | None:
        """The graph of a key, recorded if it is time to; None: call the function itself."""
        self._calls += 1
        if (known := self._known.get(key)) is not None:
            self._known.move_to_end(key)
            return known
        if key not in self._known:
            self._known[key] = None
            self._forget()
            return None
        if self._failed or not self._has_room():
            return None
        # Normal tensors also within torch.inference_mode: the graph may be used outside later.
        with torch.inference_mode(False), torch.no_grad():
            buffers = [None if t is None else t.new_zeros(t.shape, dtype=dtype) for t in arguments]
            try:
                results, replay = self.record(lambda: function(*buffers), buffers)
            except RuntimeError as error:
                self._failed = True
                self._say(f"recording it failed: {str(error).strip().partition(chr(10))[0]}")
                return None
        self._known[key] = Recorded(buffers, results, replay)
        self._known.move_to_end(key)
        return self._known[key]

    def _has_room(self) -> bool:
        """Whether another graph may be kept; the one that was not used for the longest time makes place."""
        if len(self) < MOST:
            return True
        oldest = next(key for key, each in self._known.items() if each is not None)
        graph = self._known[oldest]
        assert graph is not None
        if self._calls - graph.used <= IDLE:
            self._say(f"{MOST} graphs of other sizes are in use")
            return False
        del self._known[oldest]
        return True

    def _forget(self) -> None:
        """Forget the keys that were called once, the oldest first, beyond a number."""
        once = [key for key, each in self._known.items() if each is None]
        for key in once[: len(once) - 8 * MOST]:
            del self._known[key]

    def _say(self, why: str) -> None:
        if why not in self._told:
            self._told.add(why)
            log.warning("selective scan without a CUDA graph, one launch per operation: %s", why)

    @abstractmethod
    def busy(self) -> bool:
        """Whether the launches of this thread are being recorded by somebody else."""

    @abstractmethod
    def stream(self, device: torch.device) -> Hashable:
        """The queue in which this thread launches."""

    @abstractmethod
    def record(
        self, work: Callable[[], Sequence[Tensor | None]], buffers: Sequence[Tensor | None]
    ) -> tuple[Sequence[Tensor | None], Callable[[], None]]:
        """Record what `work` launches; its results, and what repeats it. RuntimeError if that fails."""


class CudaGraphs(Graphs):
    """CUDA graphs of torch."""

    def __init__(self) -> None:
        super().__init__()
        self._pools: dict[Hashable, tuple[torch.cuda.Stream, Any]] = {}

    def busy(self) -> bool:
        return torch.cuda.is_current_stream_capturing()

    def stream(self, device: torch.device) -> Hashable:
        return torch.cuda.current_stream(device).cuda_stream

    def record(self, work, buffers):
        device = next(t.device for t in buffers if t is not None)
        with torch.cuda.device(device):
            current = torch.cuda.current_stream()
            place = (device, current.cuda_stream)
            if place not in self._pools:
                self._pools[place] = (torch.cuda.Stream(), torch.cuda.graph_pool_handle())
            aside, pool = self._pools[place]
            aside.wait_stream(current)
            with torch.cuda.stream(aside):
                work()  # handles and work space of libraries, which cannot be recorded
            current.wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            try:
                # Other threads, e.g. NCCL's and those that load patches, may use the device meanwhile.
                with torch.cuda.graph(graph, pool=pool, stream=aside, capture_error_mode="thread_local"):
                    results = work()
            finally:
                torch.cuda.set_stream(current)  # torch stays on the other one if the recording fails
        return results, graph.replay
