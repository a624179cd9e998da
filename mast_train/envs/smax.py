"""SMAX: the SMAC maps by name, simulated in JAX against JaxMARL's built-in heuristic enemy.

Source: Rutherford et al., JaxMARL: Multi-Agent RL Environments and Algorithms in JAX, NeurIPS 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from mast_train.envs import smax_jax, smax_round, smax_scene
from mast_train.envs.base import EnvSpec, Observation, Transition, check_actions
from mast_train.envs.scene import Scene
from mast_train.settings.errors import check_choice

ROUNDS = ("auto", "compiled", "stepped")
"""How rounds are played: as one compiled program, or step by step; auto: compiled on a GPU."""


class SmaxEnv:
    """E battles on one SMAX map. Observations are JaxMARL's "unit_list"; the state is its world state, normalised.

    The reward is JaxMARL's (the mean fraction of enemy health lost, and 1 for a win) times `reward_scale`: with the
    default of 10 a won episode returns about 20, as in SMAC.
    """

    def __init__(
        self,
        map_name: str,
        num_envs: int,
        seed: int,
        device: torch.device,
        reward_scale: float = 10.0,
        rounds: str = "auto",
    ) -> None:
        """rounds: see ROUNDS. Raises UserError for an unknown map or a missing JaxMARL. Compiling waits for the first
        reset and step."""
        check_choice("env.options.rounds", rounds, ROUNDS)
        self.num_envs, self.device, self._reward_scale = num_envs, device, reward_scale
        self._jax_device = smax_jax.find_device(device.type, device.index or 0, torch.get_num_threads())
        self.compiled_rounds = rounds == "compiled" or (rounds == "auto" and self._in_lanes)
        self.spec = _spec(map_name)
        self._graphs = smax_jax.in_graphs(self._jax_device)
        self._programs = smax_jax.programs(map_name, num_envs, reward_scale, self._graphs)
        self._carry: smax_jax.Carry | None = None
        self._key: Any = np.array([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF], dtype=np.uint32)

    @staticmethod
    def maps() -> tuple[str, ...]:
        """Every map the installed JaxMARL knows."""
        return tuple(smax_jax.import_jaxmarl().smax_env.MAP_NAME_TO_SCENARIO)

    def reset(self) -> Observation:
        """Start E fresh battles. The first call compiles."""
        self._carry = self.begin()
        return self._seen(self._carry).next

    def begin(self) -> smax_jax.Carry:
        """Draw E fresh battles, for somebody else to step."""
        self._key, carry = self._programs.reset(self.put(self._key))
        return carry

    def joint_programs(self) -> smax_jax.JointPrograms:
        """For these battles beside those of other seeds."""
        return smax_jax.joint_programs(self.spec.map, self.num_envs, self._reward_scale, self._in_lanes, self._graphs)

    def round_program(self, places: int, last_action: bool, agent_id: bool) -> Callable[..., smax_round.Recorded]:
        """Whole rounds of these battles beside those of other seeds: smax_round.program."""
        about = (self.spec.map, self.num_envs, self._reward_scale, self._in_lanes, self._graphs)
        return smax_round.program(smax_round.Shape(*about, places, last_action, agent_id))

    @property
    def _in_lanes(self) -> bool:
        return self._jax_device.platform != "cpu"

    def step(self, actions: torch.Tensor) -> Transition:
        """actions [E,N] int64, each available. Raises ValueError for a wrong shape. The first call compiles."""
        check_actions(actions, self.num_envs, self.spec.n_agents)
        if self._carry is None:
            raise ValueError("step was called before reset")
        self._carry = self._programs.step(self._carry, self.to_jax(actions))
        return self._seen(self._carry)

    def state_dict(self) -> dict[str, Any]:
        """The key from which the next reset draws whole episodes, as two integers."""
        return {"key": self.key.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.key = np.array(state["key"], dtype=np.uint32)

    @property
    def key(self) -> np.ndarray:
        """[2] uint32; reading it waits for battles that are being drawn."""
        return np.asarray(self._key)

    @key.setter
    def key(self, key: np.ndarray) -> None:
        self._key = key

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

    def put(self, array: Any) -> Any:
        """An array where the compiled programs run."""
        import jax

        return jax.device_put(array, self._jax_device)

    def to_jax(self, tensor: torch.Tensor) -> Any:
        """A tensor as the compiled programs take it, where they run: integers are int32 there."""
        if self._jax_device.platform == "cpu":
            return tensor.cpu().numpy()
        import jax

        tensor = tensor if tensor.is_floating_point() else tensor.to(torch.int32)
        return jax.dlpack.from_dlpack(aligned(tensor))

    def _seen(self, carry: smax_jax.Carry) -> Transition:
        return _transition(shared_with_torch(carry.view, self.device))


class SmaxTogether:
    """The battles of several SmaxEnv alike in one compiled step, each begun from the key of its own.

    places: for how many of them the step is compiled.
    """

    def __init__(self, envs: Sequence[SmaxEnv], places: int) -> None:
        first, self._envs, self._places = envs[0], list(envs), places
        self.spec, self.device, self.num_envs = first.spec, first.device, len(envs) * first.num_envs
        self._programs = first.joint_programs()
        self._carry: smax_jax.Carry | None = None

    def reset(self) -> Observation:
        """Start fresh battles everywhere. The first call compiles."""
        carries = [env.begin() for env in self._envs]
        spare = carries[:1] * (self._places - len(carries))
        self._carry = self._programs.join(len(carries), *carries, *spare)
        return self._seen(self._carry).next

    def step(self, actions: torch.Tensor) -> Transition:
        """actions [E,N] int64 of all, each available. Raises ValueError for a wrong shape. The first call compiles."""
        check_actions(actions, self.num_envs, self.spec.n_agents)
        if self._carry is None:
            raise ValueError("step was called before reset")
        each = self._envs[0].num_envs
        placed = torch.nn.functional.pad(actions, (0, 0, 0, self._places * each - self.num_envs))
        placed = placed.view(self._places, each, self.spec.n_agents)
        self._carry = self._programs.step(self._carry, self._envs[0].to_jax(placed))
        return self._seen(self._carry)

    def _seen(self, carry: smax_jax.Carry) -> Transition:
        shown = shared_with_torch(carry.view, self.device)
        return _transition(smax_jax.View(*(tensor.flatten(0, 1)[: self.num_envs] for tensor in shown)))


class SmaxRounds:
    """Whole rounds of several SmaxEnv alike as one program, each begun from the key of its own.

    places: for how many of them it is compiled. last_action, agent_id: see smax_round.Shape.
    """

    def __init__(self, envs: Sequence[SmaxEnv], places: int, last_action: bool, agent_id: bool) -> None:
        self._envs, self._places = list(envs), places
        self._program = envs[0].round_program(places, last_action, agent_id)
        self._lent: Any = None

    def play(
        self, weights: Mapping[str, torch.Tensor], epsilons: Sequence[float], noise: torch.Tensor
    ) -> tuple[smax_round.Recorded, list[int]]:
        """weights and noise [seeds,...] as smax_round.program takes them, of the seeds that are here, and so what was
        recorded is, as tensors; and the steps of each. The first call compiles. Waits for the device."""
        first, present = self._envs[0], len(self._envs)
        keys = first.put(np.stack([env.key for env in [*self._envs, *[first] * (self._places - present)]]))
        given = {name: first.to_jax(self._placed(value.detach())) for name, value in weights.items()}
        drawn, shares = first.to_jax(self._placed(noise)), np.zeros(self._places, np.float32)
        shares[:present] = epsilons
        recorded = self._program(keys, np.int32(present), given, shares, drawn)
        steps = np.asarray(recorded.steps)[:present].tolist()
        for env, key in zip(self._envs, np.asarray(recorded.keys), strict=False):
            env.key = key
        # Whoever drops a tensor lets JAX use its memory for the next round, before that waits for what torch had left
        # to do with it. Callers turn actions into int64 and drop these: they live until that round is over.
        self._lent = recorded.actions
        fields = {name: array for name, array in recorded._asdict().items() if name not in ("steps", "keys")}
        tensors = {name: torch.from_dlpack(array).to(first.device)[:present] for name, array in fields.items()}
        return recorded._replace(**tensors), steps

    def _placed(self, values: torch.Tensor) -> torch.Tensor:
        """Flat, with zeros for the seeds that are not here."""
        flat = values.flatten()
        more = len(flat) // len(self._envs) * (self._places - len(self._envs))
        return torch.nn.functional.pad(flat, (0, more)) if more else flat


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """Contiguous, and where XLA's programs for a GPU accept an argument: at a multiple of 16 bytes."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % 16 else tensor


