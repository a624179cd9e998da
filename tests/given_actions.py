"""A team with continuous actions of different sizes, its episodes, and its networks' values by explicit loops."""

from __future__ import annotations

from dataclasses import replace

import torch
from test_learner import SPEC as DISCRETE
from test_learner import episodes as discrete_episodes
from test_learner import small

from mast_train.envs.box import Box
from mast_train.learning.learner import Learner
from mast_train.networks.build import agent_inputs

BOX = Box(((-1.0, -2.0), (0.0,), (-1.0, 0.0)), ((1.0, 2.0), (1.0,), (1.0, 3.0)))
SPEC = replace(DISCRETE, n_actions=2, box=BOX)
HAS = torch.tensor([[True, True], [True, False], [True, True]])


def episodes(seed=0, lengths=(8, 3, 5, 1)):
    batch, generator = discrete_episodes(seed, lengths), torch.Generator().manual_seed(seed + 100)
    actions = 2 * torch.rand(*batch.actions.shape, 2, generator=generator) - 1
    batch.actions = actions * HAS * batch.filled[..., None, None]
    batch.avail_actions = HAS.expand(*batch.avail_actions.shape[:2], 3, 2).clone()
    return batch


def subject(algorithm, method="mast", spec=SPEC, **settings):
    base = {"algorithm": algorithm, "target.start": 0.0, "sparse.update_interval": 5, "comix.candidates": 8}
    config = small(method, **{**base, "comix.elites": 3, "comix.iterations": 2, **settings})
    return Learner(config, spec, torch.device("cpu"))


def unroll(learner, nets, batch):
    """What the networks give at every step, step by step: [B,T+1,N,...]."""
    b, steps = batch.obs.shape[:2]
    hidden, last, out = nets.initial_hidden(b, 3), None, []
    for t in range(steps):
        given, hidden = nets.step(agent_inputs(learner.config, learner.spec, batch.obs[:, t], last), hidden)
        out.append(given)
        last = batch.actions[:, t] if t < steps - 1 else None
    return torch.stack(out, 1)


def value(nets, memory, actions):
    """Q_i of one team, agent by agent: memory [N,H], actions [N,A] -> [N]."""
    values = []
    for n in range(3):
        g = n if nets.groups == 3 else 0
        y = torch.relu(nets.fc2_weight[g] @ torch.cat([memory[n], actions[n]]) + nets.fc2_bias[g])
        values.append((nets.fc3_weight[g] @ y + nets.fc3_bias[g])[0])
    return torch.stack(values)


def disturb(learner, seed=1):
    """Target networks that differ from the online ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in learner.targets.values():
            for p in module.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=generator) * (p != 0))
