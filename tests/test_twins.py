"""Twin critics: fitted to the lesser of their values, by loops; and what they are for, values that do not run away."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from given_actions import HAS, SPEC, disturb, episodes, subject, unroll, value
from learning import update
from test_learner import SPEC as DISCRETE
from test_learner import episodes as discrete_episodes

from mast_train.experience.episodes import EpisodeBatch
from mast_train.networks.build import encoded
from mast_train.networks.heads import cross_entropy, greedy, squashed

PLAIN = {"target.returns": "one_step", "train.optimizer": "rmsprop", "train.grad_clip": 1e9}
JUDGES = {
    "facmac": (("critics", "mixer"), ("twin_critics", "twin_mixer")),
    "comix": (("agents", "mixer"), ("twin_critics", "twin_mixer")),
}


def actions_after(learner, batch, spec, b, t):
    """What the target's value of a state is of, for one team [N,A]."""
    c, avail = learner.config, batch.avail_actions[b, t]
    if c.algorithm == "facmac":
        out = unroll(learner, learner.targets["target_agents"], batch)[b, t]
        return encoded(spec, (squashed if spec.box else greedy)(out, avail))
    nets = learner.networks["agents" if c.target.double_q else "target_agents"]
    memory = unroll(learner, nets, batch)[b, t][None]
    return cross_entropy(lambda u: nets.value(memory, u, [1]), avail[None], c.comix).best[0]


def losses_of(algorithm, slow, spec, batch, lesser):
    """The two losses; lesser: how often each one's value of the next state was the lesser, counted up."""
    losses, count, pairs = [0.0, 0.0], int(batch.filled.sum()), JUDGES[algorithm]
    memory = [unroll(slow, slow.online[critics], batch) for critics, _ in pairs]
    following = [unroll(slow, slow.targets[f"target_{critics}"], batch) for critics, _ in pairs]
    for b in range(4):
        for t in range(int(batch.lengths[b])):
            acts, done = actions_after(slow, batch, spec, b, t + 1), encoded(spec, batch.actions[b, t]).float()
            after = []
            for k, (critics, mixer) in enumerate(pairs):
                q = value(slow.targets[f"target_{critics}"], following[k][b, t + 1], acts)
                after.append(slow.targets[f"target_{mixer}"](q[None], batch.state[b, t + 1][None])[0])
            lesser[int(after[1] < after[0])] += 1
            y = batch.reward[b, t] + 0.99 * min(after) * ~batch.terminated[b, t]
            for k, (critics, mixer) in enumerate(pairs):
                q = value(slow.online[critics], memory[k][b, t], done)
                q_tot = slow.online[mixer](q[None], batch.state[b, t][None])[0]
                losses[k] += float((q_tot - y) ** 2) / count
    return losses


@pytest.mark.parametrize(
    ("algorithm", "spec", "batch", "double"),
    [
        ("facmac", SPEC, episodes(), True),
        ("facmac", DISCRETE, discrete_episodes(), True),
        ("comix", SPEC, episodes(), True),
        ("comix", SPEC, episodes(), False),
    ],
)
def test_both_are_fitted_to_the_lesser_value(algorithm, spec, batch, double):
    settings, lesser = {f"{algorithm}.twin": True, "target.operator": "max", "target.double_q": double, **PLAIN}, [0, 0]
    for seed in (0, 1, 2):
        fast = subject(algorithm, "rigl", spec, **settings, **{"sparse.agent_sparsity": 0.2, "seed": seed})
        disturb(fast, seed)
        slow = copy.deepcopy(fast)
        with torch.no_grad():
            losses = losses_of(algorithm, slow, spec, batch, lesser)
        log = update(fast, batch, 0)
        assert float(log["twin_loss"]) == pytest.approx(losses[1], rel=1e-4)
        assert float(log["loss"]) == pytest.approx(sum(losses), rel=1e-4)
        for name in ("twin_critics", "twin_mixer"):
            pairs = zip(fast.online[name].parameters(), slow.online[name].parameters(), strict=True)
            assert any(not torch.equal(p, old) for p, old in pairs)
    assert min(lesser) > 0, "each is the lesser somewhere"


def test_smoothing_moves_the_targets_actions_by_cut_noise_within_the_bounds():
    smoothed: dict[str, Any] = {"facmac.smoothing": 0.1}
    learner, batch = subject("facmac", **smoothed), episodes()
    seen, given = [], torch.zeros(20_000, 3, 2)

    class Seen:
        spec, avail_after = SPEC, HAS.expand(20_000, 3, 2)

        def uniform(self, *shape):
            seen.append(shape)
            return torch.rand(20_000, *shape, generator=torch.Generator().manual_seed(0))

    moved = learner.algorithm._smoothed(Seen(), given)  # type: ignore[attr-defined]
    assert seen == [(3, 2)] and (moved[:, ~HAS] == 0).all()
    own = moved[:, HAS]
    assert float(own.std()) == pytest.approx(0.098, rel=0.03) and float(own.abs().max()) == pytest.approx(0.25)
    assert float(learner.algorithm._smoothed(Seen(), given + 1.0).max()) == 1.0  # type: ignore[attr-defined]
    twice = [float(update(copy.deepcopy(learner), batch, 0)["target"]) for _ in range(2)]
    plain = float(update(subject("facmac"), batch, 0)["target"])
    assert twice[0] == twice[1] != plain, "from the learner's own stream"


def transitions(generator, n=64):
    """Single steps as replay.segment = 1 gives them, of states of some size: every reward is -0.3 and nothing ends."""
    obs = 3.0 * torch.randn(n, 2, 3, SPEC.obs_dim, generator=generator)
    state = 10.0 * torch.randn(n, 2, SPEC.state_dim, generator=generator)
    actions = (2.0 * torch.rand(n, 1, 3, 2, generator=generator) - 1.0) * HAS
    filled, avail = torch.ones(n, 1, dtype=torch.bool), HAS.expand(n, 2, 3, 2)
    return EpisodeBatch(obs, state, avail, actions, torch.full((n, 1), -0.3), ~filled, filled, filled)


@pytest.mark.parametrize("algorithm", ["facmac", "comix"])
def test_values_of_a_game_that_only_costs_stay_below_nothing(algorithm, one_thread):
    """No policy is worth more than 0 here, and one set of critics soon says hundreds: it is asked for the best action
    that it knows of, and believes itself."""
    found = {}
    for twin in (False, True):
        settings = {f"{algorithm}.twin": twin, "target.returns": "one_step", "net.recurrent": False}
        settings |= {"train.target_interval": 1, "train.target_rate": 0.02, "train.lr": 1e-3, "net.last_action": False}
        learner, generator = subject(algorithm, "dense", **settings), torch.Generator().manual_seed(0)
        batches = [transitions(generator) for _ in range(4)]
        for i in range(320):
            log = update(learner, batches[i % 4], 0)
        found[twin] = float(log["q_tot"])
    assert found[True] < 8.0 and found[False] > 14.0, "the former falls by then, the latter doubles every 80 updates"
