"""FACMAC against explicit loops, its parties, masks and targets, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from given_actions import HAS, SPEC, disturb, episodes, subject, unroll, value
from learning import update
from test_learner import SPEC as DISCRETE
from test_learner import episodes as discrete_episodes

from mast_train.algorithms.facmac import present
from mast_train.learning.flops import Schedule, training_cost
from mast_train.learning.learner import Learner
from mast_train.learning.update import Update
from mast_train.settings.errors import UserError
from mast_train.settings.methods import METHODS

PLAIN = {"target.returns": "one_step", "train.optimizer": "rmsprop", "train.grad_clip": 1e9}


def stepped(learner, batch, updates=1):
    for _ in range(updates):
        log = update(learner, batch, 0)
    return log


@pytest.mark.parametrize("recurrent", [True, False])
@pytest.mark.parametrize("mixer", ["monotonic", "unrestricted"])
def test_one_update_equals_a_plain_recomputation(mixer, recurrent):
    """The critics' loss and the joint climb by loops over episodes, steps and agents; the same gradients."""
    settings = {"facmac.mixer": mixer, "net.recurrent": recurrent, "facmac.action_penalty": 0.01, **PLAIN}
    fast, batch = subject("facmac", "rigl", **settings), episodes()
    disturb(fast)
    slow = copy.deepcopy(fast)
    memory, out = unroll(slow, slow.online["critics"], batch), unroll(slow, slow.agents, batch)
    with torch.no_grad():
        target_memory = unroll(slow, slow.targets["target_critics"], batch)
        target_out = unroll(slow, slow.targets["target_agents"], batch)
    loss, climb, penalty, count = torch.tensor(0.0), torch.tensor(0.0), torch.tensor(0.0), int(batch.filled.sum())
    for b in range(4):
        for t in range(int(batch.lengths[b])):
            state, following = batch.state[b, t][None], batch.state[b, t + 1][None]
            with torch.no_grad():
                acts = torch.tanh(target_out[b, t + 1]) * HAS
                q = value(slow.targets["target_critics"], target_memory[b, t + 1], acts)
                after = slow.targets["target_mixer"](q[None], following)[0]
                y = batch.reward[b, t] + 0.99 * after * ~batch.terminated[b, t]
            q_tot = slow.mixer(value(slow.online["critics"], memory[b, t], batch.actions[b, t])[None], state)[0]
            loss = loss + (q_tot - y) ** 2 / count
            now = torch.tanh(out[b, t]) * HAS
            climb = (
                climb + slow.mixer(value(slow.online["critics"], memory[b, t].detach(), now)[None], state)[0] / count
            )
            penalty = penalty + 0.01 * (out[b, t] ** 2).sum() / (count * out[b, t].numel())
    critics = [*slow.online["critics"].parameters(), *slow.mixer.parameters()]
    actors = list(slow.agents.parameters())
    expected = dict(zip(critics, torch.autograd.grad(loss, critics, retain_graph=True), strict=True))
    expected |= dict(zip(actors, torch.autograd.grad(penalty - climb, actors), strict=True))
    log = stepped(fast, batch)
    assert float(log["loss"]) == pytest.approx(loss.item(), rel=1e-4)
    assert float(log["policy_value"]) == pytest.approx(climb.item(), abs=1e-5)
    connections = {p: mask for masks in fast.masks.values() for p, mask in masks.connections().items()}
    for ours, theirs in zip(fast.parameters, slow.parameters, strict=True):
        gradient = expected[theirs] * connections.get(ours, torch.tensor(True))
        torch.testing.assert_close(ours.grad, gradient, atol=2e-6, rtol=1e-3)


def test_actors_and_critics_are_clipped_apart_and_step_at_their_own_rates():
    batch, rate = episodes(), 0.25
    settings = {"train.optimizer": "rmsprop", "facmac.actor_rate": rate, "train.grad_clip": 1e-3}
    learner = subject("facmac", "dense", **settings)
    before = [p.detach().clone() for p in learner.agents.parameters()]
    stepped(learner, batch)
    groups = learner.optimizer.param_groups
    assert [group["lr"] for group in groups] == [rate * learner.config.train.lr, learner.config.train.lr]
    for group in groups:
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p.grad) for p in group["params"]]))
        assert float(norm) == pytest.approx(1e-3, rel=1e-3)
    assert any(not torch.equal(p, old) for p, old in zip(learner.agents.parameters(), before, strict=True))


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_a_fixed_batch_and_keeps_its_masks(method, kind):
    spec, batch = (SPEC, episodes()) if kind == "continuous" else (DISCRETE, discrete_episodes())
    settings = {"train.lr": 3e-3, "net.shared": method == "set", "net.recurrent": method != "rigl"}
    learner = subject("facmac", method, spec, **settings)
    before = {key: {n: m.clone() for n, m in masks.state_dict().items()} for key, masks in learner.masks.items()}
    first = float(stepped(learner, batch)["loss"])
    last = float(stepped(learner, batch, 30)["loss"])
    assert last < 0.9 * first
    sparse = method not in ("dense", "tiny")
    for key, masks in learner.masks.items():
        assert bool(masks.layers) == sparse
        for name, mask in masks.state_dict().items():
            assert (masks.weights[name][~mask] == 0).all()
            assert int(mask.sum()) == int(before[key][name].sum())
    moves = any(
        not torch.equal(m, before[k][n]) for k, own in learner.masks.items() for n, m in own.state_dict().items()
    )
    assert moves == (sparse and learner.config.sparse.grow != "none")
    if moves:
        changed = {
            k for k, own in learner.masks.items() for n, m in own.state_dict().items() if (m != before[k][n]).any()
        }
        assert changed == {"agents", "critics", "mixer"}


