"""WQMIX and RES against slow loops, by hand, and on a game that QMIX cannot solve."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from learning import update
from test_learner import SPEC, episodes, learner, small
from test_training import config as game_config
from test_training import run
from torch.nn import functional as F

from mast_train.engines import native
from mast_train.learning import targets
from mast_train.learning.flops import Schedule, training_cost
from mast_train.learning.losses import central_weight, optimistic_weight, td_error
from mast_train.networks.build import agent_inputs, tiny_widths
from mast_train.networks.mixers import CentralMixer, MonotonicMixer
from mast_train.runs.run import Evaluation, Run
from mast_train.settings.methods import METHODS, preset

NEW = ["owqmix", "cwqmix", "res"]


def subject(algorithm, method="mast", **settings):
    base = {"wqmix.embed": 16, "target.start": 0.0, "sparse.update_interval": 5}
    return learner(small(method, algorithm=algorithm, **{**base, **settings}))


def test_weights_by_hand():
    q_tot, y = torch.tensor([1.0, 2.0, 3.0, 0.0]), torch.tensor([2.0, 2.0, 1.0, 0.5])
    assert optimistic_weight(q_tot, y, 0.25).tolist() == [1.0, 0.25, 0.25, 1.0]
    q_greedy, is_greedy = torch.tensor([1.0, 2.0, 2.0, 4.0]), torch.tensor([False, False, True, False])
    assert central_weight(y, q_greedy, is_greedy, 0.25).tolist() == [1.0, 0.25, 1.0, 0.25]
    assert (
        float(td_error(q_tot, y, torch.tensor([1.0, 0.5, 0.25, 2.0])).mean())
        == (1.0 + 0.0 + 0.25 * 4.0 + 2.0 * 0.25) / 4
    )


def test_the_neighbours_of_the_greedy_joint_action_against_a_loop():
    torch.manual_seed(0)
    q, greedy = torch.randn(5, 3, 4), torch.randint(4, (5, 3))
    values = targets.neighbours(q, greedy)
    assert values.shape == (12, 5, 3)
    for r, agent, action in itertools.product(range(5), range(3), range(4)):
        joint = greedy[r].tolist()
        joint[agent] = action
        expected = [float(q[r, i, u]) for i, u in enumerate(joint)]
        assert values[4 * agent + action, r].tolist() == expected


def test_mixing_many_joint_actions_equals_mixing_each():
    torch.manual_seed(0)
    mixer = MonotonicMixer(3, 5, small().mixer)
    q, state = torch.randn(7, 6, 3), torch.randn(6, 5)
    many = mixer(q, state)
    for j in range(7):
        torch.testing.assert_close(many[j], mixer(q[j], state))


def test_central_mixer_against_a_loop_and_without_monotonicity():
    torch.manual_seed(0)
    mixer, q, state = CentralMixer(3, 5, 8), torch.randn(40, 2, 3, requires_grad=True), torch.randn(40, 2, 5)
    total = mixer(q, state)
    for i, t in itertools.product(range(3), range(2)):
        x = torch.cat([q[i, t], state[i, t]])
        for layer in (mixer.f1, mixer.f2, mixer.f3):
            x = F.relu(layer.weight @ x + layer.bias)
        value = mixer.v2(F.relu(mixer.v1(state[i, t])))
        torch.testing.assert_close(total[i, t], (mixer.f4(x) + value)[0])
    total.sum().backward()
    assert q.grad is not None and bool((q.grad < 0).any()) and bool((q.grad > 0).any())


def slow_values(subject, batch):
    """Step by step: online, target and central action values [B,T+1,N,A]."""

    def unroll(nets):
        hidden, last, q = nets.initial_hidden(4, 3), torch.full((4, 3), -1), []
        for t in range(9):
            step_q, hidden = nets.step(agent_inputs(subject.config, SPEC, batch.obs[:, t], last), hidden)
            q.append(step_q)
            last = batch.actions[:, t] if t < 8 else last
        return torch.stack(q, 1)

    central = unroll(subject.online["central_agents"]) if "central_agents" in subject.online else None
    return unroll(subject.agents), unroll(subject.targets["target_agents"]).detach(), central


def greedy(q, avail):
    return [max((u for u in range(4) if avail[n, u]), key=lambda u: float(q[n, u])) for n in range(3)]


def slow_operator(subject, algorithm, q, q_target, avail, state):
    """The target network's value of one state, one joint action at a time."""
    best = greedy(q, avail)
    if algorithm != "res":
        return subject.targets["target_mixer"](
            torch.stack([q_target[n, u] for n, u in enumerate(best)])[None], state[None]
        )[0]
    weights, values = [], []
    for agent, action in itertools.product(range(3), range(4)):
        if not avail[agent, action]:
            continue
        joint = [action if n == agent else u for n, u in enumerate(best)]
        online, target = (torch.stack([v[n, u] for n, u in enumerate(joint)])[None] for v in (q, q_target))
        weights.append(float(subject.mixer(online, state[None])) * subject.config.res.beta)
        values.append(float(subject.targets["target_mixer"](target, state[None])))
    return torch.softmax(torch.tensor(weights), 0) @ torch.tensor(values)


