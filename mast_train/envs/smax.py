"""SMAX: the SMAC maps by name, simulated in JAX against JaxMARL's built-in heuristic enemy.

Source: Rutherford et al., JaxMARL: Multi-Agent RL Environments and Algorithms in JAX, NeurIPS 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from mast_train.envs import smax_jax, smax_scene
from mast_train.envs.base import EnvSpec, Observation, Transition, check_actions
from mast_train.scene import Scene


class SmaxEnv:
    """E battles on one SMAX map. Observations are JaxMARL's "unit_list"; the state is its world state, normalised.

    The reward is JaxMARL's (the mean fraction of enemy health lost, and 1 for a win) times `reward_scale`: with the
    default of 10 a won episode returns about 20, as in SMAC.
    """

    def __init__(
        self, map_name: str, num_envs: int, seed: int, device: torch.device, reward_scale: float = 10.0
    ) -> None:
        """Raises UserError for an unknown map or a missing JaxMARL. Compiling waits for the first reset and step."""
        self.num_envs, self.device, self._reward_scale = num_envs, device, reward_scale
        self._jax_device = smax_jax.find_device(device.type, device.index or 0)
        self.spec = _spec(map_name)
        self._programs = smax_jax.programs(map_name, num_envs, reward_scale)
        self._carry: smax_jax.Carry | None = None
        self._put_key([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF])

    @staticmethod
    def maps() -> tuple[str, ...]:
        """Every map the installed JaxMARL knows."""
        return tuple(smax_jax.import_jaxmarl().smax_env.MAP_NAME_TO_SCENARIO)

    def reset(self) -> Observation:
        """Start E fresh battles. The first call compiles."""
        self.begin()
        return self.seen().next

    def begin(self) -> None:
        """Start them without looking."""
        self._key, self._carry = self._programs.reset(self._key)

    def step(self, actions: torch.Tensor) -> Transition:
        """actions [E,N] int64, each available. Raises ValueError for a wrong shape. The first call compiles."""
        check_actions(actions, self.num_envs, self.spec.n_agents)
        if self._carry is None:
            raise ValueError("step was called before reset")
        self._carry = self._programs.step(self._carry, self._to_jax(actions))
        return self.seen()

    def state_dict(self) -> dict[str, Any]:
        """The key from which the next reset draws whole episodes, as two integers."""
        return {"key": np.asarray(self._key).tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._put_key(state["key"])

    def picture(self) -> Scene | None:
        """The first battle; None before the first reset."""
        if self._carry is None:
            return None
        units = self._carry.simulator.state
        return smax_scene.scene(
            smax_jax.simulator(self.spec.map),
            *(
                np.asarray(x[0])
                for x in (
                    units.unit_positions,
                    units.unit_alive,
                    units.unit_health,
                    units.unit_types,
                    units.prev_attack_actions,
                )
            ),
        )

    def close(self) -> None:
        """Nothing to release."""

    def _put_key(self, key: list[int]) -> None:
        import jax

        self._key = jax.device_put(np.array(key, dtype=np.uint32), self._jax_device)

    def _to_jax(self, actions: torch.Tensor) -> Any:
        if self._jax_device.platform == "cpu":
            return actions.cpu().numpy()
        import jax

        return jax.dlpack.from_dlpack(actions.to(torch.int32).contiguous())

    def seen(self) -> Transition:
        """What the last call of `begin` or `step` led to."""
        assert self._carry is not None
        view = self._carry.view
        # DLPack shares memory that JAX may still be writing; one program writes all of it.
        view.obs.block_until_ready()
        shown = smax_jax.View(*(torch.from_dlpack(array).to(self.device) for array in view))
        return Transition(
            Observation(shown.obs, shown.state, shown.avail_actions),
            shown.reward,
            shown.terminated,
            shown.truncated,
            shown.won,
        )


class SmaxTogether:
    """The battles of several SmaxEnv alike in one compiled step, each begun from the keys of its own.

    places: for how many of them the step is compiled; fewer leave the last places to copies that nobody looks at.
    """

    def __init__(self, envs: Sequence[SmaxEnv], places: int) -> None:
        first, self._envs = envs[0], list(envs)
        self.spec, self.device, self.num_envs = first.spec, first.device, len(envs) * first.num_envs
        self._placed = [*envs, *[first] * (places - len(envs))]
        size = places * first.num_envs
        self._all = SmaxEnv(first.spec.map, size, 0, first.device, first._reward_scale)

    def reset(self) -> Observation:
        """Start fresh battles everywhere. The first call compiles."""
        for env in self._envs:
            env.begin()
        self._all._carry = self._all._programs.join(*[env._carry for env in self._placed])
        return self._shown(self._all.seen()).next

    def step(self, actions: torch.Tensor) -> Transition:
        """actions [E,N] int64 of all, each available. Raises ValueError for a wrong shape. The first call compiles."""
        check_actions(actions, self.num_envs, self.spec.n_agents)
        missing = actions.new_zeros(self._all.num_envs - self.num_envs, self.spec.n_agents)
        return self._shown(self._all.step(torch.cat([actions, missing])))

    def _shown(self, seen: Transition) -> Transition:
        n, after = self.num_envs, seen.next
        observation = Observation(after.obs[:n], after.state[:n], after.avail_actions[:n])
        won = None if seen.won is None else seen.won[:n]
        return Transition(observation, seen.reward[:n], seen.terminated[:n], seen.truncated[:n], won)


def _spec(map_name: str) -> EnvSpec:
    simulator = smax_jax.simulator(map_name)
    if simulator.smacv2_unit_type_generation:
        agent_types = ("random",) * simulator.num_allies
    else:
        unit_types = np.asarray(simulator.scenario)[: simulator.num_allies]
        agent_types = tuple(simulator.unit_type_names[kind] for kind in unit_types)
    return EnvSpec(
        env="smax",
        map=map_name,
        n_agents=simulator.num_allies,
        obs_dim=simulator.obs_size,
        state_dim=simulator.state_size,
        n_actions=simulator.num_ally_actions,
        # The simulator compares its step counter with max_steps before it increments it.
        episode_limit=simulator.max_steps + 1,
        agent_types=agent_types,
        version=f"jaxmarl {version('jaxmarl')}",
    )
