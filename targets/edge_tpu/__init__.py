"""TensorFlow Lite files with integers throughout: for the Edge TPU, and for other consumers of the format."""
