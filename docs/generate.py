"""Writes the pages of docs/ that say what the code already knows: docs/targets/*.md, passes.md, predicates.md, cli.md.

Usage: python docs/generate.py [--check]

With --check nothing is written; the exit code is 1 when a page is out of date.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from qcompiler import cli
from qcompiler.cli import settings
from qcompiler.options import DEFAULT_PIPELINE
from qcompiler.passes import all_passes
from qcompiler.predicates import PREDICATES
from qcompiler.targets import descriptors, find_target

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qcompiler.pass_manager import Pass
    from qcompiler.target import EncodingSpec, Kernel, Row, Target

DOCS = Path(__file__).resolve().parent
_NOTE = "<!-- Written by docs/generate.py; `make docs` writes it anew. -->"


def pages() -> dict[Path, str]:
    """Every generated page, by its path in docs/."""
    found = {
        Path("passes.md"): passes_page(),
        Path("predicates.md"): predicates_page(),
        Path("cli.md"): cli_page(),
    }
    for name in descriptors():
        found[Path("targets") / f"{name}.md"] = target_page(find_target(name))
    return found


# -- targets -------------------------------------------------------------------------------------------------------


def target_page(target: Target) -> str:
    """The reference of one target, from its descriptor."""
    facts = {
        "artifact": f"`{target.artifact}`" if target.artifact else "`reference.onnx`",
        "what stays float": ", ".join(target.float_formats),
        "layout": target.layout.upper(),
        "graph inputs and outputs": target.io,
        "Q/DQ around data movement": target.qdq.passthrough,
        "passes before tiling": ", ".join(f"`{text}`" for text in target.prepare) or "none",
        "sources": target.source,
    }
    rows = [row for kernel in target.kernel for row in kernel.row]
    verified = sum(bool(row.verified) for row in rows)
    lines = [
        f"# {target.name}: {target.title}",
        "",
        _NOTE,
        "",
        f"Descriptor: `targets/{Path(target.file).parent.name}/{Path(target.file).name}`. {len(target.kernel)} kernels,",
        f"{len(rows)} quantized rows; {verified} of these are tested against the real consumer.",
        "",
        *_table(("", ""), [(key, item) for key, item in facts.items() if item]),
        "",
        *_opening_comment(Path(target.file)),
        "",
        *_options(target),
        "## Devices",
        "",
        *_devices(target),
        "",
        "## Encodings",
        "",
        *_table(
            ("name", "encoding", "details", "source"),
            [(f"`{name}`", str(spec), _details(spec), spec.source) for name, spec in target.encoding.items()],
        ),
        "",
        "## Kernels",
        "",
        "In the descriptor's order, which is the order of preference among matches of equal length.",
        "A kernel without rows runs in float.",
    ]
    for kernel in target.kernel:
        lines += ["", *_kernel(target, kernel)]
    return "\n".join(lines) + "\n"


def _opening_comment(file: Path) -> Iterator[str]:
    """The comment that a descriptor begins with: it says what its sources are called."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            return
        yield line.removeprefix("#").strip()


def _details(spec: EncodingSpec) -> str:
    found = ["narrow: the lowest code is not used"] if spec.narrow else []
    if spec.scale is not None:
        found.append(f"scale {spec.scale!r}, zero point {spec.zero_point or 0}")
    if spec.derived:
        found.append(f"scale of {' x '.join(spec.derived)}")
    return "; ".join(found)


def _options(target: Target) -> Iterator[str]:
    if target.option:
        yield "## Options"
        yield ""
        rows = [
            (f"`--target-option {name}`", option.offer, option.meaning)
            for name, option in target.option.items()
        ]
        yield from _table(("option", "accepted, the first by default", "meaning"), rows)
        yield ""


def _devices(target: Target) -> Iterator[str]:
    if not target.device:
        yield "The target has no devices: every format of its rows is legal."
        return
    default = target.default_device
    yield from _table(
        ("device", "what it is", "formats", "note", "source"),
        [
            (
                f"`{target.name}:{name}`{' (default)' if name == default else ''}",
                device.title,
                ", ".join(device.formats) or "all",
                device.note,
                device.source,
            )
            for name, device in target.device.items()
        ],
    )