def test_targets_that_follow_slowly_go_their_share_and_wear_the_masks():
    batch = episodes()
    settings = {"train.target_rate": 0.1, "train.target_interval": 1, "sparse.update_interval": 2, "train.lr": 0.01}
    learner = subject("facmac", "rigl", **settings)
    for _ in range(6):
        before = {name: [p.clone() for p in module.parameters()] for name, module in learner.targets.items()}
        update(learner, batch, 0)
        for name, source in learner.algorithm.copies.items():
            worn = learner.masks[source].connections()
            rows = zip(
                learner.targets[name].parameters(), before[name], learner.online[source].parameters(), strict=True
            )
            for target, old, online in rows:
                mask = worn.get(online, torch.tensor(True))
                torch.testing.assert_close(target, (0.9 * old + 0.1 * online) * mask, atol=1e-6, rtol=1e-5)


def test_gumbel_choices_are_available_one_hots_drawn_as_often_as_preferred():
    generator = torch.Generator().manual_seed(0)
    out = torch.tensor([0.0, 1.0, 2.0, 9.0]).repeat(20_000, 1, 1).requires_grad_()
    avail = torch.tensor([True, True, True, False]).expand_as(out)
    uniform = torch.rand(out.shape, generator=generator)
    chosen = present(out, avail, uniform, 1.0)
    assert ((chosen.detach() - chosen.detach().round()).abs() < 1e-6).all()
    assert (chosen.sum(-1) - 1).abs().max() < 1e-6
    share, expected = chosen.detach().mean((0, 1)), torch.softmax(torch.tensor([0.0, 1.0, 2.0]), 0)
    torch.testing.assert_close(share[:3], expected, atol=0.012, rtol=0.0)
    assert share[3] == 0.0
    weights = torch.tensor([1.0, 2.0, 5.0, 0.0])
    noisy = (out.detach() - torch.log(-torch.log(uniform)))[..., :3].requires_grad_()
    (torch.softmax(noisy, -1) * weights[:3]).sum().backward()
    (chosen * weights).sum().backward()
    torch.testing.assert_close(out.grad[..., :3], noisy.grad, atol=1e-5, rtol=1e-4)
    assert (out.grad[..., 3] == 0.0).all()


def test_discrete_updates_draw_from_the_learners_own_stream():
    """The same stream, the same update; another one, another climb. torch's global stream is not touched."""
    batch, torch_state = discrete_episodes(), torch.get_rng_state()
    same, other = (subject("facmac", "ss", DISCRETE) for _ in range(2))
    third = subject("facmac", "ss", DISCRETE)
    third.generator.manual_seed(5)
    values = [float(stepped(learner, batch)["policy_value"]) for learner in (same, other, third)]
    assert values[0] == values[1] != values[2]
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_several_seeds_at_once_learn_what_each_learns_alone():
    batches = [episodes(seed) for seed in (0, 1)]
    alone = [subject("facmac", "mast-active", seed=seed) for seed in (3, 4)]
    together = [subject("facmac", "mast-active", seed=seed) for seed in (3, 4)]
    both = type(batches[0])(**{name: torch.cat([getattr(b, name) for b in batches]) for name in vars(batches[0])})
    step = Update(together)
    for _ in range(6):
        for learner, batch in zip(alone, batches, strict=True):
            update(learner, batch, 0)
        step(both, [0, 0])
    for one, other in zip(alone, together, strict=True):
        for a, b in zip(one.parameters, other.parameters, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_training_flops_follow_the_connections():
    learner = subject("facmac", "rigl", **{"sparse.agent_sparsity": 0.8, "sparse.mixer_sparsity": 0.8})

    def forward(key):
        widths = {"weight_ih": 32, "weight_hh": 32}  # the GRU is one matrix over both inputs
        parts = learner.masks[key].state_dict().items()
        return sum(float(mask.sum()) * (2 - 1 / widths.get(name, mask.shape[-1])) for name, mask in parts)

    passes = learner.algorithm.passes(3, 2)
    expected = sum(getattr(passes, key) * forward(key) for key in ("agents", "critics", "mixer"))
    cost = training_cost(passes, learner.counts(), Schedule(100, 16.0))
    assert cost.paper_flops == pytest.approx(expected) and cost.counted["targets"] == 0.0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kernel": "native"}, r"kernel 'native' does not run critics of given actions .*; use kernel = 'torch'"),
        ({"algorithm": "qmix", "net.recurrent": False, "kernel": "native"}, "agents without a memory"),
        ({"algorithm": "qmix", "replay.segment": 4, "kernel": "native"}, "pieces of episodes"),
    ],
)
def test_a_kernel_that_cannot_is_refused_in_one_line(settings, said):
    algorithm = settings.pop("algorithm", "facmac")
    learner = subject(algorithm, "dense", SPEC if algorithm == "facmac" else DISCRETE, **settings)
    with pytest.raises(UserError, match=said):
        Update([learner])


def test_an_algorithm_for_the_other_kind_of_actions_is_refused_in_one_line():
    with pytest.raises(
        UserError, match=r"'qmix' is for discrete actions, those of test map are continuous; use .* comix"
    ):
        subject("qmix")
    with pytest.raises(UserError, match=r"'comix' is for continuous actions, .* discrete; use --algorithm qmix or vdn"):
        subject("comix", spec=DISCRETE)


def test_a_checkpoint_of_another_algorithm_is_refused():
    with pytest.raises(ValueError, match="has no critics"):
        subject("facmac", spec=DISCRETE).load_state_dict(subject("qmix", spec=DISCRETE).state_dict())
    assert isinstance(subject("facmac"), Learner)
