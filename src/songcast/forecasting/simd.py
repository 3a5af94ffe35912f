"""Vectors of 4 float64 in compiled code.

Numba leaves vectorisation to LLVM, which does not vectorise short and ragged loops well, nor loops
over arrays that may overlap. The kernels of linear algebra therefore name their vectors. LLVM
translates them for any processor.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 4
_LLVM_VECTOR = ir.VectorType(ir.DoubleType(), LANES)


class _Vector(types.Type):
    def __init__(self) -> None:
        super().__init__(name="Vector")


_VECTOR = _Vector()


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _LLVM_VECTOR)


def padded(count: int) -> int:
    """Return ``count`` rounded up to whole vectors.

    >>> padded(23), padded(24)
    (24, 24)
    """
    return -(-count // LANES) * LANES


def _pointer(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, args[0])
    return builder.bitcast(builder.gep(array.data, [args[1]]), _LLVM_VECTOR.as_pointer())


@intrinsic
def load(_context: Any, array: Any, _index: Any) -> Any:
    """Return the vector that begins at ``array[index]``; ``array`` is flat and contiguous."""

    def generate(*where: Any) -> Any:
        return where[1].load(_pointer(*where), align=8)

    return _VECTOR(array, types.int64), generate


@intrinsic
def store(_context: Any, array: Any, _index: Any, _vector: Any) -> Any:
    """Write a vector to ``array[index]`` and the elements after it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _pointer(context, builder, signature, args), align=8)
        return context.get_dummy_value()

    return types.none(array, types.int64, _VECTOR), generate


@intrinsic
def splat(_context: Any, _value: Any) -> Any:
    """Return a vector of four times the same number."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        vector = ir.Constant(_LLVM_VECTOR, ir.Undefined)
        for lane in range(LANES):
            vector = builder.insert_element(vector, args[0], cgutils.int32_t(lane))
        return vector

    return _VECTOR(types.float64), generate


@intrinsic
def multiply_add(_context: Any, _a: Any, _b: Any, _c: Any) -> Any:
    """Return ``a * b + c``, in one instruction where the processor has one."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        product = builder.fmul(args[0], args[1], flags=("contract",))
        return builder.fadd(product, args[2], flags=("contract",))

    return _VECTOR(_VECTOR, _VECTOR, _VECTOR), generate


@intrinsic
def total(_context: Any, _vector: Any) -> Any:
    """Return the sum of a vector."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        lanes = [builder.extract_element(args[0], cgutils.int32_t(i)) for i in range(LANES)]
        pairs = [builder.fadd(lanes[i], lanes[i + 2]) for i in range(2)]
        return builder.fadd(*pairs)

    return types.float64(_VECTOR), generate
