"""Arm Cortex-M: C code on CMSIS-NN kernels."""
