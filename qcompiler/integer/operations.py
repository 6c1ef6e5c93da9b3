"""What operations compute: one class per kind of work, whose fields are the integers that a kernel is called with.

Conventions, for all kinds:

* Image tensors are [N, H, W, C]; one-dimensional ones have H = 1. Filters are [O, KH, KW, I / groups], depthwise filters
  [1, KH, KW, O], matrices [O, I].
* `input_offset` is added to what is read (minus its zero point), `output_offset` to what is written (its zero point).
* `low` and `high` clamp what is written, in its own codes: the activation, and the format's ends.
* A `Rescale` stands for a real factor `multiplier / 2**31 * 2**shift`.
* int16 tensors have zero point 0; what is accumulated of them is 64 bits wide where a class says so.
* Floats are their own codes: of scale 1 and zero point 0, with factors of 1, and infinite `low` and `high` where nothing is
  clamped. Weights of floats may be codes, which then stand for the numbers.

Sources of the arithmetic: TensorFlow Lite's quantization specification and reference kernels, and CMSIS-NN, which agree but
for what `rounding` tells apart. `qcompiler.integer.evaluate` states each formula.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.fixed_point import Rescale


@dataclass(frozen=True, eq=False)
class Work:
    """The base of all kinds."""


@dataclass(frozen=True, eq=False)
class Convolution(Work):
    """Inputs: x, filter, bias (int32, or int64 with int16 activations). A transposed convolution is one with `upscale`.

    Attributes:
        strides: Rows, columns; so are the other pairs.
        dilations: Steps between the taps of the filter.
        pads: Top, left, bottom, right; what is outside contributes nothing.
        groups: Groups of input channels.
        rescale: Of the accumulators, one factor per output channel.
        input_offset: The input's zero point, negative; 0 for int16.
        output_offset: The output's zero point.
        low: Lowest code that is written.
        high: Highest code that is written.
        upscale: The input is read as if `upscale - 1` zeros (of value) stood behind each row and column.
    """

    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    groups: int
    rescale: Rescale
    input_offset: int
    output_offset: int
    low: float
    high: float
    upscale: tuple[int, int] = (1, 1)


@dataclass(frozen=True, eq=False)
class DepthwiseConvolution(Work):
    """Inputs: x, filter [1, KH, KW, C * multiplier], bias. Output channel = input channel * multiplier + m.

    Attributes:
        multiplier: Output channels per input channel.
        strides: Rows, columns.
        dilations: Steps between the taps of the filter: rows, columns.
        pads: Top, left, bottom, right; what is outside contributes nothing.
        rescale: Of the accumulators, one factor per output channel.
        input_offset: The input's zero point, negative.
        output_offset: The output's zero point.
        low: Lowest code that is written.
        high: Highest code that is written.
    """

    multiplier: int
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    rescale: Rescale
    input_offset: int
    output_offset: int
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class FullyConnected(Work):
    """Inputs: x [..., I], matrix [O, I], bias [O]; y = x times the matrix transposed.

    Attributes:
        rescale: One factor, or one per output.
        input_offset: The input's zero point, negative.
        output_offset: The output's zero point.
        low: Lowest code that is written.
        high: Highest code that is written.
    """

    rescale: Rescale
    input_offset: int
    output_offset: int
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class MatrixProduct(Work):
    """Inputs: a [..., M, K], b [..., N, K] (transposed, leading dimensions equal); both computed or constant. y [..., M, N].

    Attributes:
        rescale: One factor.
        input_offset: Of a.
        other_offset: Of b.
        output_offset: The output's zero point.
        low: Lowest code that is written.
        high: Highest code that is written.
    """

    rescale: Rescale
    input_offset: int
    other_offset: int
    output_offset: int
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Addition(Work):
    """Inputs: a, b, of equal rank, broadcast against each other; y = a + sign * b.

    y = clamp(output(first((a + offset) << left_shift) + sign * second((b + offset) << left_shift)) + output_offset).

    Attributes:
        sign: 1, or -1 for a subtraction.
        left_shift: 20 for int8, 15 for int16.
        first: Factor of a.
        second: Factor of b.
        output: Factor of the sum.
        input_offset: Of a.
        other_offset: Of b.
        output_offset: The output's zero point.
        low: Lowest code that is written.
        high: Highest code that is written.
    """

    sign: Literal[1, -1]
    left_shift: int
    first: Rescale
    second: Rescale
    output: Rescale
    input_offset: int
    other_offset: int
    output_offset: int
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Multiplication(Work):
    """Inputs: a, b, of equal rank, broadcast against each other.

    Attributes:
        rescale: One factor.
        input_offset: Of a.
        other_offset: Of b.
        output_offset: The output's zero point.
        low: Lowest code that is written.
        high: Highest code that is written.
    """

    rescale: Rescale
    input_offset: int
    other_offset: int
    output_offset: int
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Extremum(Work):
    """Inputs: a, b, of one encoding, broadcast against each other; the larger or the smaller code.

    Attributes:
        largest: Whether the larger one.
    """

    largest: bool


@dataclass(frozen=True, eq=False)
class Pool(Work):
    """Input: x; output of the same encoding. Means count what is inside only and round half away from zero.

    Attributes:
        average: Means, else maxima.
        kernel: Rows, columns.
        strides: Rows, columns.
        pads: Top, left, bottom, right.
        low: Lowest code that is written.
        high: Highest code that is written.
    """

    average: bool
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Mean(Work):
    """Input: x, read as [outer, count, inner]; the mean over the middle: rescale(sum(x + input_offset)) + output_offset.

    Attributes:
        outer: Elements before the axes averaged over.
        count: Elements averaged.
        inner: Elements behind.
        rescale: input scale / (count * output scale).
        input_offset: The input's zero point, negative.
        output_offset: The output's zero point.
        low: Lowest code that is written.
        high: Highest code that is written.
    """

    outer: int
    count: int
    inner: int
    rescale: Rescale
    input_offset: int
    output_offset: int
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Softmax(Work):
    """Input: x; softmax over the last axis. int8 to int8 (1/256, -128), or int8 to int16 (1/65536, -32768).

    Attributes:
        multiplier: min(beta * input scale * 2**26, 2**31 - 1) as multiplier ...
        shift: ... and shift (to the left).
        diff_min: Lower differences from the row's maximum count as nothing.
    """

    multiplier: int
    shift: int
    diff_min: int


@dataclass(frozen=True, eq=False)
class SoftmaxByTables(Work):
    """Input: x, int16; softmax over the last axis, int16 (1/32768, 0), with exponentials and inverses read off tables.

    Tables are read as in `Interpolation`. With e = exponentials[rescale(x - max) + 32767] and S = sum(e) of h leading zeros:
    y = e * inverses[S / 2**(31 - h) - 1] / 2**(31 - h), halves up.

    Attributes:
        rescale: input scale / (10 / 65535).
        exponentials: int16, [513]: exp(x) for x from -10 to 0.
        inverses: int16, [513]: 1 / (1 + x) for x from 0 to 1.
    """

    rescale: Rescale
    exponentials: NDArray[Any]
    inverses: NDArray[Any]


@dataclass(frozen=True, eq=False)
class LogSoftmax(Work):
    """Input: x, int8; the logarithm of softmax over the last axis, int8 (1/16, 127).

    Attributes:
        multiplier: As in `Softmax`.
        shift: As in `Softmax`.
        diff_min: As in `Softmax`.
        inverse: 2**(31 - shift) / multiplier: a number with 26 fractional bits in units of the input's scale.
    """

    multiplier: int
    shift: int
    diff_min: int
    inverse: Rescale


@dataclass(frozen=True, eq=False)
class UnitLength(Work):
    """Input: x, int8; int8 (1/128, 0): rows along the last axis divided by their Euclidean length.

    Attributes:
        input_offset: The input's zero point, negative.
    """

    input_offset: int


@dataclass(frozen=True, eq=False)
class Lookup(Work):
    """Input: x; the entry of a table at x less its type's lowest code. Any function of one variable.

    Attributes:
        table: Of the output's type; [256] for int8, [65536] for int16.
        function: The operators that it stands for, joined by a plus; "Gelu(tanh)" is a Gelu with that approximation.
    """

    table: NDArray[Any]
    function: str = ""


@dataclass(frozen=True, eq=False)
class Rectifier(Work):
    """Inputs: x, and perhaps a slope per channel (the last axis), or one; a positive number is scaled, a negative one sloped, too.

    y = clamp(positive(x + input_offset) + output_offset) where x + input_offset >= 0, elsewhere
    clamp(negative((x + input_offset) * (slope + slope_offset)) + output_offset); without slopes that factor is 1.

    Attributes:
        positive: input scale / output scale.
        negative: The same times `slope`.
        slope: The scale of the slopes, or the only slope.
        input_offset: The input's zero point, negative.
        slope_offset: The slopes' zero point, negative.
        output_offset: The output's zero point.
        low: Lowest code that is written.
        high: Highest code that is written.
    """

    positive: Rescale
    negative: Rescale
    slope: float
    input_offset: int
    slope_offset: int
    output_offset: int
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Interpolation(Work):
    """Input: x, int16; output int16, read off a table of 512 intervals, linear in between.

    With i = 256 + (x >> 7), f = x & 127, b = table[i], s = table[i + 1] - b: y = b + ((s * f + 64) >> 7), as in TensorFlow
    Lite's LUTLookup for int16.

    Attributes:
        table: int16, [513].
    """

    table: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Requantization(Work):
    """Input: x; the same numbers in the output's encoding, int8 or int16 on either side, or float on one or both.

    y = clamp(rescale(x + input_offset) + output_offset).

    Attributes:
        rescale: input scale / output scale.
        input_offset: The input's zero point, negative.
        output_offset: The output's zero point.
        low: Lowest code that is written.
        high: Highest code that is written.
    """

    rescale: Rescale
    input_offset: int
    output_offset: int
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class View(Work):
    """Input: x; the output is the same bytes under another shape. Takes no time and no memory."""


@dataclass(frozen=True, eq=False)
class StridedCopy(Work):
    """Input: x; y[i, j, ...] = x.flat[start + i * strides[0] + j * strides[1] + ...].

    Slices, splits, transpositions, expansions and flips are all of this kind.

    Attributes:
        start: Index of the first element.
        shape: Of what is iterated, at most 6 dimensions; as many elements as the output.
        strides: In elements, one per dimension of `shape`; 0 repeats, negative ones run backwards.
    """

    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Concatenation(Work):
    """Inputs: two or more of one encoding, alike but for their size along `axis`.

    Attributes:
        axis: Of the stored shape.
    """

    axis: int


@dataclass(frozen=True, eq=False)
class Padding(Work):
    """Input: x; output of the same encoding.

    Attributes:
        before: Elements in front, per axis of the stored shape.
        after: Elements behind.
        value: The code that is put there.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    value: float


