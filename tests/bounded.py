"""Policies with continuous actions for tests, and what their actions must be, computed by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from networks import random_bundle

from mast_export.extract import Head
from mast_export.observed import Seen, with_inputs, with_recording
from mast_export.verify import Trace
from mast_runtime import Bundle
from mast_runtime.backends.reference import ReferenceStep
from mast_runtime.inner import inner_contract

HEAD = Head(((-0.25, -2.0, 0.0), (-0.1,), (3.0, -1.0)), ((0.25, 5.0, 1.0), (0.3,), (4.0, 1.0)))
"""Of three agents with three, one and two components."""


def bounded_bundle(seed: int = 0, rate_limit: float | None = None, shared: bool = False, **network) -> Bundle:
    """A team of three under HEAD."""
    bundle = random_bundle(seed, n_actions=3, shared=shared, **network)
    head = replace(HEAD, rate_limit=rate_limit)
    contract = replace(bundle.contract, head=head)
    # outputs of every size, so that tanh is met flat and steep
    networks = tuple(replace(x, fc2_bias=np.array([0.5, -1.5, 0.0], np.float32)) for x in bundle.networks)
    return replace(bundle, contract=contract, networks=networks)


def by_hand(bundle: Bundle, obs: np.ndarray, done: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and actions [T,N,A], 0 where an agent has no such component; one agent, one component, at a time.

    obs [T,N,O]. done [T,N,A]: what was executed in place of each decision, None: the decision.
    """
    contract, head = bundle.contract, bundle.contract.head
    assert head is not None
    outputs, actions = (np.zeros((*obs.shape[:2], contract.n_actions), np.float32) for _ in range(2))
    for i, agent in enumerate(bundle.agents):
        step = ReferenceStep(inner_contract(contract), bundle.networks[agent.network])
        hidden, last = np.zeros((1, step.hidden), np.float32), [0.0] * contract.n_actions
        for t in range(len(obs)):
            x = np.concatenate([obs[t, i], last]).astype(np.float32)[None]
            q, hidden = step(x, np.array([-1]), np.array([agent.index]), hidden)
            outputs[t, i] = q[0]
            for k, (low, high) in enumerate(zip(head.low[agent.index], head.high[agent.index], strict=True)):
                share = float(np.tanh(q[0, k]))
                if head.rate_limit is not None:
                    share = min(max(share, last[k] - 2 * head.rate_limit), last[k] + 2 * head.rate_limit)
                actions[t, i, k] = low + (share + 1) / 2 * (high - low)
                taken = actions[t, i, k] if done is None else min(max(done[t, i, k], low), high)
                last[k] = 2 * (taken - low) / (high - low) - 1
    return outputs, actions


def recorded(bundle: Bundle, steps: int = 12, seed: int = 0) -> Bundle:
    """With statistics and a recording of its own actions."""
    obs = np.random.default_rng(seed).standard_normal((steps, 3, bundle.contract.obs_dim)).astype(np.float32)
    bundle = with_inputs(bundle, Seen.of(obs))
    nothing = np.zeros((steps, 3, 3), np.float32)
    starts = np.arange(steps) % 5 == 0
    return with_recording(bundle, Trace(obs, nothing == 0, nothing, nothing, starts, bundle.contract.head, (0, 1, 2)))
