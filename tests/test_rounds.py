"""Whole rounds of SMAX as one program, against the same rounds played step by step by the torch policy."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mast_train.engines.joint import chosen, joined, lay_out
from mast_train.envs import smax_round
from mast_train.envs.smax import SmaxEnv, aligned
from mast_train.envs.together import together
from mast_train.experience.rollout import Exploration, Rollout, rollouts
from mast_train.experience.rounds import Rounds
from mast_train.experience.scaling import Scaling
from mast_train.networks.agents import AgentNets
from mast_train.networks.build import agent_inputs, agent_nets
from mast_train.runs.events import Saved
from mast_train.runs.loop import Loop
from mast_train.runs.run import Run
from mast_train.settings.config import Config, override
from mast_train.settings.errors import UserError
from mast_train.settings.methods import preset

CPU = torch.device("cpu")
PLACES, BATTLES, LIMIT = 3, 2, 101
"""As in tests/test_seeds.py, whose programs serve here too."""


def config(**settings) -> Config:
    base = {"env.map": "3m", "env.num_envs": BATTLES, "env.options": {"rounds": "compiled"}, "net.hidden": 16,
            "kernel": "torch", "device": "cpu"}  # fmt: skip
    return override(preset("dense"), {**base, **settings})


def envs(seeds, rounds: str = "compiled") -> list[SmaxEnv]:
    return [SmaxEnv("3m", BATTLES, seed, CPU, rounds=rounds) for seed in seeds]


def networks(settings: Config, seeds: int = PLACES) -> AgentNets:
    """Random networks of several seeds side by side, of values that are far apart."""
    torch.manual_seed(3)
    nets = [agent_nets(settings, envs([0])[0].spec) for _ in range(seeds)]
    wholes = {
        name: lay_out([dict(net.named_parameters())[name] for net in nets]) for name, _ in nets[0].named_parameters()
    }
    with torch.no_grad():
        for whole in wholes.values():
            whole.mul_(3.0)
    return joined(nets, wholes)


class Following:
    """Epsilon-greedy decisions in torch on given random numbers [K,T,E,N,1+A]."""

    def __init__(self, nets: AgentNets, settings: Config, spec, epsilons: list[float], noise: Tensor) -> None:
        self.nets, self.settings, self.spec = nets, settings, spec
        self.noise, self.epsilons = noise, torch.tensor(epsilons).view(-1, 1, 1)

    @torch.no_grad()
    def __call__(self, t, observation, playing) -> Tensor:
        if t == 0:
            self.hidden = self.nets.initial_hidden(*observation.obs.shape[:2])
            self.last = torch.full(observation.obs.shape[:2], -1)
        if t == LIMIT:  # a decision for nobody
            return self.last
        x = agent_inputs(self.settings, self.spec, observation.obs, self.last)
        q, self.hidden = self.nets.step(x, self.hidden)
        avail, numbers = observation.avail_actions, self.noise[:, t]
        greedy = q.masked_fill(~avail, -torch.inf).argmax(-1)
        explored = numbers[..., 1:].flatten(0, 1).masked_fill(~avail, -1.0).argmax(-1)
        self.last = torch.where((numbers[..., 0] < self.epsilons).flatten(0, 1), explored, greedy)
        return self.last


def streams(seeds) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 + seed) for seed in seeds]


def exploring(epsilons, generators) -> list[Exploration]:
    return [Exploration(epsilon, generator) for epsilon, generator in zip(epsilons, generators, strict=True)]


def assert_same(played: list[Rollout], expected: list[Rollout], tolerance: float = 0.0) -> None:
    assert len(played) == len(expected)
    for own, other in zip(played, expected, strict=True):
        state, wanted = own.state_dict(), other.state_dict()
        assert state.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert state[name].dtype == tensor.dtype, name
            torch.testing.assert_close(
                state[name], tensor, rtol=0, atol=tolerance * tensor.is_floating_point(), msg=name
            )


def stepwise(settings: Config, battles, nets: AgentNets, epsilons, noise: Tensor) -> list[Rollout]:
    env = together(battles, PLACES)
    return rollouts(env, Following(nets, settings, env.spec, epsilons, noise), len(battles))


@pytest.fixture(scope="module")
def own() -> tuple[Config, AgentNets]:
    """Each agent its own network."""
    settings = config()
    return settings, networks(settings)


def test_greedy_rounds_are_those_of_rollouts_to_the_bit(own):
    settings, nets = own
    compiled, stepped = envs(range(PLACES)), envs(range(PLACES), "stepped")
    rounds, expected = Rounds(compiled, PLACES, settings), Rounds(stepped, PLACES, settings)
    lengths = []
    for _ in range(3):
        played = rounds.play(nets)
        assert_same(played, expected.play(nets))
        assert rounds.acting == 0.0 < expected.acting
        lengths += [own.episodes.lengths.tolist() for own in played]
    assert any(len(set(of_seed)) > 1 for of_seed in lengths), "battles of a seed end at different times"
    assert len({max(of_seed) for of_seed in lengths[:PLACES]}) > 1, "and so do seeds"
    assert [env.state_dict() for env in compiled] == [env.state_dict() for env in stepped]
    # An environment goes on step by step where its program left off.
    assert torch.equal(compiled[0].reset().obs, stepped[0].reset().obs)


def test_scaled_observations_are_folded_into_the_programs_weights(own):
    """With statistics of their own for every seed: episodes as recorded are those of the simulator, played alike."""
    settings, nets = own
    draw = torch.Generator().manual_seed(0)
    spec = envs([0])[0].spec
    mean, scale = torch.rand(2, PLACES, spec.n_agents, spec.obs_dim, generator=draw).unbind()
    seen_as = Scaling(mean, 0.5 + scale, *torch.ones(2, PLACES, spec.state_dim).unbind())
    rounds, expected = (
        Rounds(envs(range(PLACES)), PLACES, settings),
        Rounds(envs(range(PLACES), "stepped"), PLACES, settings),
    )
    played = list(rounds.play(nets, scaling=seen_as))
    assert_same(played, list(expected.play(nets, scaling=seen_as)), 1e-4)
    plain = Rounds(envs(range(PLACES)), PLACES, settings).play(nets)
    assert any(not torch.equal(a.episodes.actions, b.episodes.actions) for a, b in zip(played, plain, strict=True))


def test_exploring_rounds_draw_each_seeds_own_stream_once(own):
    settings, nets = own
    epsilons, generators, copies = [0.3, 0.0, 1.0], streams(range(PLACES)), streams(range(PLACES))
    compiled, stepped = envs(range(PLACES)), envs(range(PLACES), "stepped")
    rounds = Rounds(compiled, PLACES, settings)
    for _ in range(2):
        shape = (LIMIT, BATTLES, 3, 9)
        numbers = [
            torch.rand(shape, generator=copy) if epsilon else torch.zeros(shape)
            for epsilon, copy in zip(epsilons, copies, strict=True)
        ]
        played = rounds.play(nets, exploring(epsilons, generators))
        assert_same(played, stepwise(settings, stepped, nets, epsilons, torch.stack(numbers)))
    assert all(torch.equal(a.get_state(), b.get_state()) for a, b in zip(generators, copies, strict=True))
    assert len(played[2].episodes.actions.unique()) == 8, "every action is explored"


def test_a_seed_plays_what_it_plays_without_the_others_by_one_program(own):
    settings, nets = own
    program = smax_round.program(smax_round.Shape("3m", BATTLES, 10.0, False, False, PLACES, True, False))
    everyone = Rounds(envs(range(PLACES)), PLACES, settings).play(nets, exploring([0.5] * 3, streams(range(PLACES))))
    for seeds in ([0, 2], [1]):
        fewer = Rounds(envs(seeds), PLACES, settings)
        assert_same(
            fewer.play(chosen(nets, seeds), exploring([0.5] * len(seeds), streams(seeds))),
            [everyone[seed] for seed in seeds],
        )
    assert program._cache_size() == 1


def test_shared_networks_and_battles_of_all_seeds_in_lanes_as_on_an_accelerator(monkeypatch):
    """XLA rounds otherwise in programs of another width."""
    settings, seeds = config(**{"net.shared": True}), 2
    nets, epsilons = networks(settings, seeds), [0.2, 0.6]
    stepped, numbers = (
        envs(range(seeds), "stepped"),
        [torch.rand(LIMIT, BATTLES, 3, 9, generator=own) for own in streams(range(seeds))],
    )
    expected = stepwise(settings, stepped, nets, epsilons, torch.stack(numbers))
    monkeypatch.setattr(SmaxEnv, "_in_lanes", True)
    compiled = envs(range(seeds), "auto")
    assert nets.groups == seeds and compiled[0].compiled_rounds
    played = Rounds(compiled, seeds, settings).play(nets, exploring(epsilons, streams(range(seeds))))
    assert_same(played, expected, tolerance=1e-4)
    assert [env.state_dict() for env in compiled] == [env.state_dict() for env in stepped]


@pytest.mark.parametrize("shared", [False, True])
def test_decisions_are_those_of_the_agents(shared):
    settings, (seeds, e, n) = config(**{"net.shared": shared}), (2, 5, 3)
    nets = networks(settings, seeds)
    weights = {name: value.detach().flatten().numpy() for name, value in nets.named_parameters()}
    x, hidden = torch.randn(seeds * e, n, nets.inputs), nets.initial_hidden(seeds * e, n)
    found = hidden.numpy().reshape(seeds, -1, *hidden.shape[1:])
    for _ in range(4):
        with torch.no_grad():
            q, hidden = nets.step(x, hidden)
        decided, found = smax_round.decide(weights, x.view(seeds, e, n, -1).numpy(), found)
        for got, wanted in ((decided, q), (found, hidden)):
            torch.testing.assert_close(torch.from_dlpack(got).reshape(wanted.shape), wanted, rtol=1e-5, atol=1e-5)


@pytest.fixture
def trained(tmp_path):
    settings = config(**{
        "train.total_steps": 400, "train.epsilon_steps": 300, "train.eval_interval": 150, "train.eval_episodes": 4,
        "replay.capacity": 40, "replay.batch": 6, "replay.recent_batch": 2, "mixer.embed": 8,
        "mixer.hypernet_hidden": 16, "train.save_minutes": 1e6,
    })  # fmt: skip
    for seed in range(PLACES):
        (tmp_path / str(seed)).mkdir()
    return [Run(replace(settings, seed=seed), tmp_path / str(seed)) for seed in range(PLACES)], settings, tmp_path


def test_training_resumes_exactly(trained, monkeypatch):
    runs, settings, folder = trained
    monkeypatch.setattr("mast_train.experience.rounds.rollouts", None)  # nothing is played step by step
    whole = [Run(replace(settings, seed=seed)) for seed in range(PLACES)]
    list(Loop(whole).events())
    for run, event in Loop(runs).events():
        run.stop_requested = run.stop_requested or run.step >= 150
        assert not isinstance(event, Saved) or event.reason == "interrupted"
    resumed = [Run.resume(folder / str(seed)) for seed in range(PLACES)]
    assert all(0 < run.step < 400 for run in resumed)
    list(Loop(resumed).events())
    for one, other in zip(whole, resumed, strict=True):
        state = other.learner.state_dict()
        assert one.step == other.step and one.learner.updates == other.learner.updates > 10
        assert all(torch.equal(tensor, state[name]) for name, tensor in one.learner.state_dict().items())
        assert torch.equal(one.exploration.get_state(), other.exploration.get_state())
        assert one.env.state_dict() == other.env.state_dict()
        assert one.eval_env.state_dict() == other.eval_env.state_dict()


def test_networks_in_c_act_step_by_step(own):
    settings, nets = own

    class InC:
        initial_hidden, step = nets.initial_hidden, nets.step

    rounds = Rounds(envs(range(PLACES)), PLACES, settings)
    assert_same(rounds.play(InC()), Rounds(envs(range(PLACES)), PLACES, settings).play(nets))
    assert rounds.acting > 0.0


def test_more_battles_than_memory_holds_are_refused_in_one_line(own, monkeypatch):
    settings, nets = own
    rounds = Rounds(envs(range(PLACES)), PLACES, settings)

    def full(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 99 bytes.")

    monkeypatch.setattr(rounds._program, "_program", full)
    with pytest.raises(UserError, match=r"6 episodes at once of up to 101 steps of 3m need .* lower env\.num_envs"):
        rounds.play(nets)


def test_arguments_begin_where_a_gpus_programs_accept_them():
    whole = torch.arange(64.0)
    assert aligned(whole[4:]).data_ptr() == whole[4:].data_ptr(), "nothing is copied without need"
    for given in (whole[1:], whole[3:50], whole.view(8, 8).T, whole.view(8, 8)[:, 1:5]):
        found = aligned(given)
        assert found.data_ptr() % 16 == 0 and found.is_contiguous() and torch.equal(found, given)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_on_a_gpu_rounds_are_those_of_rollouts():
    """In a process of its own: JAX here was told to keep off GPUs."""
    code = """
