"""Rollouts: what is drawn and recorded does not depend on when the host sees that episodes have ended."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_graphs import Counting, Recording

from mast_train.envs.base import EnvSpec, Observation, Transition
from mast_train.experience import rollout as rollout_module
from mast_train.experience.exploration import Exploration
from mast_train.experience.rollout import AgentPolicy, random_policy, rollout, rollouts
from mast_train.experience.transfer import Flags, sent
from mast_train.settings.errors import UserError

SPEC = EnvSpec("stub", "stub", 2, 3, 4, 5, 9, ("a", "b"))


class Varied:
    """Six episodes of 1 to 9 steps, of random observations; those of the first three end first."""

    spec, num_envs, device = SPEC, 6, torch.device("cpu")

    def __init__(self):
        self.generator = torch.Generator().manual_seed(5)

    def reset(self):
        self.t = 0
        self.length = torch.randint(1, 6, (6,), generator=self.generator) + torch.tensor([0, 0, 0, 4, 4, 4])
        self.seen = torch.rand(9, 6, 2, 3, generator=self.generator)
        return self._observation()

    def step(self, actions):
        self.t += 1
        ended = self.t >= self.length
        return Transition(self._observation(), actions.sum(1).float(), ended, torch.zeros_like(ended), ended)

    def _observation(self):
        obs = self.seen[min(self.t, 8)]
        avail = (obs.sum(-1, keepdim=True) * torch.arange(1, 6)).frac() < 0.6
        return Observation(obs, obs.flatten(1)[:, :4], avail | (torch.arange(5) == 4))


class Actor:
    """One layer, without memory."""

    def __init__(self):
        self.weight, self.decisions = torch.rand(3, 5, generator=torch.Generator().manual_seed(1)), 0

    def initial_hidden(self, batch, n_agents):
        return torch.zeros(0)

    def step(self, x, hidden):
        self.decisions += 1
        return x @ self.weight, hidden


class Late(Flags):
    """As from a GPU: never there before somebody looks."""

    here = False


def play(seeds, rounds=4):
    """Everything that rounds of exploring seeds leave behind, and how many decisions were made."""
    env, actor = Varied(), Actor()
    streams = [torch.Generator().manual_seed(k) for k in range(seeds)]
    exploring = [Exploration(0.5, stream) for stream in streams]
    left = []
    for _ in range(rounds):
        played = rollouts(env, AgentPolicy(actor, lambda obs, last: obs, exploring), seeds)
        left += [tensor for own in played for tensor in own.state_dict().values()]
        left += [stream.get_state() for stream in streams]
    return left, actor.decisions


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_seeing_the_end_late_changes_nothing(monkeypatch, seeds):
    expected, decisions = play(seeds)
    monkeypatch.setattr(rollout_module, "Flags", Late)
    found, more = play(seeds)
    assert more == decisions + 4, "one decision a round for nobody"
    assert len(found) == len(expected) and all(map(torch.equal, found, expected))


def test_a_round_is_shared_out_in_as_many_operations_a_seed_for_any_number_of_them():
    """And every seed's part is what was played of it, up to its own longest episode."""
    counts = []
    for seeds in (2, 3, 6):
        played = rollouts(Varied(), random_policy(SPEC, torch.Generator().manual_seed(0)), seeds)
        with Counting() as counting:
            parts = list(played)
        assert len(parts) == seeds
        counts.append(counting.count / seeds)
        for k, part in enumerate(parts):
            own = played.episodes.obs.tensor_split(seeds)[k]
            longest = int(played.episodes.lengths.tensor_split(seeds)[k].max())
            assert torch.equal(part.episodes.obs, own[:, : longest + 1])
            assert torch.equal(played[k - seeds].episodes.reward, part.episodes.reward)
        with pytest.raises(IndexError):
            played[seeds]
    assert counts[0] == counts[1] == counts[2]


def test_random_actions_are_drawn_for_those_who_play(monkeypatch):
    def states():
        env, generator = Varied(), torch.Generator().manual_seed(0)
        policy = random_policy(SPEC, generator)
        return [(rollout(env, policy).state_dict()["actions"], generator.get_state())[1] for _ in range(3)]

    expected = states()
    monkeypatch.setattr(rollout_module, "Flags", Late)
    assert all(map(torch.equal, states(), expected))


def test_only_the_flags_are_read_back_while_episodes_are_played(monkeypatch):
    """And only after the networks have decided."""
    order = []

    class Seen(Late):
        def __getitem__(self, index):
            order.append("look")
            return super().__getitem__(index)

    actor, env = Actor(), Varied()
    step = actor.step
    actor.step = lambda *given: (order.append("decide"), step(*given))[1]
    monkeypatch.setattr(rollout_module, "Flags", Seen)
    exploring = [Exploration(0.5, torch.Generator().manual_seed(0))]
    with Recording():
        (played,) = rollouts(env, AgentPolicy(actor, lambda obs, last: obs, exploring), 1)
    steps = played.episodes.filled.shape[1]
    runs = "".join(event[0] for event in order)
    assert runs.count("d") == steps + 1 and runs.startswith("dl") and "dd" not in runs


def test_nothing_is_recorded_after_an_end():
    env, values = Varied(), iter(range(100))
    (played,) = rollouts(env, lambda t, observation, playing: torch.full((6, 2), next(values)), 1)
    episodes, steps = played.episodes, played.episodes.filled.shape[1]
    assert env.length.unique().numel() > 1 and steps == int(env.length.max())
    for i, length in enumerate(env.length.tolist()):
        flags = [k == length - 1 for k in range(steps)]
        assert episodes.filled[i].tolist() == [k < length for k in range(steps)]
        assert episodes.terminated[i].tolist() == flags and not episodes.truncated[i].any()
        assert episodes.reward[i].tolist() == [2.0 * k if k < length else 0.0 for k in range(steps)]
        assert episodes.actions[i].tolist() == [[k, k] if k < length else [0, 0] for k in range(steps)]


def test_more_episodes_at_once_than_memory_holds_are_refused():
    env = Varied()
    env.spec = replace(SPEC, obs_dim=10**9, episode_limit=10**6)
    with pytest.raises(UserError, match=r"6 episodes at once of up to 1000000 steps of stub need .* GB on cpu"):
        rollout(env, random_policy(SPEC, torch.Generator()))


def test_flags_and_what_is_sent_keep_their_values():
    flags = Flags(torch.tensor([True, False, True]))
    assert flags.here and list(flags) == [True, False, True] and len(flags) == 3 and any(flags)
    given = torch.arange(3)
    assert sent(given, torch.device("cpu")) is given and sent(given, torch.device("meta")).shape == (3,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_a_gpu_and_its_host_exchange_values_in_order():
    cuda, busy = torch.device("cuda"), torch.rand(4000, 4000, device="cuda")
    for k in range(20):
        busy = busy @ busy / busy.norm()
        numbers = sent(torch.full((1000,), k), cuda)
        flags = Flags(torch.stack([(numbers == k).all(), (numbers > k).any()]))
        assert list(flags) == [True, False] and flags.here
