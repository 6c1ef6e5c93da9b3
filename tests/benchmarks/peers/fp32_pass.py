"""One bare fp32 pass of onnxruntime over the calibration samples.

This is the yardstick for calibration: no method that looks at activations can do with less than running
the model once. Default session options; the outputs are dropped.

Example:
    python fp32_pass.py model.onnx calibration.npz --samples 1000 --repeat --batch 8
"""

from __future__ import annotations

import onnxruntime
from common import Meter, Samples, arguments, stdout_to_stderr, write_json


def main() -> None:
    """Runs the pass and reports what it cost."""
    options = arguments(__doc__, quantizes=False).parse_args()
    meter = Meter()
    with stdout_to_stderr():
        with meter.phase("load"):
            session = onnxruntime.InferenceSession(str(options.model), providers=["CPUExecutionProvider"])
        names = [node.name for node in session.get_inputs()]
        samples = Samples(options.data, names, options.samples, options.repeat, options.batch)
        with meter.phase("run"):
            for feed in samples:
                session.run(None, feed)
    write_json(
        {
            "runner": "fp32_pass",
            "onnxruntime": onnxruntime.__version__,
            "model": str(options.model),
            "samples": samples.count,
            "batch": samples.batch,
            **meter.report(),
        }
    )


if __name__ == "__main__":
    main()
