"""What calibration rows say of a linear layer: the moments of its inputs and of what its outputs should be, in a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Moments:
    """Sums over rows, taken in batch by batch; memory is that of one batch and of the Gram matrix.

    Products are single precision within a batch and summed in double precision. Rows are taken less the mean of the first
    batch: a covariance that is small against the mean would drown in the rounding of the products.
    """

    def __init__(self, weights: NDArray[np.float64]) -> None:
        """Starts with no rows.

        Args:
            weights: The layer's float weights W, [groups, outputs, inputs]: errors are taken against W x.
        """
        groups, outputs, inputs = weights.shape
        self._weights = np.ascontiguousarray(weights.transpose(0, 2, 1), np.float32)
        self.rows = 0
        self._input_origin = np.zeros((groups, inputs), np.float32)
        self._error_origin = np.zeros((groups, outputs), np.float32)
        self._inputs = np.zeros((groups, inputs))
        self._errors = np.zeros((groups, outputs))
        self._gram = np.zeros((groups, inputs, inputs))
        self._cross = np.zeros((groups, outputs, inputs))

    def add(self, x: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
        """Takes rows in: inputs [groups, rows, inputs] and the outputs wanted for them, without bias, [groups, rows, outputs]."""
        if not x.shape[1]:
            return
        error = wanted - np.matmul(x, self._weights)
        if not self.rows:
            self._input_origin = x.mean(axis=1, dtype=np.float64).astype(np.float32)
            self._error_origin = error.mean(axis=1, dtype=np.float64).astype(np.float32)
        x, error = x - self._input_origin[:, None, :], error - self._error_origin[:, None, :]
        self.rows += x.shape[1]
        self._inputs += x.sum(axis=1, dtype=np.float64)
        self._errors += error.sum(axis=1, dtype=np.float64)
        self._gram += np.matmul(x.transpose(0, 2, 1), x)
        self._cross += np.matmul(error.transpose(0, 2, 1), x)

    @property
    def mean(self) -> NDArray[np.float64]:
        """The mean input, [groups, inputs]."""
        return self._input_origin + self._inputs / max(self.rows, 1)

    @property
    def mean_error(self) -> NDArray[np.float64]:
        """The mean of wanted outputs less W x, [groups, outputs]."""
        return self._error_origin + self._errors / max(self.rows, 1)

    def gram(self, *, centred: bool) -> NDArray[np.float64]:
        """The mean of x x^T, or its covariance, [groups, inputs, inputs]."""
        covariance = self._covariance(self._gram, self._inputs)
        return covariance if centred else covariance + self.mean[:, :, None] * self.mean[:, None, :]

    def cross(self, *, centred: bool) -> NDArray[np.float64]:
        """The mean of (wanted - W x) x^T, or its covariance, [groups, outputs, inputs]."""
        covariance = self._covariance(self._cross, self._errors)
        return covariance if centred else covariance + self.mean_error[:, :, None] * self.mean[:, None, :]

    def _covariance(self, products: NDArray[np.float64], sums: NDArray[np.float64]) -> NDArray[np.float64]:
        count = max(self.rows, 1)
        return products / count - (sums / count)[:, :, None] * (self._inputs / count)[:, None, :]
