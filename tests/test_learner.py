"""The learner against a slow, plain re-computation; target networks; every method and operator takes a step."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from learning import update

from mast_train.envs.base import EnvSpec
from mast_train.experience.episodes import EpisodeBatch
from mast_train.learning import targets
from mast_train.learning.learner import Learner
from mast_train.networks.build import agent_inputs
from mast_train.settings.config import Config, override
from mast_train.settings.methods import METHODS, preset

SPEC = EnvSpec("test", "map", 3, 6, 5, 4, 8, ("a", "b", "b"))


def episodes(seed=0, lengths=(8, 3, 5, 1)):
    g = torch.Generator().manual_seed(seed)
    b, t, n = len(lengths), max(lengths), SPEC.n_agents
    length = torch.tensor(lengths)[:, None]
    filled, last = torch.arange(t) < length, torch.arange(t) == length - 1
    terminated = last & torch.tensor([[True], [False], [True], [False]])
    avail = torch.rand(b, t + 1, n, SPEC.n_actions, generator=g) < 0.6
    avail[..., 0] = True
    actions = torch.rand(b, t, n, SPEC.n_actions, generator=g).masked_fill(~avail[:, :-1], -1).argmax(-1)
    reward = torch.randn(b, t, generator=g) * filled
    obs, state = torch.randn(b, t + 1, n, SPEC.obs_dim, generator=g), torch.randn(b, t + 1, SPEC.state_dim, generator=g)
    actions = actions * filled[..., None]
    return EpisodeBatch(obs, state, avail, actions, reward, terminated, last & ~terminated, filled)


def small(method="mast", **settings):
    base = {"net.hidden": 16, "mixer.embed": 8, "mixer.hypernet_hidden": 8, "replay.batch": 4, "replay.recent_batch": 0}
    return override(preset(method), {**base, **settings})


def learner(config: Config):
    return Learner(config, SPEC, torch.device("cpu"))


def test_inputs_are_observation_last_action_and_id():
    config = small(**{"net.shared": True})
    x = agent_inputs(config, SPEC, torch.zeros(2, 3, 6), torch.tensor([[-1, 2, 0], [3, 3, 3]]))
    assert x.shape == (2, 3, 6 + 4 + 3)
    assert not x[0, 0, 6:10].any() and x[0, 1, 6:10].tolist() == [0, 0, 1, 0]
    assert torch.equal(x[:, :, 10:], torch.eye(3).expand(2, 3, 3))


@pytest.mark.parametrize(
    ("operator", "double"), [*itertools.product(["max", "softmax", "mellowmax", "soft_mellowmax"], [False, True])]
)
def test_one_update_equals_a_plain_recomputation(operator, double):
    """Loss by explicit loops over steps and agents, then gradients by autograd: the same weights after the step."""
    settings = {"target.operator": operator, "target.double_q": double, "train.optimizer": "rmsprop"}
    config = small("dense", **settings, **{"train.lr_end_factor": 1.0})
    fast, batch = learner(config), episodes()
    with torch.no_grad():
        for parameter in fast.targets["target_agents"].parameters():
            parameter.add_(0.05)
    slow = copy.deepcopy(fast)
    update(fast, batch, 10**6)

    def unroll(nets):
        hidden, last, q = nets.initial_hidden(4, 3), torch.full((4, 3), -1), []
        for t in range(9):
            step_q, hidden = nets.step(agent_inputs(config, SPEC, batch.obs[:, t], last), hidden)
            q.append(step_q)
            last = batch.actions[:, t] if t < 8 else last
        return torch.stack(q, 1)

    q, q_target = unroll(slow.agents), unroll(slow.targets["target_agents"]).detach()
    select = q.detach() if double else None
    c = config.target
    reduced = {
        "max": lambda: targets.greedy_value(q_target, batch.avail_actions, select),
        "softmax": lambda: targets.softmax_value(q_target, batch.avail_actions, c.alpha, select),
        "mellowmax": lambda: targets.mellowmax(q_target, batch.avail_actions, c.omega),
        "soft_mellowmax": lambda: targets.soft_mellowmax(q_target, batch.avail_actions, c.alpha, c.omega, select),
    }[operator]()
    value = slow.targets["target_mixer"](reduced, batch.state).detach()
    y = targets.td_lambda(batch.reward, value[:, 1:], batch.terminated, batch.last, 0.99, 0.6)
    loss, count = torch.tensor(0.0), 0
    for b in range(4):
        for t in range(int(batch.lengths[b])):
            taken = torch.stack([q[b, t, n, batch.actions[b, t, n]] for n in range(3)])
            loss = loss + (slow.mixer(taken[None], batch.state[b, t][None])[0] - y[b, t]) ** 2
            count += 1
    slow.optimizer.zero_grad()
    (loss / count).backward()
    torch.nn.utils.clip_grad_norm_(slow.parameters, config.train.grad_clip)
    slow.optimizer.step()
    for a, b in zip(fast.parameters, slow.parameters, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("algorithm", ["qmix", "vdn"])
@pytest.mark.parametrize("shared", [False, True])
def test_every_method_learns_a_fixed_batch(method, algorithm, shared):
    config = small(
        method, algorithm=algorithm, **{"net.shared": shared, "sparse.update_interval": 5, "target.start": 0.0}
    )
    subject, batch = learner(config), episodes()
    losses = [float(update(subject, batch, 0)["loss"]) for _ in range(60)]
    assert losses[-1] < losses[0] and all(value == value for value in losses)


def test_delayed_returns_are_one_step_before_the_start():
    batch = episodes()
    early = learner(small(**{"target.start": 0.5}))
    one = learner(small(**{"target.returns": "one_step"}))
    late = learner(small(**{"target.start": 0.0}))
    steps = early.config.train.total_steps
    losses = [float(update(x, batch, int(0.4 * steps))["loss"]) for x in (early, one, late)]
    assert losses[0] == losses[1] != losses[2]
    after = [
        float(update(learner(small(**{"target.start": start})), batch, int(0.6 * steps))["loss"])
        for start in (0.5, 0.0)
    ]
    assert after[0] == after[1]


def test_targets_are_copied_on_schedule_and_wear_the_masks_then():
    subject, batch = learner(small(**{"train.target_interval": 4, "sparse.update_interval": 2})), episodes()
    for count in range(1, 9):
        before = subject.targets["target_agents"].weight_hh.clone()
        update(subject, batch, 0)
        if count % 4 == 0:
            assert torch.equal(subject.targets["target_agents"].weight_hh, subject.agents.weight_hh)
            assert torch.equal(subject.targets["target_mixer"].w1_out.weight, subject.mixer.w1_out.weight)
            assert not subject.targets["target_agents"].weight_hh[~subject.masks["agents"]["weight_hh"]].any()
        else:
            assert torch.equal(subject.targets["target_agents"].weight_hh, before)


def test_a_checkpoint_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="shape"):
        learner(small()).load_state_dict(learner(small(**{"net.hidden": 8})).state_dict())


@pytest.mark.parametrize("kernel", ["torch", "auto"])
def test_connections_grow_where_the_dense_gradient_is_largest(kernel):
    """RigL's choice from the gradient before masking, in agents and mixer, against autograd on the whole tensors."""
    settings = {"sparse.update_interval": 1, "kernel": kernel, "train.lr": 1e-9, "sparse.drop_fraction": 0.3}
    subject, batch = learner(small("rigl", **settings)), episodes()
    slow = copy.deepcopy({"agents": subject.agents, "mixer": subject.mixer})
    target_agents, target_mixer = (
        copy.deepcopy(subject.targets["target_agents"]),
        copy.deepcopy(subject.targets["target_mixer"]),
    )
    before = {key: {n: m.clone() for n, m in masks.state_dict().items()} for key, masks in subject.masks.items()}
    update(subject, batch, 0)
    previous = torch.cat([torch.full_like(batch.actions[:, :1], -1), batch.actions], 1)
    x = agent_inputs(subject.config, SPEC, batch.obs, previous).transpose(0, 1)
    q, following = slow["agents"](x)[0].transpose(0, 1), target_agents(x)[0].transpose(0, 1)
    taken = q[:, :-1].gather(-1, batch.actions.unsqueeze(-1)).squeeze(-1)
    best = targets.greedy_value(following, batch.avail_actions, q.detach())
    value = target_mixer(best, batch.state)[:, 1:].detach()
    y = targets.td_lambda(batch.reward, value, batch.terminated, batch.last, 0.99, 0.6)
    (slow["mixer"](taken, batch.state[:, :-1]) - y)[batch.filled].square().mean().backward()
    for key, masks in subject.masks.items():
        parameters, grown_somewhere = dict(slow[key].named_parameters()), False
        for name, mask in masks.state_dict().items():
            old, score = before[key][name], parameters[name].grad.abs()
            grown = mask & ~old
            if not grown.any():
                continue
            grown_somewhere = True
            others = ~old & ~grown
            assert score[grown].min() >= score[others].max() - 1e-7, (key, name)
        assert grown_somewhere


