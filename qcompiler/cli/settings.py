"""What a compilation is asked for: the options of the command line, over those of a configuration file.

model = "model.onnx"            # the same keys as the options; paths are relative to this file
target = "NAME:DEVICE"
calibration = "calibration.npz"
max-drop = 0.01
pass = ["my_passes.py:Sharpen"]

[passes.calibrate]              # options of passes, see `qcompiler passes`
method = "percentile:99.99"
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qcompiler.dimensions import read_dimensions
from qcompiler.errors import OptionError
from qcompiler.pairs import read_pairs
from qcompiler.schema import SchemaReader

_PATHS = ("model", "output", "calibration", "evaluation", "plan", "statistics", "dump")


def _key(name: str, default: Any = None) -> Any:
    """A field that is called otherwise on the command line and in files."""
    return field(default=default, metadata={"key": name})


@dataclass(frozen=True)
class Settings:
    """Everything that `qcompiler compile` can be told; None where nothing was said. See `qcompiler.options.Options`."""

    model: str | None = None
    target: str | None = None
    output: str | None = None
    calibration: str | None = None
    evaluation: str | None = None
    metric: str | None = None
    max_drop: float | None = _key("max-drop")
    weight_bits: float | None = _key("weight-bits")
    max_size: float | None = _key("max-size")
    max_latency: float | None = _key("max-latency")
    max_ram: int | None = _key("max-ram")
    max_flash: int | None = _key("max-flash")
    io: str | None = None
    target_option: tuple[str, ...] = _key("target-option", ())
    allow_cpu: bool | None = _key("allow-cpu")
    minimise: str | None = None
    pareto: bool | None = None
    plan: str | None = None
    statistics: str | None = None
    method: str | None = None
    extra: tuple[str, ...] = _key("pass", ())
    pipeline: str | None = None
    option: tuple[str, ...] = ()
    dimension: tuple[str, ...] = ()
    float_format: str | None = _key("float-format")
    dump: str | None = None
    verify_each: bool | None = _key("verify-each")
    force: bool | None = None
    passes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def gathered(cls, config: str | None, given: Mapping[str, Any]) -> Settings:
        """The settings of a configuration file, if there is one, with those of the command line over them.

        Raises:
            OptionError: The file cannot be read or has a mistake; says where and what is accepted.
        """
        settings = read_config(Path(config)) if config is not None else cls()
        said = {name: entry for name, entry in given.items() if entry is not None and entry != ()}
        merged = dataclasses.replace(settings, **said)
        if config is None or "target_option" in said:
            return merged
        return dataclasses.replace(merged, target_option=_files_beside(Path(config).parent, merged))

    def required(self, name: str, hint: str) -> str:
        """A setting that there must be.

        Raises:
            OptionError: Neither the command line nor the file gives it.
        """
        found = getattr(self, name)
        if found is None:
            raise OptionError(
                f"There is no {name} given: {hint}, or the key {name!r} in the file of --config."
            )
        return str(found)

    def options(self) -> dict[str, Any]:
        """The keyword arguments for `qcompiler.compile`, without model, target, data and output.

        Raises:
            OptionError: An --option is malformed, or the range method unknown.
        """
        named = {
            "metric": self.metric,
            "max_drop": self.max_drop,
            "weight_bits": self.weight_bits,
            "max_size": self.max_size,
            "max_latency": self.max_latency,
            "max_ram": self.max_ram,
            "max_flash": self.max_flash,
            "io": self.io,
            "target_options": read_pairs("--target-option", self.target_option),
            "allow_cpu": self.allow_cpu,
            "minimise": self.minimise,
            "pareto": self.pareto,
            "plan": self.plan,
            "statistics": self.statistics,
            "passes": self.extra,
            "pipeline": self.pipeline,
            "float_format": self.float_format,
            "dump": self.dump,
            "verify_each": self.verify_each,
            "force": self.force,
            "pass_options": self.pass_options(),
            "dimensions": read_dimensions(self.dimension),
        }
        return {name: entry for name, entry in named.items() if entry is not None}

    def pass_options(self) -> dict[str, dict[str, Any]]:
        """Options by pass: those of the file, --option over them, --method over both."""
        merged = {name: dict(entries) for name, entries in self.passes.items()}
        form = "PASS.OPTION=VALUE, for example calibrate.batch=4"
        for path, given in read_pairs("--option", self.option, form, name=r"[^.=]+\.[^=]+").items():
            name, _, key = path.partition(".")
            merged.setdefault(name, {})[key] = given
        if self.method is not None:
            from qcompiler.ranges import range_method

            range_method(self.method)  # a wrong name is told now, not after minutes of work
            merged.setdefault("calibrate", {})["method"] = self.method
        return merged


def read_config(path: Path) -> Settings:
    """Reads a configuration file. Keys may be written with underscores, too; paths are relative to the file.

    Raises:
        OptionError: The file cannot be read, is not TOML, or has an unknown key or a wrong value.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"The configuration {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} is not valid TOML: {error}.") from error
    keys = {name.replace("_", "-"): entry for name, entry in table.items()}
    settings = SchemaReader(str(path), OptionError).read(Settings, keys)
    folder = path.parent
    moved: dict[str, Any] = {
        name: str(folder / entry) for name in _PATHS if (entry := getattr(settings, name)) is not None
    }
    if settings.target is not None and ".toml" in settings.target:
        moved["target"] = str(folder / settings.target)
    if settings.metric is not None:
        moved["metric"] = _beside(folder, settings.metric)
    moved["extra"] = tuple(_beside(folder, text) for text in settings.extra)
    return dataclasses.replace(settings, **moved)


def _files_beside(folder: Path, settings: Settings) -> tuple[str, ...]:
    """The target's own options of a configuration file, paths of files taken as relative to it: which ones are, the target knows."""
    if settings.target is None or not settings.target_option:
        return settings.target_option
    from qcompiler.targets import find_target  # it takes a moment to import

    options = find_target(settings.target).option
    pairs = read_pairs("--target-option", settings.target_option)
    files = {name for name in pairs if name in options and options[name].takes == "file"}
    return tuple(f"{name}={folder / given if name in files else given}" for name, given in pairs.items())


def _beside(folder: Path, text: str) -> str:
    """`file.py:Name` with the file beside the configuration; other texts as they are."""
    return str(folder / text) if ".py:" in text else text
