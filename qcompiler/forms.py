"""Forms: the values that kernel rows read, in every encoding that some legal row reads them in, or can write nothing but.

A form is what a decision about precision is made of: its loss is measured by the pass `sensitivity`, its size is that of the
constant, and a region's row is as good as the forms that it reads. What data movement only passes on is one value: a form
belongs to the value that its elements come from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcompiler.assignment import Problem, demands, outputs_of, use_value
from qcompiler.sources import value_source

if TYPE_CHECKING:
    from qcompiler.ir.node import Use, Value
    from qcompiler.regions import Region
    from qcompiler.target import EncodingSpec, Row


@dataclass(frozen=True)
class Form:
    """A value as some row reads or writes it.

    Attributes:
        value: The value; of what is computed, the one before ops that only rearrange elements.
        spec: What the encoding is like.
        axis: Its channel or block axis; None per tensor.
    """

    value: Value
    spec: EncodingSpec
    axis: int | None

    @property
    def key(self) -> tuple[str, str, int | None]:
        """The form's identity as plain data: value name, spec in words, axis."""
        return self.value.name, str(self.spec), self.axis

    def __hash__(self) -> int:
        return hash((id(self.value), self.spec, self.axis))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Form)
            and other.value is self.value
            and (other.spec, other.axis) == (self.spec, self.axis)
        )


def row_forms(problem: Problem, region: Region, row: Row) -> dict[Form, tuple[Use, ...]]:
    """The forms that a region reads when it runs as a row, with the uses that read them; derived ones are left out."""
    found: dict[Form, list[Use]] = {}
    for use, demand in demands(problem, {region.name: row}, [region]).items():
        if not demand.spec.derived:
            found.setdefault(Form(_source(use_value(use)), demand.spec, demand.axis), []).append(use)
    return {form: tuple(uses) for form, uses in found.items()}


def written_forms(problem: Problem, region: Region, row: Row) -> tuple[Form, ...]:
    """The forms that a region's results are rounded to whoever reads them: where its row can write one encoding only.

    Results that nothing reads are left out.
    """
    offered = set(problem.target.output_specs(row))
    if len(offered) != 1:
        return ()
    (spec,) = offered
    sources = map(_source, outputs_of(region)) if spec.is_quantized else ()
    return tuple(Form(value, spec, None) for value in sources if _operand_uses(value))


def all_forms(problem: Problem, regions: Iterable[Region] | None = None) -> dict[Form, tuple[Use, ...]]:
    """Every form that a legal row of some region reads or cannot but write, in graph order, with all uses that could read it.

    Regions that are quantized only "when-consumed" have no say: they follow their consumers.
    """
    found: dict[Form, dict[Use, None]] = {}
    for region in problem.regions if regions is None else regions:
        if region.kernel is None or region.kernel.quantize != "always":
            continue
        for row in problem.legal_rows(region):
            for form, uses in row_forms(problem, region, row).items():
                found.setdefault(form, {}).update(dict.fromkeys(uses))
            for form in written_forms(problem, region, row):
                found.setdefault(form, {}).update(dict.fromkeys(_operand_uses(form.value)))
    return {form: tuple(uses) for form, uses in found.items()}


def _operand_uses(value: Value) -> list[Use]:
    """The uses of a value but those inside the bodies of control flow."""
    return [use for use in value.uses if use.slot < len(use.node.inputs)]


def _source(value: Value) -> Value:
    return value if value.is_constant else value_source(value)
