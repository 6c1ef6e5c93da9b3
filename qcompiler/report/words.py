"""What a report says, in words: the page and the terminal show the same verdict, the same facts and the same numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["good", "caution", "bad", "plain"]
Report = Mapping[str, Any]


@dataclass(frozen=True)
class Fact:
    """One line of the summary.

    Attributes:
        label: What it is about.
        text: The fact itself, short.
        detail: What it rests on.
        level: How to look at it.
    """

    label: str
    text: str
    detail: str = ""
    level: Level = "plain"


# -- text --------------------------------------------------------------------------------------------------

_HIDDEN = dict.fromkeys(
    (*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)),
    "\ufffd",
)


def printable(text: str) -> str:
    """The text with a sign in place of characters that would act instead of being shown: control codes, turns of direction.

    Names come from model files, and a terminal obeys what such characters say.
    """
    return text.translate(_HIDDEN)


# -- numbers -----------------------------------------------------------------------------------------------


def size_text(size: float) -> str:
    """Bytes as people read them: 59.9 KiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.3g} {unit}"


def change_text(before: str, after: str) -> str:
    """Two quantities, with the unit once where it is the same: `164 → 59.9 KiB`."""
    number, _, unit = before.partition(" ")
    return f"{number} → {after}" if unit == after.partition(" ")[2] else f"{before} → {after}"


def count_text(number: int, one: str, many: str = "") -> str:
    """A count with its noun: `1 node`, `2,000 nodes`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def seconds_text(seconds: float) -> str:
    """A duration with about three digits."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms" if seconds >= 0.0001 else "0 ms"
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"


def number_text(number: float | None) -> str:
    """A plain number with four digits; a dash for what is not there."""
    return "–" if number is None or math.isnan(number) else f"{number:.4g}"


def metric_text(number: float | None, unit: str) -> str:
    """A value of a metric with its unit; infinities (null in report.json) are an infinite ratio."""
    if number is None or math.isinf(number):
        return "∞ dB" if unit == "dB" else "–"
    if unit == "fraction":
        return f"{number * 100:.2f} %"
    return f"{number:.4g} {unit}".rstrip()


def encoding_text(encoding: str | None) -> str:
    """An encoding in one or two words: `int8`, `int8 per-channel`."""
    if not encoding:
        return "–"
    words = encoding.split("(")[0].split()
    return words[0] if len(words) < 2 or words[1] == "per-tensor" else f"{words[0]} {words[1]}"


