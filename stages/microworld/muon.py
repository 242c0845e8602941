"""Muon (Jordan et al. 2024) in fp32, the Newton-Schulz iteration batched over matrices of one shape.

`torch.optim.Muon` computes the same in bf16, which a CPU without bf16 instructions does 50 times slower than fp32.
"""

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def orthogonalised(matrices: "torch.Tensor", steps: int = 5) -> "torch.Tensor":
    """The nearest semi-orthogonal matrices to (n, rows, columns), by the quintic Newton-Schulz iteration."""
    import torch

    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    back: torch.Tensor = x.mT if tall else x
    return back


class Muon:
    """Nesterov momentum, orthogonalised; the update's size matches AdamW's, so that one learning rate serves both."""

    def __init__(self, matrices: "list[torch.Tensor]", momentum: float = 0.95, weight_decay: float = 0.05) -> None:
        self.momentum, self.weight_decay = momentum, weight_decay
        self.by_shape: dict[tuple[int, ...], list[torch.Tensor]] = defaultdict(list)
        for matrix in matrices:
            self.by_shape[tuple(matrix.shape)].append(matrix)
        self.average: dict[tuple[int, ...], torch.Tensor] = {}

    def step(self, learning_rate: float) -> None:
        import torch

        with torch.no_grad():
            for shape, matrices in self.by_shape.items():
                gradient = torch.stack([matrix.grad for matrix in matrices if matrix.grad is not None])
                average = self.average.setdefault(shape, torch.zeros_like(gradient))
                average.lerp_(gradient, 1 - self.momentum)
                update = orthogonalised(gradient.lerp(average, self.momentum))
                size = 0.2 * max(shape) ** 0.5
                for matrix, direction in zip(matrices, update, strict=True):
                    matrix.mul_(1 - learning_rate * self.weight_decay).add_(direction, alpha=-learning_rate * size)
