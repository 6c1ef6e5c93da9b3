"""A small, real demo: a trained digit classifier with the data to quantize and judge it.

The data are the 1797 scanned handwritten digits that scikit-learn ships as ``load_digits``: the test
part of the *Optical Recognition of Handwritten Digits* data set (E. Alpaydin and C. Kaynak, 1998, UCI
Machine Learning Repository, https://doi.org/10.24432/C50P49), licensed CC BY 4.0. Changes made here:
pixel counts 0..16 are divided by 16, and the samples are split. The parts are:

==================== ======= ==========================================================
part                 samples use
==================== ======= ==========================================================
training             1397    fitted the weights; not stored
calibration          200     20 per digit, drawn from the training part
evaluation           400     40 per digit, held out from training and from calibration
==================== ======= ==========================================================

The split is by sample: a person who wrote digits of the evaluation part also wrote digits of the
training part, so the accuracy says nothing about unseen handwriting styles.

``python -m qcompiler.demo.train`` makes all three files anew: the data byte for byte, the weights too on the
same processor and torch build, elsewhere with differences in rounding.
"""

from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parent

MODEL: Final = _FOLDER / "digits.onnx"
"""The float32 classifier, opset 17, with every BatchNormalization still a node of its own.

Input ``image``: float32 ``[batch, 1, 8, 8]``, ink coverage from 0 (paper) to 1 (fully inked).
Output ``logits``: float32 ``[batch, 10]``, one unnormalised log-probability per digit.
"""

CALIBRATION: Final = _FOLDER / "calibration.npz"
"""Inputs that show the typical value ranges: ``image``, float32 ``[200, 1, 8, 8]``, as the model takes it."""

EVALUATION: Final = _FOLDER / "evaluation.npz"
"""Held-out samples: ``image``, float32 ``[400, 1, 8, 8]``, and ``labels``, int64 ``[400]``, the digits 0..9."""

TOP1: Final = 0.9775
"""The share of the evaluation samples that `MODEL` classifies correctly in float32: 391 of 400."""

__all__ = ["CALIBRATION", "EVALUATION", "MODEL", "TOP1"]
