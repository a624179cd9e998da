"""Random networks and bundles for tests: any shape, any block, numpy only."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mast_runtime import AgentInfo, Bundle, Contract, Layer, Network
from mast_runtime.inputs import Inputs, Recording
from mast_runtime.network import NO_BIAS, NO_LAYER, SEGMENTS

if TYPE_CHECKING:
    from mast_export.verify import Trace


def random_mask(rng: np.random.Generator, outputs: int, inputs: int, sparsity: float, block: int, segments: int):
    """A mask of whole blocks [outputs, inputs]."""
    size = outputs // segments
    per_segment = -(-size // block)
    alive = rng.random((segments, per_segment, inputs)) >= sparsity
    return np.repeat(alive, block, axis=1)[:, :size].reshape(outputs, inputs)


def random_layer(
    rng, name: str, outputs: int, inputs: int, sparsity: float | None, block: int = 1, scale: float = 1.0
) -> Layer:
    """One layer; sparsity None is dense."""
    weight = (rng.standard_normal((outputs, inputs)) * scale).astype(np.float32)
    segments = SEGMENTS[name]
    if sparsity is None:
        return Layer.from_dense(weight, None, 1, segments)
    mask = random_mask(rng, outputs, inputs, sparsity, block, segments)
    return Layer.from_dense(np.where(mask, weight, 0.0), mask, block, segments)


def random_network(
    rng,
    contract: Contract,
    hidden: int = 64,
    fc1: int | None = None,
    sparsity: float | None = 0.9,
    blocks: dict | None = None,
    memory: bool = True,
) -> Network:
    """One network; `blocks` maps layer names to block rows (default 1). memory: a GRU's, else architecture "mlp"."""
    fc1, blocks = fc1 or hidden, blocks or {}

    def layer(name: str, outputs: int, inputs: int) -> Layer:
        kept = 1.0 if sparsity is None else max(1.0 - sparsity, 1e-3)
        return random_layer(rng, name, outputs, inputs, sparsity, blocks.get(name, 1), 1.5 / np.sqrt(inputs * kept))

    def bias(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.1).astype(np.float32)

    if not memory:
        return Network(
            fc1=layer("fc1", fc1, contract.input_dim),
            weight_ih=NO_LAYER,
            weight_hh=NO_LAYER,
            fc2=layer("fc2", contract.n_actions, hidden),
            fc1_bias=bias(fc1),
            gru_bias=NO_BIAS,
            fc2_bias=bias(contract.n_actions),
            mid=layer("mid", hidden, fc1),
            mid_bias=bias(hidden),
        )
    return Network(
        fc1=layer("fc1", fc1, contract.input_dim),
        weight_ih=layer("weight_ih", 3 * hidden, fc1),
        weight_hh=layer("weight_hh", 3 * hidden, hidden),
        fc2=layer("fc2", contract.n_actions, hidden),
        fc1_bias=bias(fc1),
        gru_bias=bias(4, hidden),
        fc2_bias=bias(contract.n_actions),
    )


def random_bundle(
    seed: int = 0, n_agents: int = 3, obs_dim: int = 20, n_actions: int = 7, shared: bool = False, **network
) -> Bundle:
    """A bundle of `n_agents` agents, each its own network, or one shared network with agent ids."""
    rng = np.random.default_rng(seed)
    contract = Contract(obs_dim, n_actions, n_agents, agent_id=shared)
    networks = tuple(random_network(rng, contract, **network) for _ in range(1 if shared else n_agents))
    agents = tuple(AgentInfo(f"ally_{i}", "marine", i, 0 if shared else i) for i in range(n_agents))
    return Bundle(contract, agents, networks, {"map": "test", "method": "mast"})


def observed(bundle: Bundle, seed: int = 0, names: bool = True, steps: int = 5) -> Bundle:
    """The bundle with statistics, names and recordings of no meaning: their actions are nobody's."""
    rng, c = np.random.default_rng(seed), bundle.contract

    def of_network(network: Network) -> Network:
        middle, half = rng.standard_normal((2, c.obs_dim)).astype(np.float16).astype(np.float32)
        words = tuple(f"input {i}" for i in range(c.obs_dim)) if names else ()
        units = tuple("m" * (i % 2) for i in range(c.obs_dim)) if names else ()
        inputs = Inputs(middle - abs(half), middle + abs(half), middle, abs(half), words, units)
        avail = rng.random((c.n_actions, steps)) < 0.5
        actions = rng.integers(0, c.n_actions, steps)
        avail[actions, range(steps)] = True
        starts = bytes(int(t % 3 == 0) for t in range(steps))
        codes = rng.bytes(c.obs_dim * steps)
        return replace(
            network, inputs=inputs, recording=Recording(codes, avail.tobytes(), starts, tuple(actions.tolist()))
        )

    return replace(bundle, networks=tuple(of_network(network) for network in bundle.networks))


def with_noise(trace: Trace, rounded: Bundle, dtype: str) -> Trace:
    """The trace with the noise of weights of this type: by `rounded`, whose weights are, in the reference."""
    team, hidden, q = rounded.team(backend="reference"), np.empty_like(trace.hidden), np.empty_like(trace.q)
    forced = np.arange(trace.q.shape[-1]) == trace.actions[..., None]
    for t, (obs, avail) in enumerate(zip(trace.obs, forced, strict=True)):
        team.act(obs, avail)
        q[t], hidden[t] = team.q, team.hidden
    noise = np.maximum(np.abs(q - trace.q).max((0, 2)), np.abs(hidden - trace.hidden).max((0, 2)))
    return replace(trace, noise={dtype: noise})
