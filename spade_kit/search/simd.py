"""The inner loops of the searches, as vectors of sixteen lanes: products for bounds, differences for distances.

Written as explicit LLVM vectors, since a compiler on its own keeps the sums in memory: this is four to eight times as
fast as the same loops over arrays. LLVM splits a vector of sixteen into the registers of the processor. Products are
added with fused multiply-add where available ("contract"), and nothing else is relaxed: in each lane, channels are
summed in order.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from spade_kit.search.layout import CHUNK, SIMD_WIDTH, STEP

_FLOAT, _BITS, _WORD, _INT32 = ir.FloatType(), ir.IntType(SIMD_WIDTH), ir.IntType(64), ir.IntType(32)
_VECTOR = ir.VectorType(_FLOAT, SIMD_WIDTH)
_ZERO = ir.Constant(_VECTOR, [0.0] * SIMD_WIDTH)
_FUSED = ("contract",)


@intrinsic
def compare(context, terms, tile, lane, gallery, index, above, limits, sums, level):
    """Bound four query cells against sixteen gallery cells, and return which pairs may still win.

    ``terms`` (tiles, c, 16) holds the query cells in lanes ``lane`` to ``lane + 3`` of tile ``tile``; ``index`` is the
    number of a tile of ``gallery`` (.., c, 16). In Python::

        sums[level, e, j] = above[level, j] + sum(terms[tile, k, lane + e] * gallery[index, k, j] for k in range(c))

    and bit ``16 e + j`` of the return value is set where ``sums[level, e, j] <= limits[tile, lane + e]``.
    """
    del context
    signature = types.int64(terms, tile, lane, gallery, index, above, limits, sums, level)

    def generate(context, builder, signature, arguments):
        values = _Values(context, builder, signature, arguments)
        asked = values.address(0, values.integer(1), values.integer(2))
        held = values.address(3, values.integer(4))

        def add_products(row, totals):
            lanes = values.load(held, row, _VECTOR)
            return [
                builder.fadd(
                    total, builder.fmul(values.splat(values.load(asked, row, _FLOAT, e)), lanes, _FUSED), _FUSED
                )
                for e, total in enumerate(totals)
            ]

        def add_some(start, totals):
            """Sum in chunks: the error is far smaller than that of one long sum."""
            sums = values.loop(
                start, values.least(builder.add(start, _word(CHUNK)), channels), [_ZERO] * 4, add_products
            )
            return [builder.fadd(total, some) for total, some in zip(totals, sums)]

        channels = values.channels(3)
        totals = values.loop(_word(0), channels, [_ZERO] * 4, add_some, CHUNK)
        level = values.integer(8)
        above, sums = values.row(5, level), values.row(7, level)
        limits = values.row(6, values.integer(1), values.integer(2))
        bits = _word(0)
        for e, total in enumerate(totals):
            total = builder.fadd(total, values.load(above, _word(0), _VECTOR))
            builder.store(total, values.pointer(sums, _word(e * SIMD_WIDTH), _VECTOR), align=4)
            limit = values.splat(values.load(limits, _word(0), _FLOAT, e))
            hit = builder.bitcast(builder.fcmp_ordered("<=", total, limit), _BITS)
            bits = builder.or_(bits, builder.shl(builder.zext(hit, _WORD), _word(e * SIMD_WIDTH)))
        return bits

    return signature, generate


@intrinsic
def measure(context, query, tile, lane, gallery, index, first, last, sums, level):
    """The squared distances of one query cell to sixteen gallery cells, from differences, over some channels.

    Sums the squares of ``query[tile, k, lane] - gallery[index, k, j]`` over k from ``first`` to before ``last``, for
    every lane j, into ``sums[level, j]``. Equal cells are at distance 0; a pair gives the same result at any position.
    """
    del context
    signature = types.void(query, tile, lane, gallery, index, first, last, sums, level)

    def generate(context, builder, signature, arguments):
        values = _Values(context, builder, signature, arguments)
        asked = values.address(0, values.integer(1), values.integer(2))
        held = values.address(3, values.integer(4))

        def add_squares(row, totals):
            cell = values.splat(values.load(asked, row, _FLOAT))
            difference = builder.fsub(cell, values.load(held, row, _VECTOR))
            return [builder.fadd(totals[0], builder.fmul(difference, difference, _FUSED), _FUSED)]

        (total,) = values.loop(values.integer(5), values.integer(6), [_ZERO], add_squares)
        builder.store(total, values.pointer(values.row(7, values.integer(8)), _word(0), _VECTOR), align=4)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def sum_squares(context, query, cell, gallery, index):
    """The squared distance of two rows (.., c), with all axes but the last counted as one; c is a multiple of `STEP`.

    ``sum((query[cell] - gallery[index]) ** 2)``, always in the same order; equal rows are at distance 0.
    """
    del context
    signature = types.float32(query, cell, gallery, index)

    def generate(context, builder, signature, arguments):
        values = _Values(context, builder, signature, arguments)
        asked, held = values.line(0, values.integer(1)), values.line(2, values.integer(3))
        steps = builder.sdiv(values.width(2), _word(SIMD_WIDTH))

        def add_squares(row, totals):
            sums = []
            for lane, total in enumerate(totals):
                one, other = (values.load(cell, row, _VECTOR, lane * SIMD_WIDTH) for cell in (asked, held))
                difference = builder.fsub(one, other)
                sums.append(builder.fadd(total, builder.fmul(difference, difference, _FUSED), _FUSED))
            return sums

        one, two, three, four = values.loop(_word(0), steps, [_ZERO] * 4, add_squares, STEP // SIMD_WIDTH)
        return values.add_lanes(builder.fadd(builder.fadd(one, two), builder.fadd(three, four)))

    return signature, generate


@intrinsic
def borrow(context, value):
    """The same array, or tuple of arrays, without their reference counts, for which threads would contend.

    Valid only within a function, while its caller holds the arrays.
    """
    del context

    def generate(context, builder, signature, arguments):
        return _forget_owner(context, builder, signature.return_type, arguments[0])

    return value(value), generate


def _forget_owner(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    if isinstance(kind, types.Array):
        count = context.data_model_manager[kind].get_field_position("meminfo")
        return builder.insert_value(value, ir.Constant(value.type.elements[count], None), count)
    parts = [_forget_owner(context, builder, of, builder.extract_value(value, at)) for at, of in enumerate(kind)]
    return context.make_tuple(builder, kind, parts)


def _word(value: int) -> ir.Constant:
    return ir.Constant(_WORD, value)


class _Values:
    """The arguments of an intrinsic, and the instructions that all intrinsics use."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self.context, self.builder, self.types, self.arguments = context, builder, signature.args, arguments
        arrays = [kind for kind in self.types if isinstance(kind, types.Array)]
        if any(kind.layout != "C" or kind.dtype != types.float32 for kind in arrays):
            raise TypeError(f"Tiles must be contiguous float32 arrays; got {', '.join(map(str, arrays))}.")

    def _array(self, number: int) -> Any:
        return self.context.make_array(self.types[number])(self.context, self.builder, self.arguments[number])

    def integer(self, number: int) -> Any:
        return self.context.cast(self.builder, self.arguments[number], self.types[number], types.int64)

    def channels(self, number: int) -> Any:
        return self._shape(number)[-2]

    def width(self, number: int) -> Any:
        return self._shape(number)[-1]

    def address(self, number: int, tile: Any, lane: Any = None) -> Any:
        """The address of a lane in the first row of a tile."""
        size = self.builder.mul(self._shape(number)[-2], _word(SIMD_WIDTH))
        offset = self.builder.mul(tile, size)
        return self._start(number, offset if lane is None else self.builder.add(offset, lane))

    def row(self, number: int, at: Any, lane: Any = None) -> Any:
        """The address of an array's element ``[at]``, or of a lane in it."""
        offset = at
        for length in self._shape(number)[1:]:
            offset = self.builder.mul(offset, length)
        return self._start(number, offset if lane is None else self.builder.add(offset, lane))

    def line(self, number: int, at: Any) -> Any:
        """The address of an array's row, with all axes but the last counted as one."""
        return self._start(number, self.builder.mul(at, self.width(number)))

    def _start(self, number: int, offset: Any) -> Any:
        return self.pointer(self.builder.bitcast(self._array(number).data, _FLOAT.as_pointer()), offset, _FLOAT)

    def _shape(self, number: int) -> Any:
        return cgutils.unpack_tuple(self.builder, self._array(number).shape)

    def pointer(self, start: Any, offset: Any, kind: Any) -> Any:
        moved = self.builder.gep(start, [offset], source_etype=_FLOAT)
        return self.builder.bitcast(moved, kind.as_pointer())

    def load(self, start: Any, row: Any, kind: Any, lane: int = 0) -> Any:
        offset = self.builder.add(self.builder.mul(row, _word(SIMD_WIDTH)), _word(lane))
        return self.builder.load(self.pointer(start, offset, kind), typ=kind, align=4)

    def splat(self, value: Any) -> Any:
        """The same number in every lane."""
        first = self.builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.Constant(_INT32, 0))
        everywhere = ir.Constant(ir.VectorType(_INT32, SIMD_WIDTH), [0] * SIMD_WIDTH)
        return self.builder.shuffle_vector(first, ir.Constant(_VECTOR, ir.Undefined), everywhere)

    def add_lanes(self, vector: Any) -> Any:
        """The sum of all lanes: each half is added to the other."""
        width = SIMD_WIDTH
        while width > 1:
            width //= 2
            halves = (
                self.builder.shuffle_vector(
                    vector,
                    ir.Constant(vector.type, ir.Undefined),
                    ir.Constant(ir.VectorType(_INT32, width), list(range(start, start + width))),
                )
                for start in (0, width)
            )
            vector = self.builder.fadd(*halves)
        return self.builder.extract_element(vector, ir.Constant(_INT32, 0))

    def least(self, one: Any, other: Any) -> Any:
        return self.builder.select(self.builder.icmp_signed("<", one, other), one, other)

    def loop(self, first: Any, last: Any, totals: list, body: Any, step: int = 1) -> list:
        """``for row in range(first, last, step): totals = body(row, totals)``, at least once, totals in registers."""
        before = self.builder.block
        inside, after = (self.builder.append_basic_block(name) for name in ("channels", "summed"))
        self.builder.branch(inside)
        self.builder.position_at_end(inside)
        row, sums = self.builder.phi(_WORD), [self.builder.phi(_VECTOR) for _ in totals]
        added = body(row, sums)
        following = self.builder.add(row, _word(step))
        for value, start, end in zip([row, *sums], [first, *totals], [following, *added]):
            value.add_incoming(start, before)
            value.add_incoming(end, self.builder.block)
        self.builder.cbranch(self.builder.icmp_signed("<", following, last), inside, after)
        self.builder.position_at_end(after)
        return added
