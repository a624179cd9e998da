"""Magnitude pruning: the weights nearest zero go, until a share of all is absent (Han et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mast_export.importing.policy import Policy
from mast_runtime.network import SEGMENTS

Masks = dict[str, NDArray[np.bool_]]


def prune(policy: Policy, sparsity: float, block: int = 1) -> tuple[Policy, Masks]:
    """The policy with `sparsity` of its weights (biases not counted) set to 0, and which it keeps, by layer.

    Magnitudes are compared over all layers at once, each in units of its root mean square, so that no layer goes for
    its scale alone. block: rows of the recurrent layers' blocks, each scored by its weights' mean magnitude and kept
    whole. Every layer keeps at least one block.
    """
    scores, sizes = [], []
    for name, matrix in policy.matrices().items():
        rows = block if name.startswith("weight") else 1
        scaled = np.abs(matrix) / max(float(np.sqrt(np.mean(np.square(matrix, dtype=np.float64)))), 1e-30)
        score, size = _blocks(scaled, rows, SEGMENTS[name])
        score.flat[score.argmax()] = np.inf
        scores.append(score)
        sizes.append(size)
    kept = _largest(np.concatenate([s.ravel() for s in scores]), np.concatenate([s.ravel() for s in sizes]), sparsity)
    masks, start = {}, 0
    for (name, matrix), score in zip(policy.matrices().items(), scores, strict=True):
        alive = kept[start : start + score.size].reshape(score.shape)
        start += score.size
        rows = block if name.startswith("weight") else 1
        masks[name] = _expanded(alive, rows, matrix.shape[0], SEGMENTS[name])
    weights = {name: np.where(masks[name], matrix, np.float32(0.0)) for name, matrix in policy.matrices().items()}
    return replace(policy, **weights), masks


def _largest(scores: NDArray, sizes: NDArray, sparsity: float) -> NDArray[np.bool_]:
    """The blocks of the largest scores that hold at most 1 - sparsity of all weights, ties in order of place."""
    order = np.argsort(-scores, kind="stable")
    filled = np.cumsum(sizes[order])
    kept = np.zeros(scores.size, np.bool_)
    kept[order] = filled <= (1.0 - sparsity) * filled[-1] + 1e-6
    return kept | np.isinf(scores)


def _blocks(matrix: NDArray, rows: int, segments: int) -> tuple[NDArray, NDArray]:
    """Mean and number of the weights in each block [block rows, inputs]; the last of a segment may be short."""
    outputs, inputs = matrix.shape
    height = outputs // segments
    lengths = np.minimum(rows, height - np.arange(0, height, rows))
    starts = (np.arange(segments)[:, None] * height + np.arange(0, height, rows)).ravel()
    sums = np.add.reduceat(matrix, starts, axis=0)
    sizes = np.repeat(np.tile(lengths, segments)[:, None], inputs, axis=1)
    return sums / sizes, sizes


def _expanded(alive: NDArray[np.bool_], rows: int, outputs: int, segments: int) -> NDArray[np.bool_]:
    """[block rows, inputs] -> [outputs, inputs]."""
    parts: Sequence[NDArray[np.bool_]] = np.split(alive, segments)
    return np.concatenate([np.repeat(part, rows, axis=0)[: outputs // segments] for part in parts])
