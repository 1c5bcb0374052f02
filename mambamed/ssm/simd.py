"""Explicit SIMD for numba: a vector type, and functions on it that emit LLVM instructions.

numba vectorizes only simple loops, unlike the scan. Here a kernel defines its vectors explicitly: `Lanes(w)`
is w float32 numbers in a register (w = 16 with AVX-512, 8 with AVX2 or NEON), passed through numba as an
opaque value. An **emitter** is a Python function that runs while numba compiles: it receives `Value`s,
computes with them by `+ - *` and the functions below, and thereby emits instructions. Its loops over states
are Python loops, and so are unrolled. `@emitter(returns)` makes it callable from compiled code.

Addresses are plain int64 in bytes; the caller ensures that they are valid.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

# numba's disk cache checks only the file of a kernel; kernels contain this number so that they are recompiled
# when the instructions emitted by these files change
_FILES = [Path(__file__).with_name(f"{name}.py").read_bytes() for name in ("simd", "lanes", "turned")]
STAMP = int.from_bytes(hashlib.sha256(b"".join(_FILES)).digest()[:6], "little")


def host_width() -> int:
    """Numbers in a vector register of this machine: 16 with AVX-512, else 8 (two NEON registers on ARM)."""
    features = llvm.get_host_cpu_features()
    return 16 if features.get("avx512f") and features.get("avx512vl") else 8


class Lanes(types.Type):
    """numba's name for a vector of `width` float32."""

    def __init__(self, width: int):
        self.width = width
        super().__init__(name=f"Lanes({width})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, lanes):
        super().__init__(manager, lanes, ir.VectorType(ir.FloatType(), lanes.width))


class Value:
    """An LLVM value inside an emitter: a vector of float32, or an integer address."""

    def __init__(self, builder: ir.IRBuilder, value: Any):
        self.builder, self.value = builder, value

    @property
    def width(self) -> int:
        return self.value.type.count

    def _like(self, other: Value | float) -> Any:
        return other.value if isinstance(other, Value) else ir.Constant(self.value.type, [other] * self.width)

    def __add__(self, other: Value | float) -> Value:
        return Value(self.builder, self.builder.fadd(self.value, self._like(other)))

    def __sub__(self, other: Value | float) -> Value:
        return Value(self.builder, self.builder.fsub(self.value, self._like(other)))

    def __mul__(self, other: Value | float) -> Value:
        return Value(self.builder, self.builder.fmul(self.value, self._like(other)))

    def __truediv__(self, other: Value) -> Value:
        return Value(self.builder, self.builder.fdiv(self.value, other.value))

    def call(self, name: str, *others: Value | float) -> Value:
        """The LLVM intrinsic `llvm.<name>` of this vector type."""
        arguments = [self.value, *(self._like(o) for o in others)]
        return self._call(f"llvm.{name}.v{self.width}f32", arguments)

    def _call(self, name: str, arguments: list[Any]) -> Value:
        kind = ir.FunctionType(self.value.type, [a.type for a in arguments])
        function = self.builder.module.declare_intrinsic(name, (), kind)
        return Value(self.builder, self.builder.call(function, arguments))

    def filled(self, number: float) -> Value:
        """A vector like this one with one number in all lanes."""
        return Value(self.builder, self._like(number))

    def shuffle(self, other: Value, lanes: list[int]) -> Value:
        """Lanes picked from this vector (0 ... w-1) and the other (w ... 2w-1)."""
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
        return Value(self.builder, self.builder.shuffle_vector(self.value, other.value, mask))

    def pick(self, table: list[float]) -> Value:
        """In each lane the number of the table at the index in the lane's lowest bits; AVX-512 only."""
        builder, floats = self.builder, self.value.type
        whole = ir.VectorType(ir.IntType(32), self.width)
        kind = ir.FunctionType(floats, [floats, whole])
        function = builder.module.declare_intrinsic("llvm.x86.avx512.permvar.sf.512", (), kind)
        places = builder.bitcast(self.value, whole)
        return Value(builder, builder.call(function, [ir.Constant(floats, table), places]))

    def at(self, stride: Value | int, count: int = 1) -> Value:
        """The address `count` times `stride` bytes after this one."""
        kind, builder = self.value.type, self.builder
        step = builder.mul(stride.value, kind(count)) if isinstance(stride, Value) else kind(stride * count)
        return Value(builder, builder.add(self.value, step))

    def load(self, width: int) -> Value:
        """`width` float32 from this address."""
        pointer = self.builder.inttoptr(self.value, ir.VectorType(ir.FloatType(), width).as_pointer())
        return Value(self.builder, self.builder.load(pointer, align=4))

    def broadcast(self, width: int) -> Value:
        """The float32 at this address in all lanes."""
        one = ir.VectorType(ir.FloatType(), 1)
        loaded = self.builder.load(self.builder.inttoptr(self.value, one.as_pointer()), align=4)
        mask = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
        return Value(self.builder, self.builder.shuffle_vector(loaded, loaded, mask))

    def store(self, vector: Value) -> None:
        """Write a vector to this address."""
        pointer = self.builder.inttoptr(self.value, vector.value.type.as_pointer())
        self.builder.store(vector.value, pointer, align=4)

    def prefetch(self, write: bool = False) -> None:
        """Prefetch the cache line at this address; an invalid address does no harm."""
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        function = self.builder.module.declare_intrinsic("llvm.prefetch.p0", (), kind)
        pointer = self.builder.inttoptr(self.value, byte)
        self.builder.call(function, [pointer, flag(int(write)), flag(3), flag(1)])


def fma(a: Value, b: Value | float, c: Value | float) -> Value:
    """a b + c, rounded once."""
    return a.call("fma", b, c)


# 2^f on [-1/2, 1/2] as 1 + f q(f). The constant is exactly 1 and q has a small *relative* error, so that a
# slow decay (f near 0) keeps its rate to 1e-7: a rounded constant would drift over long sequences. Error
# 1.7e-7.
_EXP2 = (
    0.6931471228599548,
    0.24022351205348969,
    0.05550500378012657,
    0.009666245430707932,
    0.0013333538081496954,
)
# (2^f - 1) / f on [-1/32, 1/32], relative error 1e-7: that of a slow decay's rate, as above
_EXP2_SIXTEENTH = (0.6931471802350329, 0.24023421248551266, 0.05550564501075779)
# log(1 + t) / t on [0, 1], minimax, relative error 3e-8
_LOG1P = (
    0.9999999698795607, -0.49999493140481666, 0.33319096807728577, -0.24842982215636722, 0.19106006769466954,
    -0.13663245814633895, 0.07822595212052133, -0.02950523892932803, 0.005232694302656411,
)  # fmt: skip
LOG2E = 1.4426950408889634


def _horner(xs: list[Value], coefficients: tuple[float, ...]) -> list[Value]:
    results = [fma(x, coefficients[-1], coefficients[-2]) for x in xs]
    for c in coefficients[-3::-1]:
        results = [fma(r, x, c) for r, x in zip(results, xs, strict=True)]
    return results


def exp2(xs: list[Value]) -> list[Value]:
    """2^x of several vectors; underflows to nearly 0 and overflows to nearly infinity without a slow path.

    Emitted instruction by instruction over all of them: the chain of dependent instructions of one vector
    takes some 40 cycles, more than a processor looks ahead to find other work.
    """
    builder = xs[0].builder
    if xs[0].width == 16:
        return _exp2_by_table(xs)
    # adding 1.5 * 2^23 leaves round(x) in the low bits; shifted by 23 they are an exponent
    magic = 12582912.0
    xs = [x.call("maxnum", -126.0).call("minnum", 126.0) for x in xs]
    shifted = [x + magic for x in xs]
    rests = [x - (s - magic) for x, s in zip(xs, shifted, strict=True)]
    mantissas = [fma(q, x, 1.0) for q, x in zip(_horner(rests, _EXP2), rests, strict=True)]
    whole = ir.VectorType(ir.IntType(32), xs[0].width)
    results = []
    for s, m in zip(shifted, mantissas, strict=True):
        exponent = builder.shl(builder.bitcast(s.value, whole), ir.Constant(whole, [23] * m.width))
        bits = builder.add(builder.bitcast(m.value, whole), exponent)
        results.append(Value(builder, builder.bitcast(bits, m.value.type)))
    return results


def _exp2_by_table(xs: list[Value]) -> list[Value]:
    """2^x = 2^(i/16) 2^f 2^k with AVX-512, where a register is a table of 16 and 2^k one instruction.

    The polynomial of 2^f is shorter by two terms; multiplications are the bottleneck.
    """
    sixteenths = 1.5 * 2**19  # adding it to x leaves round(16 x) in the low bits
    shifted = [x + sixteenths for x in xs]
    rounded = [s - sixteenths for s in shifted]
    rests = [x - r for x, r in zip(xs, rounded, strict=True)]
    roots = [s.pick([2 ** (i / 16) for i in range(16)]) for s in shifted]
    slopes = _horner(rests, _EXP2_SIXTEENTH)
    parts = [root * rest for root, rest in zip(roots, rests, strict=True)]
    mantissas = [fma(p, slope, root) for p, slope, root in zip(parts, slopes, roots, strict=True)]
    all_lanes, current_rounding = ir.Constant(ir.IntType(16), -1), ir.Constant(ir.IntType(32), 4)
    scale = "llvm.x86.avx512.mask.scalef.ps.512"  # by 2 to the power of floor(rounded)
    return [
        m._call(scale, [m.value, r.value, m.value, all_lanes, current_rounding])
        for m, r in zip(mantissas, rounded, strict=True)
    ]


def softplus(xs: list[Value]) -> list[Value]:
    """log(1 + e^x) = max(x, 0) + log(1 + e^-|x|): accurate to rounding for very negative x too."""
    small = exp2([x.call("fabs") * -LOG2E for x in xs])
    logs = _horner(small, _LOG1P)
    return [fma(r, s, x.call("maxnum", 0.0)) for r, s, x in zip(logs, small, xs, strict=True)]


def sigmoid(xs: list[Value]) -> list[Value]:
    """1 / (1 + e^-x)."""
    one = xs[0].filled(1.0)
    return [one / (power + 1.0) for power in exp2([x * -LOG2E for x in xs])]


class LaneSums:
    """Sums over lanes of two kinds of vectors, w/2 of each: lane i is that of the i-th of the first kind,
    lane w/2 + i of the i-th of the second.

    A butterfly of 2 shuffles and 1 addition per pair, first within the 128-bit quarters of a register (where
    shuffles are cheap), then among them; pairs are merged immediately, so that few are live at once.
    """

    def __init__(self, width: int):
        *self.levels, self.last = _butterfly(width)
        self.waiting: list[list[Value | None]] = [[None] * (len(self.levels) + 1) for _ in range(2)]

    def add(self, kind: int, vector: Value) -> None:
        """The next vector of a kind (0 or 1)."""
        waiting = self.waiting[kind]
        for level, (low, high) in enumerate(self.levels):
            first = waiting[level]
            if first is None:
                waiting[level] = vector
                return
            vector = first.shuffle(vector, low) + first.shuffle(vector, high)
            waiting[level] = None
        waiting[-1] = vector

    def total(self) -> Value:
        """All sums, once w/2 vectors of each kind were added."""
        first, second = (waiting[-1] for waiting in self.waiting)
        if first is None or second is None:
            raise ValueError("lanes are summed over w/2 vectors of each kind")
        low, high = self.last
        return first.shuffle(second, low) + first.shuffle(second, high)


def _butterfly(width: int) -> list[tuple[list[int], list[int]]]:
    """The two shuffles of each level."""

    def numbers(pattern: list[int]) -> list[int]:
        """Lanes 0-3 of the first vector, 4-7 of the second, the same in every quarter."""
        return [q + (i if i < 4 else width + i - 4) for q in range(0, width, 4) for i in pattern]

    def quarters(pattern: list[int]) -> list[int]:
        """Whole quarters: those of the first vector, then those of the second."""
        return [4 * quarter + i for quarter in pattern for i in range(4)]

    within = [(numbers([0, 4, 1, 5]), numbers([2, 6, 3, 7])), (numbers([0, 1, 4, 5]), numbers([2, 3, 6, 7]))]
    if width == 8:
        return [*within, (quarters([0, 2]), quarters([1, 3]))]
    return [
        *within,
        (quarters([0, 1, 4, 5]), quarters([2, 3, 6, 7])),
        (quarters([0, 2, 4, 6]), quarters([1, 3, 5, 7])),
    ]


def emitter(returns: Callable[..., types.Type]) -> Callable[[Callable], Callable]:
    """Make an emitter callable from compiled code.

    Its arguments are int64 addresses, literal ints (which arrive as Python ints), `Lanes`, or tuples of
    `Lanes` (which arrive as lists of `Value`). `returns` maps the argument types to the numba type of the
    result: void, `Lanes`, a tuple of `Lanes`, or a tuple of those.
    """

    def wrap(function: Callable) -> Callable:
        def build(context, *arguments):
            signature = returns(*arguments)(*arguments)

            def generate(target, builder, signature, values):
                received = [_receive(builder, t, v) for t, v in zip(signature.args, values, strict=True)]
                result = function(*received)
                return _send(target, builder, signature.return_type, result)

            return signature, generate

        # numba uses the parameters' names, which it would not find in *arguments
        parameters = ["context", *inspect.signature(function).parameters]
        build.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in parameters]
        )
        return intrinsic(prefer_literal=True)(build)

    return wrap


def _receive(builder: ir.IRBuilder, kind: types.Type, value: Any) -> Any:
    if isinstance(kind, types.IntegerLiteral):
        return kind.literal_value
    if isinstance(kind, types.UniTuple):
        return [Value(builder, builder.extract_value(value, i)) for i in range(kind.count)]
    return Value(builder, value)


def _send(target: Any, builder: ir.IRBuilder, kind: Any, result: Any) -> Any:
    if kind == types.void:
        return target.get_dummy_value()
    if isinstance(kind, types.BaseTuple):
        elements: Any = kind
        parts = [_send(target, builder, t, r) for t, r in zip(elements, result, strict=True)]
        return target.make_tuple(builder, kind, parts)
    return result.value