@pytest.mark.parametrize("kernel", ["torch", "auto"])
@pytest.mark.parametrize("algorithm", NEW)
def test_one_update_equals_a_plain_recomputation(algorithm, kernel):
    """Loss by explicit loops over steps, agents and joint actions, with double-Q max; the same weights after it."""
    settings = {"target.operator": "max", "target.returns": "one_step", "train.optimizer": "rmsprop", "kernel": kernel}
    fast, batch = subject(algorithm, "ss", **settings), episodes()
    with torch.no_grad():
        for module in (fast.targets["target_agents"], fast.targets["target_mixer"]):
            for parameter in module.parameters():
                parameter.add_(0.05 * (parameter != 0))
    slow = copy.deepcopy(fast)
    update(fast, batch, 0)
    q, q_target, q_central = slow_values(slow, batch)
    loss, count, weights = torch.tensor(0.0), 0, set()
    for b in range(4):
        returns = 0.0
        for t in reversed(range(int(batch.lengths[b]))):
            with torch.no_grad():
                following = (x[b, t + 1] for x in (q, q_target, batch.avail_actions, batch.state))
                value = 0.0 if batch.terminated[b, t] else slow_operator(slow, algorithm, *following)
                y = batch.reward[b, t] + 0.99 * value
                returns = float(batch.reward[b, t]) + 0.99 * returns
            taken, state = batch.actions[b, t], batch.state[b, t][None]
            q_tot = slow.mixer(torch.stack([q[b, t, n, taken[n]] for n in range(3)])[None], state)[0]
            weight = 1.0
            if algorithm == "owqmix":
                weight = 1.0 if q_tot < y else 0.1
            if algorithm == "cwqmix":
                best = greedy(q[b, t].detach(), batch.avail_actions[b, t])
                at_best = torch.stack([q_target[b, t, n, u] for n, u in enumerate(best)])[None]
                weight = 1.0 if y > slow.targets["target_mixer"](at_best, state)[0] or best == taken.tolist() else 0.1
            loss = loss + weight * (q_tot - y) ** 2
            weights.add(weight)
            if q_central is not None:
                central = torch.stack([q_central[b, t, n, taken[n]] for n in range(3)])[None]
                loss = loss + (slow.online["central_mixer"](central, state)[0] - y) ** 2
            if algorithm == "res":
                loss = loss + 0.05 * (q_tot - returns) ** 2
            count += 1
    assert weights == ({1.0} if algorithm == "res" else {0.1, 1.0})
    slow.optimizer.zero_grad()
    (loss / count).backward()
    for masks in slow.masks.values():
        masks.apply_to_gradients()
    torch.nn.utils.clip_grad_norm_(slow.parameters, slow.config.train.grad_clip)
    slow.optimizer.step()
    for a, b in zip(fast.parameters, slow.parameters, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("algorithm", NEW)
def test_every_method_learns_a_fixed_batch(method, algorithm):
    trained, batch = subject(algorithm, method, **{"net.shared": method == "set"}), episodes()
    before = {key: {n: m.clone() for n, m in masks.state_dict().items()} for key, masks in trained.masks.items()}
    losses = [float(update(trained, batch, 0)["loss"]) for _ in range(60)]
    assert losses[-1] < losses[0] and all(value == value for value in losses)
    moves = trained.config.sparse.grow != "none"
    for key, masks in trained.masks.items():
        for name, mask in masks.state_dict().items():
            assert not dict(trained.online[key].named_parameters())[name][~mask].any()
        assert moves is not all(torch.equal(mask, before[key][name]) for name, mask in masks.state_dict().items())


@pytest.mark.parametrize("algorithm", ["owqmix", "cwqmix"])
def test_the_unrestricted_networks_are_sparse_and_give_the_targets(algorithm):
    trained, batch = subject(algorithm, **{"train.target_interval": 4, "wqmix.embed": 64}), episodes()
    assert set(trained.sparsity()) == {"agents", "mixer", "central_agents", "central_mixer"}
    assert all(value == pytest.approx(0.95, abs=0.02) for value in trained.sparsity().values())
    for _ in range(4):
        update(trained, batch, 0)
    for target, online in (
        (trained.targets["target_agents"], trained.online["central_agents"]),
        (trained.targets["target_mixer"], trained.online["central_mixer"]),
    ):
        copied = online.state_dict()
        assert all(torch.equal(tensor, copied[name]) for name, tensor in target.state_dict().items())


@pytest.mark.skipif(not native.available(), reason=native.status())
@pytest.mark.parametrize("algorithm", [*NEW, "iql"])
def test_native_and_torch_agree_while_the_topology_evolves(algorithm):
    pair, batch = [subject(algorithm, kernel=kernel) for kernel in ("native", "torch")], episodes()
    for _ in range(12):
        losses = [float(update(trained, batch, 0)["loss"]) for trained in pair]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for key in pair[0].masks:
        other = pair[1].masks[key].state_dict()
        assert all(torch.equal(mask, other[name]) for name, mask in pair[0].masks[key].state_dict().items())


def test_a_return_without_bootstrapping_stops_at_the_episodes_end():
    reward = torch.tensor([[1.0, 2.0, 4.0, 9.0], [1.0, 1.0, 1.0, 1.0]])
    last = torch.tensor([[False, False, True, False], [False, False, False, True]])
    returns = targets.episode_return(reward, last & torch.tensor([[True], [False]]), last, 0.5)
    assert returns[0, :3].tolist() == [3.0, 4.0, 4.0] and returns[1].tolist() == [1.875, 1.75, 1.5, 1.0]


def final_return(algorithm, **settings):
    exploring = {
        "train.epsilon_end": 1.0,
        "train.target_interval": 20,
        "train.lr": 3e-3,
        "train.episodes_per_update": 4,
    }
    settings = {"train.eval_interval": 10**6, "wqmix.embed": 32, "target.returns": "one_step", **exploring, **settings}
    told = run(Run(game_config("dense", algorithm=algorithm, **settings)))
    return [event for event in told if isinstance(event, Evaluation)][-1].return_mean


def test_wqmix_solves_a_game_without_monotonicity_and_qmix_does_not():
    """The climbing game, every joint action seen equally often: a monotonic mixer fits its penalties (Rashid et al.
    2020, section 3); the weights make it give them up. In other seeds QMIX may chance on the optimum."""
    climbing = {"env.map": "climbing", "train.total_steps": 3000}
    assert final_return("qmix", **climbing) < 11.0
    assert final_return("owqmix", **climbing) == final_return("cwqmix", **climbing) == 11.0


def test_res_reaches_the_optimum_of_the_two_step_game():
    assert final_return("res", **{"env.map": "two_step", "train.total_steps": 6000}) == pytest.approx(8.0)


@pytest.mark.parametrize("algorithm", [*NEW, "iql"])
def test_training_flops_follow_the_connections(algorithm):
    """The learner's own count against its masks: (2I-1)/I per connection, OW-QMIX 3A + 3M + 4UA + 4UM."""
    trained = subject(algorithm, "rigl", **{"sparse.agent_sparsity": 0.8, "sparse.mixer_sparsity": 0.8})

    def forward(key):
        parts = trained.masks[key].state_dict().items()
        widths = {"weight_ih": 32, "weight_hh": 32}  # the GRU is one matrix over both inputs
        return sum(float(mask.sum()) * (2 - 1 / widths.get(name, mask.shape[-1])) for name, mask in parts)

    passes = trained.algorithm.passes(3, 4)
    expected = sum(getattr(passes, key) * forward(key) for key in trained.masks)
    assert training_cost(passes, trained.counts(), Schedule(100, 16.0)).paper_flops == pytest.approx(expected)


def test_tiny_narrows_the_unrestricted_mixer_to_the_sparse_budget():
    config = tiny_widths(preset("tiny"), SPEC)

    def weights(embed):
        return sum(p.numel() for p in CentralMixer(SPEC.n_agents, SPEC.state_dim, embed).parameters() if p.dim() == 2)

    budget = (1 - 0.95) * weights(256)
    assert weights(config.wqmix.embed) <= budget < weights(config.wqmix.embed + 1)


@pytest.mark.parametrize("kernel", ["torch", "auto"])
def test_iql_fits_every_agent_to_its_own_target(kernel):
    """Loss by explicit loops over steps and agents, then gradients by autograd: the same weights after the step."""
    settings = {"train.optimizer": "rmsprop", "target.returns": "one_step", "kernel": kernel}
    fast, batch = subject("iql", "ss", **settings), episodes()
    with torch.no_grad():
        for parameter in fast.targets["target_agents"].parameters():
            parameter.add_(0.05 * (parameter != 0))
    slow = copy.deepcopy(fast)
    log = update(fast, batch, 0)
    q, q_target, _ = slow_values(slow, batch)
    errors = []
    for b in range(4):
        for t in range(int(batch.lengths[b])):
            best = greedy(q[b, t + 1].detach(), batch.avail_actions[b, t + 1])
            for n in range(3):
                value = 0.0 if batch.terminated[b, t] else float(q_target[b, t + 1, n, best[n]])
                y = float(batch.reward[b, t]) + 0.99 * value
                errors.append((q[b, t, n, batch.actions[b, t, n]] - y) ** 2)
    loss = torch.stack(errors).mean()
    assert float(log["loss"]) == pytest.approx(loss.item(), rel=1e-5)
    slow.optimizer.zero_grad()
    loss.backward()
    for masks in slow.masks.values():
        masks.apply_to_gradients()
    torch.nn.utils.clip_grad_norm_(slow.parameters, slow.config.train.grad_clip)
    slow.optimizer.step()
    for a, b in zip(fast.parameters, slow.parameters, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_iql_learns_to_coordinate_where_rewards_tell_each_agent_enough():
    """The two-step game: 7 is what agents find that do not mix (Rashid et al. 2018, section 5)."""
    assert final_return("iql", **{"env.map": "two_step", "train.total_steps": 6000}) == pytest.approx(7.0)
