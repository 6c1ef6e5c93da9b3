"""Int8 quantization by NVIDIA Model Optimizer (`modelopt.onnx.quantization`), calibrated on the CPU.

What it does not quantize stays in fp32 (its default would be fp16), so that the error measured is that of
int8 alone. The batch is one sample unless told otherwise, as Model Optimizer itself does for a model with a
free batch dimension; it matters, because the first batch sets the bin width of the entropy histogram.

Needs `nvidia-modelopt[onnx]` in the interpreter that runs it.

Example:
    python modelopt_int8.py model.onnx calibration.npz out.onnx --samples 128
"""

from __future__ import annotations

from importlib.metadata import version

from common import Meter, Reader, Samples, arguments, input_names, stdout_to_stderr, write_json


def main() -> None:
    """Quantizes the model and reports what it cost."""
    parser = arguments(__doc__, quantizes=True)
    parser.add_argument("--method", choices=["entropy", "max"], default="entropy")
    options = parser.parse_args()

    meter = Meter()
    with stdout_to_stderr():
        from modelopt.onnx.quantization import quantize

        names = input_names(options.model)
        samples = Samples(options.data, names, options.samples, options.repeat, options.batch)
        with meter.phase("quantize"):
            quantize(
                str(options.model),
                quantize_mode="int8",
                calibration_data_reader=Reader(samples),
                calibration_method=options.method,
                calibration_eps=["cpu"],
                high_precision_dtype="fp32",
                output_path=str(options.out.resolve()),
            )
    write_json(
        {
            "runner": "modelopt_int8",
            "modelopt": version("nvidia-modelopt"),
            "model": str(options.model),
            "samples": samples.count,
            "batch": samples.batch,
            "method": options.method,
            **meter.report(),
        }
    )


if __name__ == "__main__":
    main()