def test_the_share_that_moves_falls_along_the_cosine():
    subject, batch = learner(small(**{"sparse.update_interval": 1})), episodes()
    total = subject.config.train.total_steps
    changed = [float(update(subject, batch, int(share * total))["changed"]) for share in (0.0, 0.375, 0.76)]
    assert changed[0] > 1.5 * changed[1] > changed[2] == 0.0


def test_rows_change_their_topology_or_keep_it():
    batch = episodes()
    for method, moves in (("ss", False), ("set", True), ("rigl", True), ("mast", True)):
        subject = learner(small(method, **{"sparse.update_interval": 2}))
        before = {key: {n: m.clone() for n, m in masks.state_dict().items()} for key, masks in subject.masks.items()}
        for _ in range(4):
            update(subject, batch, 0)
        for key, masks in subject.masks.items():
            same = all(torch.equal(mask, before[key][name]) for name, mask in masks.state_dict().items())
            assert same is not moves, (method, key)


@pytest.mark.parametrize("kernel", ["auto", "torch"])
@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_the_rate_falls_linearly_over_the_run(kernel, optimizer):
    settings = {"train.lr": 1e-2, "train.total_steps": 1000, "train.optimizer": optimizer, "kernel": kernel}
    annealed, end = (learner(small(**settings, **{"train.lr_end_factor": factor})) for factor in (0.1, 1.0))
    before = [p.detach().clone() for p in annealed.parameters]
    for steps, rate in ((0, 1e-2), (500, 5.5e-3), (1000, 1e-3), (1200, 1e-3)):
        assert annealed.stage(steps).rate == pytest.approx(rate)
    update(annealed, episodes(), 1000)
    update(end, episodes(), 1000)
    for start, ours, whole in zip(before, annealed.parameters, end.parameters, strict=True):
        torch.testing.assert_close(ours - start, (whole - start) / 10, atol=1e-6, rtol=1e-3)