@dataclass(frozen=True, eq=False)
class Gather(Work):
    """Input: x; output of the same encoding: its slices at constant indices.

    Attributes:
        axis: Of the stored shape.
        indices: int32, not negative.
    """

    axis: int
    indices: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Resize(Work):
    """Input: x [N, H, W, C]; output of the same encoding, of rows and columns chosen or interpolated.

    Along each axis output i lies between input lower[i] (weight 1024 - weight[i]) and upper[i] (weight[i]); the four
    products are summed, and y = sum / 2**20 of the codes. With all weights 0 rows and columns are copied.

    Attributes:
        rows: lower, upper (int32), weight (int32, 0 to 1024), each [H of the output].
        columns: The same for W.
        halves: Where halves are rounded: "up", or "away" from zero.
    """

    rows: tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
    columns: tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
    halves: Literal["up", "away"] = "up"

    @property
    def nearest(self) -> bool:
        """Whether elements are only copied."""
        return not (self.rows[2].any() or self.columns[2].any())


@dataclass(frozen=True, eq=False)
class Extreme(Work):
    """Input: x, read as [outer, count, inner]; output of the same encoding: the largest or the smallest code over the middle.

    Attributes:
        largest: Whether the largest one.
        outer: Elements before the axes.
        count: Elements along the axes.
        inner: Elements behind them.
    """

    largest: bool
    outer: int
    count: int
    inner: int


@dataclass(frozen=True, eq=False)
class ArgMax(Work):
    """Input: x, read as [outer, count, inner]; output int32 [outer, inner]: the first index of the largest code.

    Attributes:
        outer: Elements before the axis.
        count: Elements along the axis.
        inner: Elements behind the axis.
        last: The last index instead of the first.
    """

    outer: int
    count: int
    inner: int
    last: bool = False
