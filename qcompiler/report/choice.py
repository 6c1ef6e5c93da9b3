"""How precision was chosen, in words: limits, what decided, what each value loses per format, which trial was taken."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qcompiler.report import words

Node = Mapping[str, Any]

_MINIMISED = {"loss": "predicted loss", "size": "size of all weights", "latency": "predicted latency"}
_NOTHING = 1e-9  # of the whole: a change of less is rounding


@dataclass(frozen=True)
class Tried:
    """What one form of a value loses.

    Attributes:
        encoding: In words, as the target's descriptor has it.
        loss: The loss at the outputs that it alone causes; None where it is not finite.
        error: Its standard error.
        measured: Whether the form was run, or follows from the value's other forms.
        chosen: Whether the value is read so in what was compiled.
    """

    encoding: str
    loss: float | None
    error: float
    measured: bool
    chosen: bool


@dataclass(frozen=True)
class ValueLosses:
    """A value that some legal row would quantize.

    Attributes:
        value: Its name.
        constant: Whether it is a weight.
        readers: The nodes that read it quantized; where it only passes through others, those behind.
        tried: Its forms.
    """

    value: str
    constant: bool
    readers: tuple[str, ...]
    tried: tuple[Tried, ...]


# -- losses of values --------------------------------------------------------------------------------------


def value_losses(report: words.Report) -> list[ValueLosses]:
    """The measured losses by value, in graph order; empty where nothing was measured."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for item in (report.get("sensitivity") or {}).get("losses", ()):
        found.setdefault(item["value"], []).append(item)
    if not found:
        return []
    reads = _reads(report["nodes"], found)
    computed = {name for node in report["nodes"] for name in node["outputs"]}
    listed = []
    for value, items in found.items():
        entries = reads.get(value, [])
        constant = (
            any(entry["constant"] for _, entry in entries)
            if entries
            else value not in computed and any(item["axis"] is not None for item in items)
        )
        read = [entry["encoding"] for _, entry in entries]
        tried = tuple(
            Tried(
                item["encoding"], finite(item["loss"]), finite(item["error"]) or 0.0, item["measured"],
                any(_is_form(text, item["encoding"]) for text in read),
            )
            for item in items
        )  # fmt: skip
        listed.append(ValueLosses(value, constant, tuple(dict.fromkeys(node for node, _ in entries)), tried))
    return listed


def finite(number: float | None) -> float | None:
    """The number, or None where it is not finite (report.json has null there already)."""
    return number if number is not None and math.isfinite(number) else None


def _reads(nodes: list[Node], known: Mapping[str, Any]) -> dict[str, list[tuple[str, Node]]]:
    """Which nodes read a value, and how.

    Losses go by the value that is computed, encodings by the value that is read: between them lie nodes that only rearrange
    elements. What these read themselves counts where nothing else does.
    """
    producers = {name: node for node in nodes for name in node["outputs"]}
    found: dict[str, list[tuple[str, Node]]] = {}
    passing: dict[str, list[tuple[str, Node]]] = {}
    for node in nodes:
        into = passing if node["kind"] == "movement" else found
        for entry in node["encodings"]:
            source = next((name for name in _back(entry["value"], producers) if name in known), None)
            if source is not None:
                into.setdefault(source, []).append((node["name"], entry))
    return {**passing, **found}


def _back(value: str, producers: Mapping[str, Node]) -> Iterator[str]:
    """A value, and what it is rearranged from."""
    while True:
        yield value
        node = producers.get(value)
        first = next((entry for entry in node["encodings"] if entry["slot"] == 0), None) if node else None
        if node is None or node["kind"] != "movement" or first is None or first["value"] == value:
            return
        value = first["value"]


def _is_form(encoding: str, form: str) -> bool:
    """Whether an encoding, with its numbers, is of a form: `int4 per-channel(axis 0) scale 0.1` of `int4 symmetric per-channel`."""
    given, asked = encoding.split("(")[0].split(), form.split()
    return given[0] == asked[0] and (len(given) < 2 or given[1] in asked)


# -- the choice of the whole -------------------------------------------------------------------------------


def measure_text(measure: str) -> str:
    """What losses are."""
    return "KL divergence of the outputs from the float model's, nats" if measure == "kl" else measure


