"""Policies whose actions are searched for, and the same search by explicit loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from bounded import HEAD
from networks import random_bundle, random_layer

from mast_export.observed import Seen, with_inputs
from mast_runtime import Bundle
from mast_runtime.head import Head, Search
from mast_runtime.network import Network

WIDTH = 24


def table(iterations: int = 3, candidates: int = 32, components: int = 3) -> np.ndarray:
    noise = np.random.default_rng(5).standard_normal((iterations, candidates, components)).astype("<f4")
    noise[:, 0] = 0.0
    return noise


def searching(noise: np.ndarray, rate_limit: float | None = None, elites: int = 5, head: Head = HEAD) -> Head:
    iterations, candidates, _ = noise.shape
    return replace(head, rate_limit=rate_limit, search=Search(WIDTH, candidates, elites, iterations, noise.tobytes()))


def searching_bundle(
    seed: int = 0,
    rate_limit: float | None = None,
    blind: bool = False,
    head: Head = HEAD,
    elites: int = 5,
    candidates: int = 32,
    **network,
) -> Bundle:
    """A team of three under a head's bounds. blind: their values do not depend on the action."""
    wide, rng = random_bundle(seed, n_actions=WIDTH, **network), np.random.default_rng(seed)
    size = max(map(len, head.low))

    def critic(own: Network) -> Network:
        # fc1 reads the components of the last action, not WIDTH values of a one-hot
        columns = replace(wide.contract, n_actions=size).input_dim
        fc1 = random_layer(rng, "fc1", own.fc1.outputs, columns, 0.5, scale=0.3)
        act = random_layer(rng, "act", WIDTH, size, 0.999 if blind else 0.2)
        act = replace(act, values=act.values * 0.0) if blind else act
        fc3, bias = random_layer(rng, "fc3", 1, WIDTH, 0.1), rng.standard_normal(1).astype(np.float32)
        return replace(own, fc1=fc1, act=act, fc3=fc3, fc3_bias=bias, inputs=None, recording=None)

    noise = table(3, candidates, size)
    contract = replace(wide.contract, n_actions=size, head=searching(noise, rate_limit, elites, head))
    return replace(wide, contract=contract, networks=tuple(map(critic, wide.networks)))


def with_seen(bundle: Bundle, steps: int = 12, seed: int = 0) -> tuple[Bundle, np.ndarray]:
    """With statistics of random observations [T,3,O], and those."""
    obs = np.random.default_rng(seed).standard_normal((steps, 3, bundle.contract.obs_dim)).astype(np.float32)
    return with_inputs(bundle, Seen.of(obs)), obs


def by_loops(bundle: Bundle, agent: int, p: np.ndarray) -> np.ndarray:
    """The action [A] in [-1, 1] that one agent's search finds from p [H], candidate by candidate."""
    head, network = bundle.contract.head, bundle.networks[bundle.agents[agent].network]
    assert head is not None and head.search is not None
    size, act, fc3, search = len(head.low[agent]), network.act.dense(), network.fc3.dense()[0], head.search
    noise = np.frombuffer(search.noise, "<f4").reshape(search.iterations, search.candidates, -1)
    mean, spread, best = [0.0] * size, [1.0] * size, [0.0] * size
    for numbers in noise.tolist():
        found = []
        for j, row in enumerate(numbers):
            u = [min(max(m + s * x, -1.0), 1.0) for m, s, x in zip(mean, spread, row[:size], strict=True)]
            u = best if j == 1 else u
            y = [max(float(p[k]) + sum(float(act[k, a]) * u[a] for a in range(size)), 0.0) for k in range(WIDTH)]
            found.append((-sum(float(w) * x for w, x in zip(fc3, y, strict=True)), j, u))
        elites = [u for *_, u in sorted(found)[: search.elites]]
        best, before = elites[0], mean
        mean = [sum(u[a] for u in elites) / len(elites) for a in range(size)]
        spread = [(sum((u[a] - before[a]) ** 2 for u in elites) / len(elites)) ** 0.5 for a in range(size)]
    return np.array(best)
