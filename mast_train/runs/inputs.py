"""What is said of observations that networks learn badly from."""

from __future__ import annotations

import torch

from mast_train.runs.run import Run

FAR = 10.0
"""Root mean square of an input from which on it is far from [-1, 1]."""
LOOKED_AT = 1000
"""Steps of a run after which its observations are looked at."""
EPISODES = 32


@torch.no_grad()
def far_inputs(run: Run) -> str:
    """Which observations of the newest episodes are far from [-1, 1], and what to set; "" when none is, or where they
    are normalised."""
    if run.config.env.normalise != "off":
        return ""
    batch = run.replay.gather(torch.arange(min(run.replay.size, EPISODES)))
    obs = batch.obs[:, :-1][batch.filled]
    size = obs.square().mean(0).sqrt()
    far = size > FAR
    if not far.any():
        return ""
    agent, index = divmod(int(size.argmax()), run.spec.obs_dim)
    low, high = obs[:, agent, index].aminmax()
    inputs = far.any(0).nonzero().flatten().tolist()
    named = ", ".join(map(str, inputs[:8])) + (", ..." if len(inputs) > 8 else "")
    return (
        f"warning: {len(inputs)} of {run.spec.obs_dim} observation inputs are far from [-1, 1] (inputs {named}; input "
        f"{index} of agent {agent} was {float(low):,.4g} to {float(high):,.4g}): networks learn badly from them; scale "
        'them in the environment, or set env.normalise = "running" (--set env.normalise=running)'
    )
