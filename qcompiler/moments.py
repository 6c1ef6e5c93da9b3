"""What calibration rows say of a linear layer: the moments of its inputs and of what its outputs should be, in a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Moments:
    """Sums over rows, taken in batch by batch; memory is that of one batch and of the Gram matrix.

    Products are single precision within a batch and summed in double precision.
    """

    def __init__(self, weights: NDArray[np.float64]) -> None:
        """Starts with no rows.

        Args:
            weights: The layer's float weights W, [groups, outputs, inputs]: errors are taken against W x.
        """
        groups, outputs, inputs = weights.shape
        self._weights = np.ascontiguousarray(weights.transpose(0, 2, 1), np.float32)
        self.rows = 0
        self._inputs = np.zeros((groups, inputs))
        self._errors = np.zeros((groups, outputs))
        self._gram = np.zeros((groups, inputs, inputs))
        self._cross = np.zeros((groups, outputs, inputs))

    def add(self, x: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
        """Takes rows in: inputs [groups, rows, inputs] and the outputs wanted for them, without bias, [groups, rows, outputs]."""
        error = wanted - np.matmul(x, self._weights)
        self.rows += x.shape[1]
        self._inputs += x.sum(axis=1, dtype=np.float64)
        self._errors += error.sum(axis=1, dtype=np.float64)
        self._gram += np.matmul(x.transpose(0, 2, 1), x)
        self._cross += np.matmul(error.transpose(0, 2, 1), x)

    @property
    def mean(self) -> NDArray[np.float64]:
        """The mean input, [groups, inputs]."""
        return self._inputs / max(self.rows, 1)

    @property
    def mean_error(self) -> NDArray[np.float64]:
        """The mean of wanted outputs less W x, [groups, outputs]."""
        return self._errors / max(self.rows, 1)

    def gram(self, *, centred: bool) -> NDArray[np.float64]:
        """The mean of x x^T, or its covariance, [groups, inputs, inputs]."""
        gram = self._gram / max(self.rows, 1)
        return gram - self.mean[:, :, None] * self.mean[:, None, :] if centred else gram

    def cross(self, *, centred: bool) -> NDArray[np.float64]:
        """The mean of (wanted - W x) x^T, or its covariance, [groups, outputs, inputs]."""
        cross = self._cross / max(self.rows, 1)
        return cross - self.mean_error[:, :, None] * self.mean[:, None, :] if centred else cross
