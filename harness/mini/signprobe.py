"""How much of the sign and of the class a linear map finds in an encoder's pooled features.

The curve of this gauge over pre-training is shown for every arm; nothing is selected by it. It sees
train and dev scenes only.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.bfloat16 import bfloat16_products
from harness.mini.world import CONSONANTS, VOWELS, Scene, class_of, render, sample_scenes
from harness.mini.zoo import to_input

NUM_TRAIN, NUM_DEV = 2400, 600


def _letters(scenes: list[Scene]) -> NDArray[np.int64]:
    """(n, 3) letter indices of the signs."""
    words = [scene.sign.word for scene in scenes if scene.sign is not None]
    return np.array([[CONSONANTS.index(w[0]), VOWELS.index(w[1]), CONSONANTS.index(w[2])] for w in words])


def _ridge(x: Tensor, labels: NDArray[np.int64], classes: int, x_dev: Tensor) -> NDArray[np.int64]:
    """Closed-form ridge on ±1 targets; predicted class of each dev row."""
    target = torch.full((len(x), classes), -1.0)
    target[torch.arange(len(x)), torch.from_numpy(labels)] = 1.0
    gram = x.T @ x + 1e-2 * len(x) * torch.eye(x.shape[1])
    return np.asarray((x_dev @ torch.linalg.solve(gram, x.T @ target)).argmax(1).numpy())


class SignProbe:
    """Fixed train and dev scenes, all with a sign."""

    def __init__(self) -> None:
        self._train = sample_scenes("train", NUM_TRAIN, seed=901, with_sign=True)
        self._dev = sample_scenes("dev", NUM_DEV, seed=902, with_sign=True)
        self._pixels = np.stack([render(s) for s in [*self._train, *self._dev]])

    @torch.no_grad()
    def measure(self, encoder: nn.Module) -> dict[str, float]:
        """Accuracy of single letters, of whole (never trained) words and of the class, on dev scenes."""
        encoder.eval()
        chunks = []
        for start in range(0, len(self._pixels), 250):
            with bfloat16_products(), torch.autocast("cpu", torch.bfloat16):
                out = encoder(to_input(self._pixels[start : start + 250])).last_hidden_state.mean((2, 3))
            chunks.append(out.float())
        encoder.train()
        features = torch.cat(chunks)
        fit = features[:NUM_TRAIN]
        scaled = (features - fit.mean(0)) / (fit.std(0) + 1e-6)
        scaled = torch.cat([scaled, torch.ones(len(scaled), 1)], 1)
        x, x_dev = scaled[:NUM_TRAIN], scaled[NUM_TRAIN:]
        train, dev = _letters(self._train), _letters(self._dev)
        sizes = (len(CONSONANTS), len(VOWELS), len(CONSONANTS))
        hits = np.stack([_ridge(x, train[:, i], n, x_dev) == dev[:, i] for i, n in enumerate(sizes)], 1)
        classes = np.array([class_of(s) for s in self._train]), np.array([class_of(s) for s in self._dev])
        right = _ridge(x, classes[0], 144, x_dev) == classes[1]
        return {
            "letter_accuracy": round(float(hits.mean()), 4),
            "word_accuracy": round(float(hits.all(1).mean()), 4),
            "class_accuracy": round(float(right.mean()), 4),
        }
