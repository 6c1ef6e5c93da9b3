"""NVIDIA TensorRT: explicit QDQ ONNX."""
