"""How good outputs are: against labels (top-1, top-5) or against the fp32 model's outputs (SQNR, cosine, ...).

Every metric accumulates batch by batch, so evaluation memory does not grow with the data; a user's function gets
everything at once.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcompiler.accumulators import (
    Accumulator,
    Agreement,
    Arrays,
    Divergence,
    Sums,
    TopK,
    UserAccumulator,
    UserFunction,
    WorstOutput,
)
from qcompiler.errors import OptionError, suggest

if TYPE_CHECKING:
    from numpy.typing import NDArray


__all__ = [
    "METRICS",
    "Accumulator",
    "Arrays",
    "Metric",
    "UserFunction",
    "auto",
    "evaluate",
    "metric_named",
    "sqnr_db",
    "user_metric",
]


@dataclass(frozen=True)
class Metric:
    """A number that says how good outputs are.

    Attributes:
        name: What users call it; for a user's function, its module and name.
        higher_is_better: The direction.
        unit: "fraction" (of samples), "dB", "nats" or "" (a plain number).
        needs_labels: Whether it compares with labels; the others compare with the fp32 model's outputs.
        accumulator: Makes the accumulator of one evaluation.
    """

    name: str
    higher_is_better: bool
    unit: str
    needs_labels: bool
    accumulator: Callable[[], Accumulator] = dataclasses.field(compare=False, repr=False)

    def drop(self, before: float, after: float) -> float:
        """How much worse `after` is than `before`, in the metric's own unit; negative when it is better."""
        if before == after:
            return 0.0
        return before - after if self.higher_is_better else after - before


def evaluate(metric: Metric, outputs: Arrays, labels: NDArray[Any] | None, reference: Arrays) -> float:
    """The metric of whole arrays.

    Args:
        metric: The metric.
        outputs: The outputs to judge, by name; samples on the first axis.
        labels: One per sample, or None.
        reference: The fp32 model's outputs, of the same names and shapes.

    Raises:
        DataError: The metric does not fit; says why and what to do.
    """
    accumulator = metric.accumulator()
    accumulator.update(outputs, labels, reference)
    return accumulator.result()


def sqnr_db(reference: NDArray[Any], approximation: NDArray[Any]) -> float:
    """Signal to quantization noise ratio, 10 log10(sum(reference^2) / sum((reference - approximation)^2)), in dB.

    Identical arrays (zero ones too) give infinity; a wrong answer to an all-zero reference, or one that is not finite,
    gives minus infinity.
    """
    sums = Sums()
    sums.add(reference, approximation)
    return sums.sqnr_db()


# -- users' functions --------------------------------------------------------------------------------------------


def user_metric(function: UserFunction, name: str = "", *, higher_is_better: bool | None = None) -> Metric:
    """A metric from a function f(outputs, labels, reference) -> float; see `UserFunction`.

    The direction is taken from the function's attribute `higher_is_better` where it is not given; default: higher.
    """
    name = name or f"{function.__module__}:{getattr(function, '__name__', 'metric')}"
    if higher_is_better is None:
        higher_is_better = bool(getattr(function, "higher_is_better", True))
    return Metric(name, higher_is_better, "", False, lambda: UserAccumulator(name, function))


def _user_function(spec: str) -> UserFunction:
    module_name, _, attribute = spec.rpartition(":")
    try:
        if module_name.endswith(".py"):
            path = Path(module_name)
            loader = importlib.util.spec_from_file_location(f"qcompiler_user_{path.stem}", path)
            if loader is None or loader.loader is None or not path.is_file():
                raise FileNotFoundError(f"there is no file {path}")
            module = importlib.util.module_from_spec(loader)
            sys.modules[loader.name] = module
            loader.loader.exec_module(module)
        else:
            module = importlib.import_module(module_name)
    except Exception as error:
        raise OptionError(
            f"The metric {spec!r} cannot be loaded: {type(error).__name__}: {error}. "
            "Write it as module:function or path/to/file.py:function."
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        names = [name for name, item in vars(module).items() if callable(item)]
        raise OptionError(f"{module_name} has no function {attribute!r}{suggest(attribute, names)}")
    return function  # type: ignore[no-any-return]


# -- by name -----------------------------------------------------------------------------------------------------


def _built_in() -> dict[str, Metric]:
    def worst(name: str, unit: str, number: Callable[[Sums], float], *, higher: bool) -> Metric:
        pick: Callable[[list[float]], float] = min if higher else max
        return Metric(name, higher, unit, False, lambda: WorstOutput(number, pick))

    metrics = [
        Metric("top1", True, "fraction", True, lambda: TopK(1)),
        Metric("top5", True, "fraction", True, lambda: TopK(5)),
        Metric("agreement", True, "fraction", False, Agreement),
        worst("sqnr", "dB", Sums.sqnr_db, higher=True),
        worst("cosine", "", Sums.cosine, higher=True),
        worst("mse", "", Sums.mse, higher=False),
        worst("mae", "", Sums.mae, higher=False),
        worst("relative-error", "", Sums.relative_error, higher=False),
        Metric("kl", False, "nats", False, Divergence),
    ]
    return {metric.name: metric for metric in metrics}


METRICS = _built_in()
"""The metrics that have names. Of a model with several outputs, top1, top5, agreement and kl look at the first; the
others take the worst output. relative-error is sum|reference - output| / sum|reference|."""


def auto(outputs: Arrays, labels: NDArray[Any] | None) -> Metric:
    """top1 where labels are class indices and the first output has scores per class, else sqnr."""
    first = next(iter(outputs.values()))
    classes = math.prod(first.shape[1:]) if first.ndim > 1 and max(first.shape[2:], default=1) == 1 else 0
    if labels is not None and labels.dtype.kind in "iu" and labels.ndim == 1 and classes > 1:
        return METRICS["top1"]
    return METRICS["sqnr"]


def metric_named(spec: str | Metric | UserFunction) -> Metric | None:
    """The metric that a user means: a name of `METRICS`, `module:function`, `file.py:function`, or a function.

    Returns:
        The metric; None for "auto", which `auto` decides when outputs and labels are there.

    Raises:
        OptionError: There is no such metric, or the function cannot be loaded.
    """
    if isinstance(spec, Metric):
        return spec
    if not isinstance(spec, str):
        return user_metric(spec)
    if spec == "auto":
        return None
    name = {"top-1": "top1", "top-5": "top5", "sqnr_db": "sqnr"}.get(spec, spec)
    if name in METRICS:
        return METRICS[name]
    if ":" in spec:
        return user_metric(_user_function(spec), spec)
    raise OptionError(
        f"There is no metric {spec!r}{suggest(spec, ['auto', *METRICS])} A function of your own is module:function or file.py:function."
    )
