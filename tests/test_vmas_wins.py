"""Which VMAS scenarios can be won: the table is held against the installed VMAS by putting robots on their goals."""

from __future__ import annotations

from inspect import signature

import pytest
import torch

from mast_train.envs.vmas import VmasEnv, import_vmas
from mast_train.envs.vmas_wins import SOLVED
from mast_train.settings.errors import UserError

CPU = torch.device("cpu")
ENDING = {"discovery": {"targets_respawn": False}, "give_way": {"done_on_completion": True}}
"""Options without which these scenarios do not end."""


def env(name, options=None):
    made = VmasEnv(name, 2, 0, CPU, options=options)
    made.reset()
    return made


def solve(name, scenario, step):
    """Put what has to be somewhere there, as the scenario's own `done` asks for it."""
    agents = scenario.world.agents
    if name in ("navigation", "passage", "give_way"):
        for agent in agents:
            agent.set_pos(agent.goal.state.pos, None)
    if name == "dispersion":
        for agent, food in zip(agents, scenario.world.landmarks, strict=True):
            agent.set_pos(food.state.pos, None)
    if name == "discovery":
        target = scenario._targets[step % len(scenario._targets)].state.pos
        for agent, side in zip(agents, (-0.2, -0.1, 0.1, 0.2, 0.0), strict=True):
            agent.set_pos(target + torch.tensor([side, 0.15]), None)
    if "transport" in name:
        for package in getattr(scenario, "packages", None) or [scenario.package]:
            package.set_pos(package.goal.state.pos, None)
            package.set_vel(torch.zeros(2, 2), None)
    if name.startswith("joint_passage"):
        goal, half = scenario.goal.state, scenario.joint_length / 2
        along = half * torch.cat([goal.rot.cos(), goal.rot.sin()], 1)
        parts = [(agents[0], -along), (scenario.joint.landmark, 0 * along), (agents[1], along)]
        if scenario.asym_package:
            parts.append((scenario.mass, scenario.mass_position * along))
        for entity, offset in parts:
            entity.set_pos(goal.pos + offset, None)
            entity.set_rot(goal.rot, None)
            entity.set_vel(torch.zeros(2, 2), None)


def ends(made, name, steps):
    still = torch.zeros(made.num_envs, made.spec.n_agents, dtype=torch.int64)
    for step in range(steps):
        solve(name, made._env.scenario, step)
        last = made.step(still)
        if bool(last.terminated.all()):
            return last
    return None


@pytest.mark.parametrize("name", SOLVED)
def test_a_solved_scenario_ends_and_its_end_is_a_win(name):
    made = env(name, ENDING.get(name))
    last = ends(made, name, 12)
    assert last is not None and last.won is not None and bool(last.won.all())


@pytest.mark.parametrize("name", ENDING)
def test_without_the_option_that_ends_it_solving_changes_nothing_and_there_is_no_win_rate(name):
    made = env(name)
    assert ends(made, name, 20) is None and made._wins is False
    assert made.step(torch.zeros(2, made.spec.n_agents, dtype=torch.int64)).won is None


def test_a_target_that_needs_more_agents_than_there_are_cannot_be_won():
    assert env("discovery", {"targets_respawn": False, "agents_per_target": 5})._wins
    assert not env("discovery", {"targets_respawn": False, "agents_per_target": 6})._wins


def test_the_rest_has_no_win_rate():
    names = [name for name in VmasEnv.maps() if name not in SOLVED and name != "road_traffic"]
    assert {"multi_give_way", "balance", "football", "wheel"} <= set(names) and set(SOLVED) < set(VmasEnv.maps())
    for name in ("multi_give_way", "balance", "wheel"):
        assert env(name)._wins is False


def test_what_vmas_takes_itself_is_no_option_of_a_scenario():
    vmas = import_vmas()
    taken = set(signature(vmas.make_env).parameters) | set(signature(vmas.simulator.environment.Environment).parameters)
    taken -= {"kwargs", "continuous_actions"}  # the one that is ours to give
    assert {"max_steps", "terminated_truncated", "seed", "dict_spaces", "wrapper"} <= taken
    for name in taken:
        with pytest.raises(UserError, match=rf"^env\.options\.{name}: an argument of VMAS's simulator"):
            VmasEnv("navigation", 1, 0, CPU, options={name: 1})
    with pytest.raises(UserError, match=r"set env\.episode_limit"):
        VmasEnv("navigation", 1, 0, CPU, options={"max_steps": 100})


def test_a_reward_that_no_float32_holds_is_refused():
    made = VmasEnv("navigation", 1, 0, CPU, reward_scale=1e39)
    made.reset()
    with pytest.raises(UserError, match=r"a reward, times env\.reward_scale, is not finite"):
        made.step(torch.ones(1, 4, dtype=torch.int64))
