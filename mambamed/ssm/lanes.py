"""Building blocks of all kernels of the `cpu` backend: rows of vectors, the task queue, prefetches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import cfunc, types

from mambamed.numba_cache import with_cache
from mambamed.ssm.simd import Lanes, Value, emitter

FLOAT = 4  # bytes


def _rows(address, stride, width, count):
    return types.UniTuple(Lanes(width.literal_value), count.literal_value)


@emitter(_rows)
def load_rows(address: Value, stride: Value, width: int, count: int) -> list[Value]:
    """`count` vectors, `stride` bytes apart."""
    return [address.at(stride, n).load(width) for n in range(count)]


@emitter(lambda address, stride, rows: types.void)
def store_rows(address: Value, stride: Value, rows: list[Value]) -> None:
    """The inverse of `load_rows`."""
    for n, row in enumerate(rows):
        address.at(stride, n).store(row)


@emitter(lambda address, width: types.void)
def store_zero(address: Value, width: int) -> None:
    """One vector of zeros."""
    kind = ir.VectorType(ir.FloatType(), width)
    address.store(Value(address.builder, ir.Constant(kind, [0.0] * width)))


@emitter(lambda address, write: types.void)
def prefetch(address: Value, write: int) -> None:
    """Prefetch a cache line; an invalid address does no harm."""
    address.prefetch(bool(write))


@emitter(lambda table, stamp: types.int64)
def next_task(table: Value, stamp: int) -> Value:
    """Address of the arguments of a task that no other thread has taken, 0 if none is left.

    The table is described in `mambamed.ssm.cpu_threads`. `stamp` is written into it to be part of the code.
    """
    builder, kind = table.builder, table.value.type

    def field(n: int):
        return builder.inttoptr(table.at(8 * n).value, kind.as_pointer())

    builder.store(kind(stamp), field(3))
    number = builder.atomic_rmw("add", field(0), kind(1), "monotonic")
    address = builder.add(table.at(8 * 4).value, builder.mul(number, builder.load(field(2))))
    left = builder.icmp_signed("<", number, builder.load(field(1)))
    return Value(builder, builder.select(left, address, kind(0)))


@emitter(lambda address, count: types.UniTuple(types.int64, count.literal_value))
def load_arguments(address: Value, count: int) -> list[Value]:
    """The int64 arguments of a task."""
    builder, kind = address.builder, address.value.type
    fields = [builder.inttoptr(address.at(8 * n).value, kind.as_pointer()) for n in range(count)]
    return [Value(builder, builder.load(field)) for field in fields]


def compile_kernel(function: Callable) -> Any:
    """Compile a kernel (a function of the table's address), or load it from numba's cache on disk."""

    def make(cache: bool) -> Any:
        return cfunc("void(int64)", cache=cache, error_model="numpy")(function)

    return with_cache(make, function.__name__)


_kernels: list[Any] = []


def keep_kernel(kernel: Any) -> int:
    """The address of a compiled kernel, whose machine code is kept until the process ends."""
    _kernels.append(kernel)
    return kernel.address
