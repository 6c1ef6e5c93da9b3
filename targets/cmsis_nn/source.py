"""model.c and model.h: the steps of a deployed program, called one after another."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qcompiler.artifact import version
from qcompiler.integer.operations import View
from qcompiler.targets.cmsis_nn import own_steps, steps  # noqa: F401 - they register what they write
from qcompiler.targets.cmsis_nn.c_text import c_type, comment, identifier
from qcompiler.targets.cmsis_nn.constants import Constants
from qcompiler.targets.cmsis_nn.emitting import Context, body, parameter_list

if TYPE_CHECKING:
    from qcompiler.integer.program import Operation, Program, Tensor
    from qcompiler.targets.cmsis_nn.boards import KernelPath
    from qcompiler.targets.cmsis_nn.deployment import Deployment

DATA_HEADER = """\
/* Constants of the model. By default they go where the linker puts constants; to place them elsewhere, define for example
 * MODEL_FLASH as __attribute__((section(".qspi"), aligned(16))). */
#ifndef MODEL_DATA_H
#define MODEL_DATA_H

#include <stdint.h>

#ifndef MODEL_FLASH
#define MODEL_FLASH __attribute__((aligned(16)))
#endif

{declarations}

#endif
"""


@dataclass(frozen=True)
class Port:
    """An input or output of the model in C.

    Attributes:
        tensor: The tensor.
        name: The parameter of model_run.
        macro: What its macros begin with.
    """

    tensor: Tensor
    name: str
    macro: str

    @property
    def type(self) -> str:
        """The C type of its elements."""
        return c_type(self.tensor.dtype)


@dataclass(frozen=True)
class Source:
    """The text of a model.

    Attributes:
        inputs: Its inputs.
        outputs: Its outputs.
        files: File name to text.
        functions: The kernels that it calls, sorted.
        constant_bytes: Bytes of its constants.
        digest: SHA-256 of code and constants, hexadecimal.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    files: dict[str, str] = field(repr=False)
    functions: tuple[str, ...]
    constant_bytes: int
    digest: str


def write_source(deployment: Deployment, core: str) -> Source:
    """Writes model.h, model.c, model_data.h and model_data.c."""
    writer = _Writer(deployment, core)
    code = writer.code()
    data = f'#include "model_data.h"\n\n{writer.constants.source()}\n'
    digest = hashlib.sha256((code + data).encode()).hexdigest()
    files = {
        "model.h": writer.header(digest),
        "model.c": code,
        "model_data.h": DATA_HEADER.format(declarations=writer.constants.header()),
        "model_data.c": data,
    }
    functions = tuple(sorted(writer.functions))
    return Source(writer.inputs, writer.outputs, files, functions, writer.constants.bytes, digest)


def constants_of(program: Program, path: KernelPath) -> Constants:
    """The constants that `write_source` writes, wherever things lie in memory: slices share them."""
    context = Context(Constants(), path, {})
    for operation in program.operations:
        if not isinstance(operation.work, View):
            body(operation, context)
    return context.constants


def _ports(tensors: tuple[Tensor, ...], what: str) -> tuple[Port, ...]:
    if len(tensors) == 1:
        return (Port(tensors[0], what, f"MODEL_{what.upper()}"),)
    ports = []
    for number, tensor in enumerate(tensors):
        name = f"{what}{number}_{identifier(tensor.value or tensor.name).lower()}"
        ports.append(Port(tensor, name, f"MODEL_{name.upper()}"))
    return tuple(ports)