def test_gradients_are_clipped():
    loose, tight = (
        learner(small("dense", **{"train.optimizer": "rmsprop", "train.grad_clip": c})) for c in (1e6, 1e-6)
    )
    start = loose.agents.fc2_weight.detach().clone()
    norm = float(update(loose, episodes(), 0)["grad_norm"])
    update(tight, episodes(), 0)
    assert norm > 1e-3
    assert (tight.agents.fc2_weight - start).abs().max() < 0.5 * (loose.agents.fc2_weight - start).abs().max()


def test_training_flops_follow_the_connections():
    """QMIX by the paper: 4 A + 4 M with (1-S)(2I-1)O per matrix, here summed over the weights that are there."""
    from mast_train.learning.flops import Schedule, training_cost

    subject = learner(small("rigl", **{"sparse.agent_sparsity": 0.8, "sparse.mixer_sparsity": 0.8}))
    h, inputs = 16, 6 + 4
    masks = subject.masks["agents"].state_dict()
    agents = sum(
        float(masks["fc1_weight"][g].sum()) * (2 * inputs - 1) / inputs
        + float(masks["weight_ih"][g].sum() + masks["weight_hh"][g].sum()) * (4 * h - 1) / (2 * h)
        + float(masks["fc2_weight"][g].sum()) * (2 * h - 1) / h
        for g in range(3)
    )
    mixer = sum(
        float(mask.sum()) * (2 * mask.shape[1] - 1) / mask.shape[1]
        for mask in subject.masks["mixer"].state_dict().values()
    )
    passes = subject.algorithm.passes(3, 4)
    cost = training_cost(passes, subject.counts(), Schedule(100, 16.0))
    assert cost.paper_flops == pytest.approx(4 * agents + 4 * mixer, rel=1e-6)
    dense = learner(small("dense")).counts()
    assert training_cost(passes, dense, Schedule(100, 16.0)) == training_cost(
        passes, dense.dense(), Schedule(100, 16.0)
    )
    assert len(learner(small("mast", **{"net.shared": True})).counts().agents) == 3


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
@pytest.mark.parametrize("algorithm", ["qmix", "vdn"])
def test_in_c_and_in_torch_the_same_is_learned(algorithm, optimizer):
    """A hundred updates from one start, the topology changing at every twentieth: losses, norms, masks, weights."""
    settings = {"sparse.update_interval": 20, "target.start": 0.0, "train.optimizer": optimizer, "train.lr": 5e-4}
    subjects = [learner(small("mast", algorithm=algorithm, kernel=kernel, **settings)) for kernel in ("torch", "auto")]
    for number in range(100):
        batch = episodes(number)
        torch_row, native_row = (update(subject, batch, 10) for subject in subjects)
        for name in ("loss", "grad_norm", "q_tot", "target"):
            torch.testing.assert_close(native_row[name], torch_row[name], atol=1e-5, rtol=2e-4, msg=f"{name} {number}")
        assert torch_row["changed"] == native_row["changed"]
    for key, masks in subjects[0].masks.items():
        assert all(torch.equal(mask, subjects[1].masks[key][name]) for name, mask in masks.state_dict().items())
    for a, b in zip(subjects[0].parameters, subjects[1].parameters, strict=True):
        torch.testing.assert_close(b, a, atol=1e-4, rtol=1e-3)
    assert subjects[0].state_dict().keys() == subjects[1].state_dict().keys()
