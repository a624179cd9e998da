"""What an imported policy is compared on: recorded observations or random ones, and what a policy makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mast_export.errors import ExportError
from mast_export.importing.policy import Original
from mast_export.verify import Trace
from mast_runtime import Bundle, Contract
from mast_runtime.backends.reference import ReferenceStep, network_input

Recorded = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""Observations [T,N,O] and which actions are available [T,N,A]."""
SUFFIXES = (".npy", ".npz", ".safetensors")


def random_observations(contract: Contract, steps: int, agents: int, seed: int = 0) -> Recorded:
    """Standard normal numbers that move by a tenth each step, every action available."""
    rng = np.random.default_rng(seed)
    obs = rng.standard_normal((steps, agents, contract.obs_dim))
    for t in range(1, steps):
        obs[t] = 0.9 * obs[t - 1] + 0.19**0.5 * obs[t]
    return obs.astype(np.float32), np.ones((steps, agents, contract.n_actions), np.bool_)


def read_observations(path: Path, contract: Contract, agents: int) -> Recorded:
    """[T,O] or [T,N,O]: the array of a .npy, or `obs` of a file of arrays, with `avail_actions` where it has that.

    A run's trace.safetensors is one. Observations of one agent are shown to all. Raises ExportError, OSError.
    """
    arrays = _arrays(path)
    obs = arrays["obs"].astype(np.float32)
    obs = obs[:, None] if obs.ndim == 2 else obs
    if obs.ndim != 3 or obs.shape[1] not in (1, agents) or obs.shape[2] != contract.obs_dim or not len(obs):
        expected = f"[steps, {agents}, {contract.obs_dim}]"
        raise ExportError(f"{path}: observations of shape {list(arrays['obs'].shape)}, expected {expected}")
    if not np.isfinite(obs).all():
        raise ExportError(f"{path}: an observation is not finite")
    obs = np.repeat(obs, agents // obs.shape[1], 1)
    shape = (*obs.shape[:2], contract.n_actions)
    avail = arrays.get("avail_actions", np.ones(shape, np.bool_)) != 0
    if avail.shape != shape or not avail.any(-1).all():
        raise ExportError(
            f"{path}: avail_actions of shape {list(avail.shape)}, expected {list(shape)} with one in each row"
        )
    return obs, avail


def _arrays(path: Path) -> dict[str, NDArray]:
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    try:
        if path.suffix == ".npy":
            found = {"obs": np.load(path, allow_pickle=False)}
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
        elif path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            found = load_file(path)
        else:
            raise ExportError(f"{path}: observations are read from {', '.join(SUFFIXES)}")
    except ExportError:
        raise
    except Exception as error:  # numpy and safetensors have no common type for a damaged file
        raise ExportError(f"{path}: not readable ({error})") from error
    if "obs" not in found or found["obs"].dtype.kind not in "fiu":
        raise ExportError(f"{path}: it has no array of numbers named obs, but {', '.join(found) or 'nothing'}")
    return found


def played(bundle: Bundle, steps: Sequence[Original], recorded: Recorded) -> Trace:
    """What `steps`, one for each network of the bundle, make of the observations from zero memory, acting greedily."""
    (obs, avail), contract = recorded, bundle.contract
    width = max(network.hidden for network in bundle.networks)
    q, hidden = np.zeros(avail.shape, np.float32), np.zeros((*obs.shape[:2], width), np.float32)
    for i, agent in enumerate(bundle.agents):
        step, last = steps[agent.network], -1
        memory = np.zeros(bundle.networks[agent.network].hidden, np.float32)
        step.reset()
        for t in range(len(obs)):
            x = network_input(contract, obs[t, i : i + 1], np.array([last]), np.array([agent.index]))[0]
            q[t, i], memory = step(x, memory)
            hidden[t, i, : memory.size] = memory
            last = int(np.where(avail[t, i], q[t, i], -np.inf).argmax())
    return Trace(obs, avail, q, hidden)


class Numpy:
    """Original: a bundle's own network in numpy, what its files have to reproduce."""

    def __init__(self, bundle: Bundle, network: int) -> None:
        whole = Contract(bundle.contract.input_dim, bundle.contract.n_actions, 1, last_action=False)
        self._step = ReferenceStep(whole, bundle.networks[network])

    def reset(self) -> None:
        pass

    def __call__(self, x: NDArray, hidden: NDArray) -> tuple[NDArray, NDArray]:
        q, memory = self._step(x[None], np.array([-1]), np.array([0]), hidden[None])
        return q[0], memory[0]
