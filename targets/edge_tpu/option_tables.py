"""Options of operators: tables of the schema, and names with plain values here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.targets.edge_tpu.schema import member, members, name_of

if TYPE_CHECKING:
    from qcompiler.targets.edge_tpu.model import Operator

_OPTIONS = {
    operator: table
    for table, operators in {
        "Pool2DOptions": "AVERAGE_POOL_2D MAX_POOL_2D L2_POOL_2D",
        "ReducerOptions": "MEAN SUM REDUCE_MAX REDUCE_MIN REDUCE_PROD REDUCE_ANY REDUCE_ALL",
        "MaximumMinimumOptions": "MAXIMUM MINIMUM",
        "L2NormOptions": "L2_NORMALIZATION",
        "SequenceRNNOptions": "UNIDIRECTIONAL_SEQUENCE_RNN",
        "Conv3DOptions": "CONV_3D_TRANSPOSE",
        "RandomOptions": "RANDOM_UNIFORM RANDOM_STANDARD_NORMAL MULTINOMIAL",
    }.items()
    for operator in operators.split()
}
"""Tables of options that are not named after their operators."""
_ENUMERATIONS = {
    "padding": "Padding",
    "fused_activation_function": "ActivationFunctionType",
    "weights_format": "FullyConnectedOptionsWeightsFormat",
    "mode": "MirrorPadMode",
    "kernel_type": "LSTMKernelType",
    **dict.fromkeys(("in_data_type", "out_data_type", "output_type", "out_type"), "TensorType"),
    **dict.fromkeys(("idx_out_type", "quantized_bias_type", "key_dtype", "value_dtype"), "TensorType"),
}
"""Options that are members of enumerations."""
_NOT_ZERO = (
    "stride_w stride_h stride_d dilation_w_factor dilation_h_factor dilation_d_factor filter_width filter_height "
    "depth_multiplier beta block_size num_splits values_count num output_type out_type num_bits"
)
"""Options that make no sense as 0, which is the schema's default for most of them."""


def options_to(schema: Any, table: Any, operator: Operator, options: Mapping[str, Any]) -> None:
    """Puts options into the table of an operator.

    Args:
        schema: The schema's classes.
        table: Of the operator.
        operator: The operator.
        options: Its options; those left out have the schema's defaults.

    Raises:
        ValueError: An option is unknown, has a wrong value, or may not be left out.
    """
    name = _OPTIONS.get(operator.op, operator.op.replace("_", "") + "Options").lower()
    for number in ("", "2"):
        for kind, value in members(getattr(schema, f"BuiltinOptions{number}")).items():
            if kind.lower() == name:
                setattr(table, f"builtinOptions{number}Type", value)
                setattr(table, f"builtinOptions{number}", _options_table(schema, operator, kind, options))
                return
    if options:
        raise ValueError(f"{operator.name} has no options, but is given {', '.join(options)}.")


def options_of(schema: Any, table: Any) -> dict[str, Any]:
    """The options in the table of an operator, those of the schema's defaults included."""
    options: dict[str, Any] = {}
    for stored in (table.builtinOptions, table.builtinOptions2):
        for field, value in vars(stored).items() if stored is not None else ():
            if value is not None:
                options[_snake(field)] = _plain(schema, _snake(field), value)
    return options


def _options_table(schema: Any, operator: Operator, name: str, options: Mapping[str, Any]) -> Any:
    table = getattr(schema, name + "T")()
    fields = {_snake(field): field for field in vars(table)}
    if unknown := set(options) - set(fields):
        raise ValueError(
            f"{operator.name} has no option {', '.join(sorted(unknown))}; it has {', '.join(fields) or 'none'}."
        )
    for option, value in options.items():
        field = fields[option]
        setattr(table, field, _stored(schema, option, value, getattr(table, field)))
    needed = (option for option in fields if option in _NOT_ZERO.split())
    if missing := [option for option in needed if not getattr(table, fields[option])]:
        raise ValueError(f"{operator.name} needs {', '.join(missing)}, and not 0.")
    return table


def _snake(field: str) -> str:
    return re.sub(r"(?=[A-Z])", "_", field).lower()


def _stored(schema: Any, option: str, value: Any, default: Any) -> Any:
    """An option's value for its table, which tells the field's type by its default."""
    if option in _ENUMERATIONS and isinstance(value, str):
        return member(getattr(schema, _ENUMERATIONS[option]), value)
    if default is None:
        return value if isinstance(value, str) else list(value)
    return index(value) if type(default) is int else type(default)(value)


def _plain(schema: Any, option: str, value: Any) -> Any:
    """An option's value without types of the schema's package."""
    if option in _ENUMERATIONS and isinstance(value, int):
        return name_of(getattr(schema, _ENUMERATIONS[option]), value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return tuple(value.tolist()) if isinstance(value, np.ndarray) else value