def time_unit(seconds: float) -> tuple[float, str]:
    """The factor and the name of the unit in which a time is read best."""
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1:
            return factor, unit
    return 1e9, "ns"


def time_text(seconds: float) -> str:
    """A latency with four digits."""
    factor, unit = time_unit(abs(seconds))
    number = seconds * factor
    return f"{number:.{max(0, 4 - len(str(int(abs(number)))))}f} {unit}"


def and_text(names: list[str]) -> str:
    """Names with `and` before the last one."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def goal_text(report: words.Report) -> str:
    """What was made small, within what, and whether that is proven."""
    assignment = report["assignment"]
    if assignment["unmet"]:
        return f"no choice keeps {'all limits' if assignment['missed'] != 'loss' else 'so low a loss'}; this one comes nearest"
    return f"the least {_MINIMISED[assignment['minimise']]}, {_proof(report)}"


def _proof(report: words.Report) -> str:
    assignment = report["assignment"]
    if assignment["optimal"]:
        return "proven best"
    minimise, bound = assignment["minimise"], assignment["bound"]
    reached = _whole_size(report) if minimise == "size" else assignment[minimise]
    below = {
        "size": f"{bound / 8:,.0f} bytes",
        "latency": time_text(bound),
        "loss": f"{bound:.4g}",
    }[minimise]
    gap = f", a gap of {100 * (reached - bound) / reached:.2g} %" if reached > bound > 0 else ""
    return f"not proven best: no choice is below {below}{gap}"


def _whole_size(report: words.Report) -> float:
    """Bits of the whole, as `limits` and `bound` count them: of weights alone, or of all constants."""
    assignment = report["assignment"]
    if assignment["sized"] == "constants":
        return float(assignment["size_bytes"] * 8)
    return float(assignment["weight_bits"] * sum(row["parameters"] for row in report.get("weights", ())))


def _sized(report: words.Report) -> str:
    return "weights" if report["assignment"]["sized"] == "weights" else "weights and tables"


def limit_texts(report: words.Report) -> dict[str, str]:
    """The limits that a choice was held to, by quantity, with where each comes from."""
    asked, found = report["budget"]["asked"], {}
    for name, limit in report["assignment"]["limits"].items():
        if name == "size":
            options = ("weight_bits", "max_size", "max_flash")
            origins = [f"--{key.replace('_', '-')} {asked[key]:g}" for key in options if key in asked]
            origins = origins or ["a step of the search"] * bool(report.get("search"))
            text = f"{limit / 8:,.0f} bytes of {_sized(report)}"
        elif name == "latency":
            implied = "no slower than one precision everywhere"
            if report["assignment"].get("slower"):
                implied = "as fast as that loss allows; one precision everywhere loses more"
            origins = ["--max-latency" if "max_latency" in asked else implied]
            text = f"a latency of {time_text(limit)}"
        else:
            origins = (
                [f"found by measuring, for --max-drop {asked['max_drop']:g}"] if "max_drop" in asked else []
            )
            text = f"a predicted loss of {limit:.4g}"
        found[name] = f"{text} ({' and '.join(origins)})" if origins else text
    return found


def reached_text(report: words.Report) -> str:
    """What was predicted for the choice."""
    assignment = report["assignment"]
    parts = [
        f"loss {assignment['loss']:.4g}",
        f"{assignment['weight_bits']:.4g} bits per weight",
        f"{assignment['size_bytes']:,.0f} bytes",
    ]
    parts += [time_text(assignment["latency"])] if assignment["latency"] else []
    return ", ".join(parts)


def binding_text(report: words.Report) -> str:
    """Which limits the choice would be better without."""
    binding = list(report["assignment"]["binding"])
    if not binding:
        return "no limit costs anything" if report["assignment"]["limits"] else "there was no limit"
    some, them = ("limits", "them") if len(binding) > 1 else ("limit", "it")
    less = _MINIMISED[report["assignment"]["minimise"]]
    return f"the {some} on {and_text(binding)} decided (without {them}, the {less} would be less)"


# -- the choice for one region -----------------------------------------------------------------------------


def weighed(report: words.Report, region: str) -> Mapping[str, Any] | None:
    """What was considered for a region; None where there was no budget, or no choice."""
    found: Mapping[str, Any] | None = (report.get("assignment") or {}).get("regions", {}).get(region)
    return found


def decided_text(report: words.Report, region: Mapping[str, Any]) -> str:
    """What kept a region from a row that would have been better for what was minimised."""
    assignment, minimise = report["assignment"], report["assignment"]["minimise"]
    if assignment["unmet"]:
        return f"not by the least {_MINIMISED[minimise]}: {goal_text(report)}"
    least = _NOTHING * (_whole_size(report) if minimise == "size" else assignment[minimise])
    better = [
        item for item in region["considered"] if item["row"] != region["row"] and item[minimise] < -least
    ]
    barred = [item for item in better if item["breaks"]]
    if not better:
        return f"by the {_MINIMISED[minimise]} alone: no other row here has less"
    if not barred:
        return (
            "by the whole: a row here would be better alone"
            if assignment["optimal"]
            else "not proven best: a row here would be better alone"
        )
    limits = [name for name in ("loss", "size", "latency") if any(name in item["breaks"] for item in barred)]
    nearest = max(barred, key=lambda item: item[minimise])
    some = "limits" if len(limits) > 1 else "limit"
    broken = and_text([_beyond(report, name, nearest[name]) for name in nearest["breaks"]])
    return f"the {some} on {and_text(limits)} decided: {nearest['row']} would take {_saving(minimise, nearest)}, but mean {broken}"


def _saving(minimise: str, item: Mapping[str, Any]) -> str:
    gain = -item[minimise]
    if minimise == "size":
        return f"{words.count_text(round(gain / 8), 'byte')} less"
    return f"{time_text(gain)} less" if minimise == "latency" else f"{gain:.3g} off the loss"


def _beyond(report: words.Report, name: str, change: float) -> str:
    """A quantity of the whole after a change, beside its limit."""
    assignment = report["assignment"]
    limit = assignment["limits"].get(name)
    if limit is None:
        return f"more {name} than allowed"
    if name == "size":
        return (
            f"{(_whole_size(report) + change) / 8:,.0f} bytes of {_sized(report)} (at most {limit / 8:,.0f})"
        )
    if name == "latency":
        return f"a latency of {time_text(assignment[name] + change)} (at most {time_text(limit)})"
    return f"a loss of {assignment[name] + change:.4g} (at most {limit:.4g})"


# -- trials ------------------------------------------------------------------------------------------------


def is_chosen(report: words.Report, trial: Mapping[str, Any]) -> bool:
    """Whether a trial is what was compiled."""
    assignment = report.get("assignment")
    return assignment is not None and all(
        math.isclose(trial[key], assignment[name], rel_tol=1e-9, abs_tol=1e-15)
        for key, name in (("predicted_loss", "loss"), ("weight_bits", "weight_bits"))
    )


def trial_texts(report: words.Report, trial: Mapping[str, Any]) -> dict[str, str]:
    """A trial's numbers with as many decimals in every one, so that columns of them can be read."""
    measured = outcome_texts(report, trial)
    return {
        "size": measured["size"],
        "bits": f"{trial['weight_bits']:.2f}",
        "drop": measured["drop"],
        "sqnr": measured["sqnr"],
        "latency": time_text(trial["latency_ms"] / 1e3) if trial["latency_ms"] else "–",
    }


def outcome_texts(report: words.Report, outcome: Mapping[str, Any]) -> dict[str, str]:
    """What was measured of a plan, likewise."""
    unit = (report.get("metric") or {}).get("unit", "")
    drop, noise = finite(outcome["drop"]), finite(outcome["sqnr_db"])
    points = f"{drop * 100 + 0.0:.2f} points" if drop is not None and unit == "fraction" else ""
    return {
        "size": words.size_text(outcome["size_bytes"]),
        "drop": points or words.drop_text(drop, unit),
        "sqnr": "∞ dB" if noise is None else f"{noise:.1f} dB",
    }


def plan_of(report: words.Report, trial: Mapping[str, Any]) -> str:
    """The file of a trial's plan, if it is on the front."""
    for point in report.get("pareto") or ():
        if all(point[key] == number for key, number in trial.items() if key != "plan"):
            return str(point["plan"])
    return ""


def steps(report: words.Report) -> list[Mapping[str, Any]]:
    """The trials that were made to find the loss at which the drop is what was asked for."""
    return [trial for trial in report.get("search") or () if trial["loss_limit"] is not None]
