"""Static quantization by onnxruntime: `quant_pre_process`, then `quantize_static`, in QDQ form.

The default preset leaves every setting but the calibration method at onnxruntime's own default. The
tensorrt preset is what TensorRT can take: symmetric int8 activations, symmetric int8 weights per channel,
biases left in fp32.

onnxruntime keeps every activation of every sample until the end of calibration. `--stride` makes it reduce
them after so many batches, which bounds the memory and, for entropy, changes the histogram.

Example:
    python ort_static.py model.onnx calibration.npz out.onnx --samples 128 --method percentile
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnxruntime
from common import Meter, Reader, Samples, arguments, input_names, stdout_to_stderr, write_json
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

METHODS = {
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
    "minmax": CalibrationMethod.MinMax,
}
PRESETS: dict[str, dict[str, Any]] = {
    "default": {"extra_options": {}},
    "tensorrt": {
        "activation_type": QuantType.QInt8,
        "weight_type": QuantType.QInt8,
        "per_channel": True,
        "extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    },
}


def main() -> None:
    """Quantizes the model and reports what it cost."""
    parser = arguments(__doc__, quantizes=True)
    parser.add_argument("--method", choices=sorted(METHODS), default="percentile")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="default")
    parser.add_argument(
        "--stride",
        type=int,
        help="batches to keep before reducing them (default: all); must divide them evenly",
    )
    options = parser.parse_args()
    settings = PRESETS[options.preset]
    extra_options = dict(settings["extra_options"])
    if options.stride:
        extra_options["CalibStridedMinMax"] = options.stride

    meter = Meter()
    with stdout_to_stderr(), tempfile.TemporaryDirectory() as folder:
        names = input_names(options.model)
        samples = Samples(options.data, names, options.samples, options.repeat, options.batch)
        prepared = Path(folder) / "prepared.onnx"
        with meter.phase("pre_process"):
            quant_pre_process(str(options.model), str(prepared))
        with meter.phase("quantize"):
            quantize_static(
                str(prepared),
                str(options.out),
                Reader(samples),
                quant_format=QuantFormat.QDQ,
                calibrate_method=METHODS[options.method],
                **{**settings, "extra_options": extra_options},
            )
    write_json(
        {
            "runner": "ort_static",
            "onnxruntime": onnxruntime.__version__,
            "model": str(options.model),
            "samples": samples.count,
            "batch": samples.batch,
            "method": options.method,
            "preset": options.preset,
            "stride": options.stride,
            **meter.report(),
        }
    )


if __name__ == "__main__":
    main()