def formats_of_regions(nodes: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Region to the format that it computes on: that of a weight, else of a quantized input, else of its floats."""
    found: dict[str, str] = {}
    for node in nodes:
        formats = [text.split()[0] for text in (node["weight"], *node["inputs"]) if text]
        quantized = [name for name in formats if node["quantized"] and not is_float(name)]
        plain = next((name for name in formats if is_float(name)), "float32")
        if quantized and is_float(found.get(node["region"], "float32")):
            found[node["region"]] = quantized[0]
        found.setdefault(node["region"], plain)
    return found


def is_float(name: str) -> bool:
    """Whether a format's name means plain floats."""
    return name in ("float64", "float32", "float16", "bfloat16")


def limited(items: list[str], most: int = 6) -> str:
    """Names, the first few of them."""
    more = len(items) - most
    return ", ".join(items[:most]) + (f" and {more:,} more" if more > 0 else "")


# -- the summary -------------------------------------------------------------------------------------------


def label(report: Report) -> str:
    """The target with its device."""
    target = report["target"]
    return f"{target['name']}:{target['device']}" if target.get("device") else str(target["name"])


def verdict(report: Report) -> Fact:
    """The one sentence at the top."""
    verify, quantized = report.get("verify"), report["quantized"]
    if not report["budget"]["met"]:
        budget, metric = _budget(report), report.get("metric")
        detail = f"{_drop(metric)}, {budget.detail} allowed" if metric is not None else budget.detail
        detail = "" if unmet(report) else detail
        return Fact("Verdict", "Compiled, but a stated budget is not met", detail, "bad")
    if verify is not None and not verify["passed"]:
        return Fact(
            "Verdict",
            "Compiled, but not as planned",
            f"{count_text(len(verify['problems']), 'problem')} found by {verify['consumer']}",
            "bad",
        )
    if not quantized["regions"]:
        return Fact("Verdict", "Compiled, but nothing is quantized", level="caution")
    placed = partition(report)
    if placed is not None and not placed["mapped"]:
        return Fact("Verdict", "Compiled, but the accelerator would run nothing of it", level="caution")
    if verify is None:
        return Fact("Verdict", "Compiled, not verified", level="caution")
    if not verify["ran"]:
        return Fact("Verdict", "Compiled, checked against rules only", level="caution")
    return Fact("Verdict", "Compiled and verified", level="good")


def unmet(report: Report) -> list[str]:
    """What is said of each stated limit that is not kept."""
    return list(report["budget"].get("unmet") or ())


def facts(report: Report) -> list[Fact]:
    """The facts behind the verdict, most important first."""
    found = [_quantized(report), _accuracy(report), _noise(report), _size(report), *_placed(report)]
    return [*found, _verified(report), _budget(report)]


def _quantized(report: Report) -> Fact:
    counts = report["quantized"]
    some, every = counts["weighted_nodes"], counts["all_weighted_nodes"]
    detail = f"{counts['regions']} of {count_text(counts['all_regions'], 'region')}"
    if report.get("weights"):
        detail += f"; {number_text(report['weight_bits'])} bits per weight"
    return Fact(
        "Quantized",
        f"{some:,} of {count_text(every, 'weighted node')}",
        detail,
        "plain" if some else "caution",
    )


def measured(report: Report) -> float | None:
    """The metric of what was compiled: of the artifact where it was run, else of the reference."""
    metric = report["metric"]
    found: float | None = metric["artifact"] if metric["artifact"] is not None else metric["reference"]
    return found


def _accuracy(report: Report) -> Fact:
    metric = report.get("metric")
    if metric is None:
        return Fact(
            "Accuracy", "not measured", "no evaluation or calibration data were given", level="caution"
        )
    unit, after = metric["unit"], measured(report)
    detail = f"{metric['name']}, {count_text(metric['samples'], 'sample')} of the {metric['data']} data"
    if metric["float"] is None or math.isinf(metric["float"]):
        return Fact("Accuracy", metric_text(after, unit), detail)
    text = change_text(metric_text(metric["float"], unit), metric_text(after, unit))
    doubt = _doubt(report)
    detail = "; ".join(filter(None, (_drop(metric, sure=True), detail, doubt)))
    return Fact("Accuracy", text, detail, "caution" if doubt else "plain")


def _doubt(report: Report) -> str:
    """That the samples cannot tell whether a stated limit on the drop is kept, where they cannot."""
    error, allowed = report["metric"].get("drop_error"), report["budget"]["asked"].get("max_drop")
    if error is None or allowed is None or error <= allowed:
        return ""
    return (
        f"these samples do not tell {allowed * 100:.3g} points from none: more of them would say more surely "
        "that --max-drop is kept"
    )


def _drop(metric: Mapping[str, Any], *, sure: bool = False) -> str:
    """How much worse the metric is; `sure`: and how surely that is known."""
    drop = metric.get("drop")
    if drop is None:
        return "difference unknown"
    error = metric.get("drop_error") if sure else None
    doubt = f", ± {error * 100:.2g} at 95 %" if error is not None else ""
    if drop == 0:
        return f"no difference{doubt}"
    word = "worse" if drop > 0 else "better"
    if metric["unit"] != "fraction":
        return f"{abs(drop):.3g} {metric['unit']}".rstrip() + f" {word}"
    samples = round(abs(drop) * metric["samples"])
    return f"{abs(drop) * 100:.2f} points {word}{doubt} (net {count_text(samples, 'sample')})"


def _noise(report: Report) -> Fact:
    metric = report.get("metric")
    if metric is None:
        return Fact("Output SQNR", "not measured", "")
    against = metric.get("against_float", {}).get("reference", {})
    largest = against.get("max_abs_diff")
    detail = "of the outputs against the fp32 model's"
    if largest == 0:
        return Fact("Output SQNR", "∞ dB", f"{detail}: the same numbers")
    if largest is not None:
        detail += f"; largest difference {number_text(largest)}"
    db = report.get("sqnr_db")
    return Fact("Output SQNR", "not finite" if db is None or math.isinf(db) else f"{db:.1f} dB", detail)


def _size(report: Report) -> Fact:
    before, after = report["size_bytes"]["float"], report["size_bytes"]["compiled"]
    ratio = before / after if after else 0.0
    detail = f"{ratio:.2f}× smaller" if ratio >= 1 else f"{1 / ratio:.2f}× larger" if ratio else ""
    detail = "about the same" if abs(ratio - 1) < 0.005 else detail
    return Fact("Size", change_text(size_text(before), size_text(after)), detail)


def partition(report: Report) -> Mapping[str, Any] | None:
    """Where the operators of the artifact run, where the target says so."""
    found: Mapping[str, Any] | None = ((report.get("artifact") or {}).get("details") or {}).get("partition")
    return found


def _placed(report: Report) -> list[Fact]:
    placed = partition(report)
    if placed is None:
        return []
    text = f"{placed['mapped']:,} of {count_text(len(placed['operators']), 'operator')}"
    if not placed["mapped"]:
        return [Fact("Accelerator", text, "predicted", "bad")]
    where = "" if placed["segments"] == 1 else f"the first of {placed['segments']:,} segments; "
    detail = f"{where}{parameters_text(placed['parameters'])}; predicted"
    return [Fact("Accelerator", text, detail, "good" if placed["whole"] else "caution")]


def parameters_text(parameters: Mapping[str, Any]) -> str:
    """Whether parameters stay on the accelerator."""
    held = f"{size_text(parameters['bytes'])} of parameters"
    if parameters["fit"] is None:
        return f"{held} may not all fit on chip"
    streamed = interval_text(*map(size_text, parameters["streamed"]))
    return (
        f"{held} fit on chip" if parameters["fit"] else f"of {held}, {streamed} go there at every inference"
    )


def interval_text(low: str, high: str) -> str:
    """Two quantities of which the truth lies between; one where they are the same."""
    return low if low == high else f"{low} to {high}"


def _verified(report: Report) -> Fact:
    verify = report.get("verify")
    if verify is None:
        why = (
            "no artifact of its own was written"
            if report.get("artifact") is None
            else "this target has no verification"
        )
        return Fact("Verification", "not verified", why, "caution")
    consumer = f"{verify['consumer']} {verify['version']}".strip()
    level: Level = "bad" if not verify["passed"] else "good" if verify["ran"] else "caution"
    text = "passed" if verify["passed"] else count_text(len(verify["problems"]), "problem")
    if not verify["ran"]:
        text += ", rules only"
    return Fact("Verification", text, f"{consumer}: {verify['summary']}", level)


def _budget(report: Report) -> Fact:
    asked = report["budget"]["asked"]
    if not asked:
        return Fact("Budget", "none stated", "")
    met = report["budget"]["met"]
    unit = (report.get("metric") or {}).get("unit", "")
    entries = [limit_text(name, limit, unit) for name, limit in asked.items()]
    return Fact("Budget", "met" if met else "not met", "; ".join(entries), "good" if met else "bad")


def limit_text(name: str, limit: float, unit: str) -> str:
    """A stated limit, in the unit that people read it in.

    Args:
        name: The option: `max_drop`, `weight_bits`, `max_size`, `max_latency`, `max_ram`, `max_flash`.
        limit: Its value.
        unit: The metric's.
    """
    if name == "max_drop":
        return f"a drop of at most {drop_text(limit, unit)}"
    if name == "weight_bits":
        return f"at most {limit:.4g} bits per weight"
    if name == "max_size":
        text = f"{limit:,.0f} bytes" if limit < 1024 else f"{size_text(limit)} ({limit:,.0f} bytes)"
        return f"at most {text} of weights and tables"
    if name == "max_latency":
        return f"at most {limit:.4g} ms by the target's cost model"
    if name in ("max_ram", "max_flash"):
        return f"at most {limit:,.0f} bytes of {'memory' if name == 'max_ram' else 'code and constants'}"
    return f"{name.replace('_', ' ')} {limit:.6g}"


def drop_text(drop: float | None, unit: str) -> str:
    """A drop in a metric: a share of samples in points."""
    if drop is None or not math.isfinite(drop):
        return "–"
    if unit == "fraction":
        return f"{drop * 100 + 0.0:.4g} points"
    return f"{drop:.3g} {unit}".rstrip()


def float_reasons(report: Report) -> list[tuple[str, list[str]]]:
    """Why regions stay float: each reason with the names of the regions, the most frequent one first."""
    found: dict[str, dict[str, None]] = {}
    for node in report["nodes"]:
        if not node["quantized"]:
            found.setdefault(node["reason"], {})[node["region"]] = None
    entries = [(reason, list(regions)) for reason, regions in found.items()]
    return sorted(entries, key=lambda entry: -len(entry[1]))


def relation_text(entry: Mapping[str, Any]) -> str:
    """What ties an encoding to others, and where it keeps its offset; empty where there is nothing to say."""
    words = {
        "same": "shared by all values that must have one encoding",
        "derived": "derived from the operands' scales",
        "fixed": "fixed by the target",
    }
    parts = [words[entry["relation"]]] if entry["relation"] in words else []
    if not entry["stored"] and not entry.get("constant"):
        parts.append("converted for this use")
    if entry.get("offset") == "bias":
        parts.append("offset kept in the consumer's bias")
    return ", ".join(parts)