class _Writer:
    def __init__(self, deployment: Deployment, core: str) -> None:
        self.deployment = deployment
        self.core = core
        self.program = deployment.program
        self.constants = Constants()
        self.context = Context(self.constants, deployment.path, deployment.slices)
        self.functions: set[str] = set()
        self.inputs = _ports(self.program.inputs, "input")
        self.outputs = _ports(self.program.outputs, "output")
        root = deployment.root
        self._ports = {root[port.tensor.name].name: port.name for port in (*self.inputs, *self.outputs)}

    def _place(self, tensor: Tensor, *, constant: bool) -> str:
        """A computed tensor as an expression in model_run."""
        root = self.deployment.root[tensor.name]
        port = self._ports.get(root.name)
        kind = f"{'const ' if constant else ''}{c_type(tensor.dtype)} *"
        if port is not None:
            return port if c_type(root.dtype) == c_type(tensor.dtype) else f"({kind})(const void *){port}"
        return f"({kind})AT({self.deployment.memory.offsets[tensor.name]})"

    # -- model.c ------------------------------------------------------------------------------------------

    def code(self) -> str:
        """The text of model.c."""
        steps_text, calls = [], []
        for number, operation in enumerate(self.deployment.memory.operations, 1):
            name = f"step_{number:03}_{identifier(operation.name)}"
            steps_text.append(self._step(name, operation))
            calls.append(
                f"  if ({name}({self._arguments(operation)}) != ARM_CMSIS_NN_SUCCESS) {{\n    return {number};\n  }}"
            )
        kernels = (
            '#include "qc_kernels.h"\n' if any(name.startswith("qc_") for name in self.functions) else ""
        )
        places = "\n\n".join(self._accessor(port) for port in (*self.inputs, *self.outputs))
        return (
            f"/* {comment(self.program.name)}, compiled by qcompiler {version()} for {self.core}. Do not edit. */\n"
            f'#include "model.h"\n\n#include <stddef.h>\n\n#include "arm_nnfunctions.h"\n#include "model_data.h"\n{kernels}\n'
            "/* Everything that is computed lives here, at addresses planned ahead of time. */\n"
            "static uint8_t arena[MODEL_ARENA_SIZE] MODEL_ARENA;\n\n#define AT(offset) ((void *)&arena[offset])\n\n"
            + "\n\n".join(steps_text)
            + f"\n\n{places}\n\nint model_run({self._signature()}) {{\n"
            + "\n".join(calls)
            + "\n  return 0;\n}\n"
        )

    def _step(self, name: str, operation: Operation) -> str:
        inside = body(operation, self.context)
        self.functions.update(inside.functions)
        origin = comment(", ".join(operation.origin))
        lines = "\n  ".join(inside.lines)
        parameters = parameter_list(operation, scratch=self._scratch(operation) is not None)
        return f"/* {origin} ({comment(operation.kernel)}) */\nstatic arm_cmsis_nn_status {name}({parameters}) {{\n  {lines}\n}}"

    def _scratch(self, operation: Operation) -> int | None:
        return self.deployment.memory.scratch.get(operation.name)

    def _arguments(self, operation: Operation) -> str:
        given = [self._place(tensor, constant=True) for tensor in operation.inputs if tensor.data is None]
        given.append(self._place(operation.output, constant=False))
        scratch = self._scratch(operation)
        return ", ".join([*given, *([] if scratch is None else [f"AT({scratch})"])])

    def _accessor(self, port: Port) -> str:
        offset = self.deployment.memory.offsets[port.tensor.name]
        return f"{port.type} *model_{port.name}(void) {{ return ({port.type} *)AT({offset}); }}"

    def _signature(self) -> str:
        given = [f"const {port.type} *{port.name}" for port in self.inputs]
        return ", ".join([*given, *(f"{port.type} *{port.name}" for port in self.outputs)])

    # -- model.h ------------------------------------------------------------------------------------------

    def header(self, digest: str) -> str:
        """The text of model.h."""
        macros = "\n\n".join(self._macros(port) for port in (*self.inputs, *self.outputs))
        accessors = "\n".join(
            f"{port.type} *model_{port.name}(void);" for port in (*self.inputs, *self.outputs)
        )
        return f"""\
/* {comment(self.program.name)}, compiled by qcompiler {version()} for {self.core}. Do not edit.
 *
 * No heap, no float, no interpreter, nothing to initialize. Not reentrant: there is one arena. */
#ifndef MODEL_H
#define MODEL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

/* Of code and constants. */
#define MODEL_SHA256 "{digest}"
#define MODEL_COMPILER "qcompiler {version()}"
#define MODEL_CORE "{self.core}"

/* Bytes of memory for what is computed, inputs and outputs included, and where it is: MODEL_ARENA may be defined as
 * __attribute__((section(".dtcm"), aligned(16))), for example. */
#define MODEL_ARENA_SIZE {max(self.deployment.memory.arena.size, 16)}
#ifndef MODEL_ARENA
#define MODEL_ARENA __attribute__((aligned(16)))
#endif

/* Bytes of constants: weights, biases, factors and tables. */
#define MODEL_CONSTANT_SIZE {self.constants.bytes}

/* A real number r is the integer round(r / SCALE) + ZERO_POINT, an integer q is the real number (q - ZERO_POINT) * SCALE. */
{macros}

/* Places in the arena for inputs and outputs. Use them where memory is short; arrays of your own will do as well. What lies
 * here is overwritten by model_run: an input has to be written again before each run. */
{accessors}

/* Runs the model. Returns 0, or the number of the step whose kernel refused its arguments. */
int model_run({self._signature()});

#ifdef __cplusplus
}}
#endif

#endif
"""

    def _macros(self, port: Port) -> str:
        tensor = port.tensor
        shape = " x ".join(map(str, tensor.shape))
        lines = [
            f"/* {comment(tensor.value or tensor.name)}: {port.type} [{shape}]{_axes(tensor)} */",
            f"#define {port.macro}_ELEMENTS {tensor.elements}",
            f"#define {port.macro}_BYTES {tensor.bytes}",
        ]
        if tensor.encoding is not None:
            lines.append(f"#define {port.macro}_SCALE {_float(tensor.scale)}")
            lines.append(f"#define {port.macro}_ZERO_POINT ({tensor.zero_point})")
        return "\n".join(lines)


def _axes(tensor: Tensor) -> str:
    """What the order of storage is, where it is not the model's own."""
    own = tuple(range(len(tensor.shape)))
    if tensor.order in ((), own):
        return ""
    return f", channels last: the model's axes {', '.join(map(str, tensor.order))}"


def _float(number: float) -> str:
    """A float32 as a C constant from which a compiler makes the same one."""
    text = f"{number:.9g}"
    return f"{text if '.' in text or 'e' in text else text + '.0'}f"