def _kernel(target: Target, kernel: Kernel) -> Iterator[str]:
    yield f"### {kernel.name}"
    yield ""
    yield f"`{' '.join(kernel.pattern.split())}`"
    yield ""
    if kernel.quantize == "when-consumed" and kernel.row:
        yield "Quantized only where a consumer of the result asks for it."
        yield ""
    for limit in kernel.limits:
        yield f"* requires {_limit(limit)}"
    if kernel.note:
        yield f"* {kernel.note}"
    yield f"* source: {kernel.source or 'none given'}"
    if kernel.row:
        yield ""
        yield from _table(
            ("row", "operands", "result", "requires", "source", "tested by"),
            [_row(target, row) for row in kernel.row],
        )


def _row(target: Target, row: Row) -> tuple[str, ...]:
    operands = ", ".join(f"{name}: {encoding}" for name, encoding in row.operands.items())
    if row.same:
        operands += f"; one encoding for {', '.join(row.same)}"
    return (
        f"`{row.name}`",
        operands,
        " or ".join(row.output),
        "; ".join(_limit(limit) for limit in row.limits),
        row.source,
        f"`{row.verified.rpartition('::')[2]}`" if row.verified else "**unverified**",
    )


def _limit(limit: Mapping[str, Any]) -> str:
    given = ", ".join(
        f"{key} = {_plain(item, ' or ' if key == 'accepted' else ', ')}"
        for key, item in limit.items()
        if key not in ("check", "reason")
    )
    reason = f" ({limit['reason']})" if limit.get("reason") else ""
    return f"{limit['check']}: {given}{reason}"


def _plain(item: Any, between: str) -> str:
    return between.join(map(str, item)) if isinstance(item, list | tuple) else str(item)


# -- passes --------------------------------------------------------------------------------------------------------


def passes_page() -> str:
    """The reference of all passes that come with the package."""
    lines = [
        "# Passes",
        "",
        _NOTE,
        "",
        "The default pipeline, before the target's own passes and the user's are put in front of `fuse`:",
        "",
        "```text",
        DEFAULT_PIPELINE.replace(",", ",\n"),
        "```",
        "",
        "Effects: an *exact* pass keeps the function up to float rounding, an *approximate* one changes it, one that",
        "*annotates* leaves the graph as it is and adds facts. `--verify-each` holds every pass to its effect.",
        "How to write one: [guides/passes.md](guides/passes.md).",
    ]
    for entry in all_passes():
        if entry.__module__.startswith("qcompiler.passes."):
            lines += ["", *_pass(entry)]
    return "\n".join(lines) + "\n"


def _pass(entry: type[Pass]) -> Iterator[str]:
    yield f"## {entry.name}"
    yield ""
    yield _code_spans(inspect.cleandoc(entry.__doc__ or "").split("\n\nAttributes:")[0])
    yield ""
    yield f"* effect: {entry.effect.value}"
    for title in ("requires", "establishes", "invalidates"):
        facts = getattr(entry, title)
        if facts:
            yield f"* {title}: {', '.join(f'{fact.name} ({fact.meaning})' for fact in facts)}"
    options = entry.options()
    if options:
        yield ""
        yield from _table(
            ("option", "type", "default"),
            [(f"`{name}`", _type(kind), _default(default)) for name, (kind, default) in options.items()],
        )


def _code_spans(text: str) -> str:
    return text.replace("``", "`")


