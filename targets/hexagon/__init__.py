"""Qualcomm Hexagon (HTP): QDQ ONNX for onnxruntime's QNN execution provider, and encodings for Qualcomm's converter."""