def shared_with_torch(view: smax_jax.View, device: torch.device) -> smax_jax.View:
    """A view's arrays as tensors of the same memory, where JAX and torch are on one device.

    By DLPack's protocol the producer sees to it that the memory is written first: JAX holds back torch's stream on a
    GPU, and the caller on a CPU. JAX may use the memory again once the tensors are gone and it has taken new actions
    from torch's stream.
    """
    return smax_jax.View(*(torch.from_dlpack(array).to(device) for array in view))


def _transition(shown: smax_jax.View) -> Transition:
    return Transition(
        Observation(shown.obs, shown.state, shown.avail_actions),
        shown.reward,
        shown.terminated,
        shown.truncated,
        shown.won,
    )


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
        obs_names=(_obs_names(simulator),),
    )


def _obs_names(simulator: Any) -> tuple[str, ...]:
    """Of any ally: the other allies in order, the enemies, itself."""
    units = [f"ally {i}" for i in range(1, simulator.num_allies)] + [
        f"enemy {i + 1}" for i in range(simulator.num_enemies)
    ]
    others = [f"{unit} {feature}" for unit in units for feature in simulator.unit_features]
    names = [*others, *(f"own {feature}" for feature in simulator.own_features)]
    return tuple(name.replace("_", " ") for name in names)