def _type(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return " or ".join(f"`{item}`" for item in arguments)
    if origin is tuple:
        return f"{_type(arguments[0])}, several with +"
    if arguments:
        return " or ".join("none" if item is type(None) else _type(item) for item in arguments)
    return {str: "text", int: "integer", float: "number", bool: "true or false"}.get(kind, str(kind.__name__))


def _default(default: Any) -> str:
    if default is dataclasses.MISSING:
        return "required"
    if default == "" or default is None or default == ():
        return "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


# -- predicates ----------------------------------------------------------------------------------------------------


def predicates_page() -> str:
    """The reference of the conditions that descriptors may state."""
    rows = [
        (
            f"`{name}`",
            ", ".join(
                f"`{parameter}` {'' if parameter in entry.required else '(optional) '}{_type(kind)}"
                for parameter, kind in entry.parameters.items()
            ),
            entry.summary,
        )
        for name, entry in PREDICATES.items()
    ]
    lines = [
        "# Predicates",
        "",
        _NOTE,
        "",
        "The conditions that a descriptor may put on kernels and rows, as in",
        '`limits = [{ check = "rank", operand = "x", accepted = [4] }]`. Every one takes a `reason` as well, which replaces its own',
        "explanation. Operands are the names that the kernel's pattern binds, or `output`; an operand that is left out holds",
        "every condition. How to use them: [guides/targets.md](guides/targets.md).",
        "",
        *_table(("check", "parameters", "holds when"), rows),
    ]
    return "\n".join(lines) + "\n"


# -- command line --------------------------------------------------------------------------------------------------


_EXIT_CODES = (
    "| exit code | meaning |",
    "| --- | --- |",
    "| 0 | done, and within budget |",
    "| 1 | bad input or failure; one paragraph on stderr, with `--debug` the traceback too |",
    "| 3 | `compile`: written, but the metric dropped by more than `--max-drop`; `bisect`: something breaks the output |",
    "| 130 | interrupted |",
)


def cli_page() -> str:
    """The reference of the command line, from what `--help` is made of."""
    group: Any = typer.main.get_command(cli.app)  # of click, which typer brings along in a form of its own
    lines = ["# Command line", "", _NOTE, "", _paragraphs(group.help), ""]
    lines += _table(
        ("command", "what it does"),
        [
            (f"[`qcompiler {name}`](#qcompiler-{name})", (command.help or "").strip().split("\n")[0])
            for name, command in group.commands.items()
            if not command.hidden
        ],
    )
    lines += ["", *_EXIT_CODES]
    for name, command in group.commands.items():
        if not command.hidden:
            lines += ["", *_command(name, command)]
    summary, _, example = inspect.cleandoc(settings.__doc__ or "").partition("\n\n")
    lines += ["", "## Configuration files", "", summary, "", "```toml", example.strip(), "```"]
    return "\n".join(lines) + "\n"


def _command(name: str, command: Any) -> Iterator[str]:
    arguments = [entry for entry in command.params if entry.param_type_name == "argument"]
    shown = "".join(f" {_argument(entry)}" for entry in arguments)
    yield f"## qcompiler {name}"
    yield ""
    yield f"`qcompiler {name}{shown} [OPTIONS]`"
    yield ""
    yield _paragraphs(command.help)
    options = [entry for entry in command.params if entry.param_type_name == "option" and not entry.hidden]
    rows = [(f"`{_argument(entry)}`", _one_line(getattr(entry, "help", None))) for entry in arguments]
    rows += [(_flags(entry), _help(entry)) for entry in options if entry.name != "help"]
    if rows:
        yield ""
        yield from _table(("", ""), rows)


def _argument(entry: Any) -> str:
    name = (entry.metavar or entry.human_readable_name).strip("[]").removesuffix("...")
    name = f"{name}..." if entry.nargs == -1 else name
    return name if entry.required else f"[{name}]"


def _flags(entry: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*entry.opts, *entry.secondary_opts))
    if not entry.is_flag and entry.metavar:
        names += f" {entry.metavar}"
    return names


def _help(entry: Any) -> str:
    default = entry.default
    plain = isinstance(default, str | int | float) and not isinstance(default, bool) and default != ""
    shown = entry.show_default if isinstance(entry.show_default, str) else default if plain else ""
    return f"{_one_line(entry.help)}{f' [default: {shown}]' if shown != '' else ''}"


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _paragraphs(text: str | None) -> str:
    return inspect.cleandoc(text or "").replace("\b\n", "")


# -- markdown ------------------------------------------------------------------------------------------------------


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """A table without the columns that are empty in every row."""
    body = [tuple(cell.replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows]
    kept = [index for index in range(len(head)) if any(row[index] for row in body)]
    for row in (head, ("---",) * len(head), *body):
        yield f"| {' | '.join(row[index] for index in kept)} |"


def main() -> int:
    """Writes the pages, or checks them; returns the exit code."""
    check, stale = "--check" in sys.argv[1:], []
    for name, text in pages().items():
        path = DOCS / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for name in stale:
        sys.stdout.write(f"docs/{name.as_posix()}: {'out of date; run make docs' if check else 'written'}\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