import sys
import torch
sys.path.insert(0, sys.argv[1])
import test_rounds as here
here.CPU = torch.device("cuda")
settings, places = here.config(**{"device": "cuda", "env.options": {}}), 2
nets = here.networks(settings, places).to("cuda")
compiled, stepped = here.envs(range(places), "auto"), here.envs(range(places), "stepped")
rounds, expected = (here.Rounds(battles, places, settings) for battles in (compiled, stepped))
assert rounds._program is not None and expected._program is None
for _ in range(2):
    for own, other in zip(rounds.play(nets), expected.play(nets), strict=True):
        for name in ("obs", "state", "avail_actions", "actions"):
            got, wanted = getattr(own.episodes, name)[:, :4], getattr(other.episodes, name)[:, :4]
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4 * wanted.is_floating_point(), msg=name)
        assert own.steps > 8 and own.won.is_cuda
    assert [env.state_dict() for env in compiled] == [env.state_dict() for env in stepped]
"""
    folder = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, cwd=folder + "/..")
    assert done.returncode == 0, done.stderr


def test_the_way_of_playing_is_a_choice():
    assert [envs([0], way)[0].compiled_rounds for way in ("auto", "compiled", "stepped")] == [False, True, False]
    with pytest.raises(UserError, match=r"unknown env\.options\.rounds 'compield': did you mean 'compiled'"):
        envs([0], "compield")
