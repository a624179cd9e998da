"""A policy trained elsewhere as plain arrays, whatever file it came from, and the network that computes the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mast_export.errors import ExportError
from mast_runtime import Layer, Network
from mast_runtime.format import MAX_DIMENSION
from mast_runtime.network import LAYERS, SEGMENTS

STORED_SPARSE_FROM = 0.1
"""Share of exact zeros from which a layer is stored by its connections."""


@dataclass(frozen=True, eq=False)
class Policy:
    """y = a(fc1 x + fc1_bias), a GRU step from y, then the values fc2 h' + fc2_bias; float32, gates r, z, n.

    fc1 [Y, I], weight_ih [3H, Y], weight_hh [3H, H], fc2 [A, H]; gru_bias [4, H]: b_r, b_z, b_nx, b_nh.
    a(v) = max(v, 0) - slope max(-v, 0): a slope of 0 is ReLU, 1 no activation. fc1 None: y = x.
    """

    fc1: NDArray[np.float32] | None
    fc1_bias: NDArray[np.float32] | None
    weight_ih: NDArray[np.float32]
    weight_hh: NDArray[np.float32]
    gru_bias: NDArray[np.float32]
    fc2: NDArray[np.float32]
    fc2_bias: NDArray[np.float32]
    slope: float = 0.0

    @property
    def inputs(self) -> int:
        return self.weight_ih.shape[1] if self.fc1 is None else self.fc1.shape[1]

    @property
    def hidden(self) -> int:
        return self.weight_hh.shape[1]

    @property
    def actions(self) -> int:
        return self.fc2.shape[0]

    def matrices(self) -> dict[str, NDArray[np.float32]]:
        """What was trained, by LAYERS' names: no fc1 where there is none."""
        return {name: matrix for name in LAYERS if (matrix := getattr(self, name)) is not None}

    def rectified(self) -> dict[str, NDArray[np.float32]]:
        """Matrices and biases with ReLU as the first activation: where that was another, a(v) is ReLU(v) and ReLU(-v)
        weighted, so fc1 has every row twice, once negated."""
        fc1 = np.eye(self.inputs, dtype=np.float32) if self.fc1 is None else self.fc1
        bias = np.zeros(len(fc1), np.float32) if self.fc1_bias is None else self.fc1_bias
        found = {"weight_ih": self.weight_ih, "weight_hh": self.weight_hh, "fc2": self.fc2}
        if self.slope == 0.0 and self.fc1 is not None:
            return {"fc1": fc1, "fc1_bias": bias, **found}
        slope = np.float32(1.0 if self.fc1 is None else self.slope)
        both = {"fc1": np.concatenate([fc1, -fc1]), "fc1_bias": np.concatenate([bias, -bias])}
        return both | found | {"weight_ih": np.concatenate([self.weight_ih, -slope * self.weight_ih], 1)}


class Original(Protocol):
    """A policy as its own file computes it: the reference that the bundle is compared with."""

    def __call__(self, x: NDArray, hidden: NDArray) -> tuple[NDArray, NDArray]:
        """One step of one agent: x [I], hidden [H] -> values [A], next hidden [H]. Hidden is zero at the start."""
        ...

    def reset(self) -> None:
        """Forget the episode."""
        ...


@dataclass(frozen=True, eq=False)
class Imported:
    """Policies of one file, one for each agent that has its own, and how that file computes them."""

    policies: Sequence[Policy]
    originals: Sequence[Original]
    kind: str


def checked(policy: Policy, what: str) -> Policy:
    """The policy. Raises ExportError for sizes that do not fit each other or a bundle, and values not finite."""
    y = policy.inputs if policy.fc1 is None else policy.fc1.shape[0]
    shapes = {
        "fc1": (y, policy.inputs), "fc1_bias": (y,), "weight_ih": (3 * policy.hidden, y),
        "weight_hh": (3 * policy.hidden, policy.hidden), "gru_bias": (4, policy.hidden),
        "fc2": (policy.actions, policy.hidden), "fc2_bias": (policy.actions,),
    }  # fmt: skip
    for name, shape in shapes.items():
        array = getattr(policy, name)
        if array is None:
            continue
        if array.shape != shape:
            raise ExportError(
                f"{what}: {name} has shape {list(array.shape)}, beside the other layers {list(shape)} fits"
            )
        if not np.isfinite(array).all():
            raise ExportError(f"{what}: {name} holds a value that is not finite")
    if max(policy.inputs, 2 * y, 3 * policy.hidden, policy.actions) > MAX_DIMENSION:
        raise ExportError(f"{what}: a layer is wider than a bundle holds ({MAX_DIMENSION})")
    return policy


def networks(
    policies: Sequence[Policy], masks: Sequence[dict[str, NDArray[np.bool_]]] | None = None, block: int = 1
) -> list[Network]:
    """Policies of one shape as networks. A layer with many zeros in any of them is stored by its connections in all.

    masks: which weights are kept, by layer, None: all. block: rows of a block of the recurrent layers, under masks.
    """
    arrays = [policy.rectified() for policy in policies]
    rows = {name: block if masks and name.startswith("weight") else 1 for name in LAYERS}
    found: list[dict[str, NDArray[np.bool_]]] = [{name: own[name] != 0.0 for name in LAYERS} for own in arrays]
    if masks is not None:
        for kept, given, policy in zip(found, masks, policies, strict=True):
            kept |= _rectified_masks(policy, given)
    sparse = {name: any(1.0 - mask[name].mean() >= STORED_SPARSE_FROM for mask in found) for name in LAYERS}

    def layer(name: str, weights: NDArray, mask: NDArray[np.bool_]) -> Layer:
        if not sparse[name]:
            return Layer.from_dense(weights, None, 1, SEGMENTS[name])
        return Layer.from_dense(np.where(mask, weights, 0.0), mask, rows[name], SEGMENTS[name])

    made = []
    for own, kept, policy in zip(arrays, found, policies, strict=True):
        fc1, ih, hh, fc2 = (layer(name, own[name], kept[name]) for name in LAYERS)
        made.append(Network(fc1, ih, hh, fc2, own["fc1_bias"], policy.gru_bias, policy.fc2_bias))
    return made


def _rectified_masks(policy: Policy, masks: dict[str, NDArray[np.bool_]]) -> dict[str, NDArray[np.bool_]]:
    """Masks of the trained matrices, as masks of `Policy.rectified`."""
    if policy.slope == 0.0 and policy.fc1 is not None:
        return masks
    twice = {"weight_ih": np.concatenate([masks["weight_ih"]] * 2, 1)}
    return masks | twice | ({"fc1": np.concatenate([masks["fc1"]] * 2)} if "fc1" in masks else {})
