"""The far end of `htp.py`: runs a model in the HTP library, in a process of its own, as that prints and may end its process.

Requests and answers are pickles, until the pipe is closed: a `Job`, answered by a `Prepared`, and inputs by name, answered by the list
of the outputs of the job before, or by the text of what went wrong.
"""

from __future__ import annotations

import functools
import os
import pickle
import time
from dataclasses import dataclass, field
from typing import Any

PROVIDER = "QNNExecutionProvider"


@dataclass(frozen=True)
class Job:
    """What to prepare.

    Attributes:
        model: The ONNX file.
        soc: The number by which QNN knows the part; without it the library would take it for a v68.
        folder: Where the provider writes the graph that it made of the model.
        context: File for the context binary, an ONNX model around it; empty for none.
        verbose: Whether the provider and the library give their reasons, on standard errors.
    """

    model: str
    soc: int
    folder: str
    context: str = ""
    verbose: bool = False


@dataclass(frozen=True)
class Prepared:
    """What came of it.

    Attributes:
        error: What went wrong; empty if nothing.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        assigned: Provider to the nodes that it runs.
        seconds: How long it took.
    """

    error: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    assigned: dict[str, tuple[str, ...]] = field(default_factory=dict)
    seconds: float = 0.0


def main() -> None:
    """Answers requests until there are no more."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the library prints would get between the answers
    session: Any = None
    while True:
        try:
            request = pickle.load(source)
        except EOFError:
            return
        if isinstance(request, Job):
            session = None  # the library frees what belonged to it
            session, answer = _prepare(request)
        else:
            answer = _run(session, request)
        pickle.dump(answer, sink, protocol=pickle.HIGHEST_PROTOCOL)
        sink.flush()


def _run(session: Any, feeds: dict[str, Any]) -> Any:
    try:
        return session.run(None, feeds)
    except Exception as error:
        return str(error)


def _prepare(job: Job) -> tuple[Any, Prepared]:
    """A session in which nothing but the provider may run anything, or why there is none."""
    started = time.perf_counter()
    try:
        session = _session(job)
    except Exception as error:
        return None, Prepared(error=str(error))
    if PROVIDER not in session.get_providers():
        return None, Prepared(error=f"{PROVIDER} did not start")
    assigned = {
        part.ep_name: tuple(node.name for node in part.get_nodes())
        for part in session.get_provider_graph_assignment_info()
    }
    inputs = tuple(value.name for value in session.get_inputs())
    outputs = tuple(value.name for value in session.get_outputs())
    return session, Prepared("", inputs, outputs, assigned, time.perf_counter() - started)


def _session(job: Job) -> Any:
    import onnxruntime
    import onnxruntime_qnn

    devices = _devices(job.verbose)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 0 if job.verbose else 4
    settings = {"session.disable_cpu_ep_fallback": "1", "session.record_ep_graph_assignment_info": "1"}
    if job.context:
        settings |= {
            "ep.context_enable": "1",
            "ep.context_file_path": job.context,
            "ep.context_embed_mode": "1",
        }
    for key, setting in settings.items():
        options.add_session_config_entry(key, setting)
    options.add_provider_for_devices(
        devices[:1],
        {
            "backend_path": onnxruntime_qnn.get_qnn_htp_path(),
            "soc_model": str(job.soc),
            "offload_graph_io_quantization": "0",
            "dump_json_qnn_graph": "1",
            "json_qnn_graph_dir": job.folder,
            "enable_framework_op_trace": "1",
            "framework_op_trace_dir": job.folder,
        },
    )
    # Without this, what cannot be prepared would run on the CPU.
    return onnxruntime.InferenceSession(job.model, sess_options=options, enable_fallback=0)


@functools.cache
def _devices(verbose: bool) -> list[Any]:
    """What the provider offers to run models on, once it is registered, which can be done once."""
    import onnxruntime
    import onnxruntime_qnn

    onnxruntime.set_default_logger_severity(0 if verbose else 4)  # the library speaks through this one alone
    onnxruntime.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER]
