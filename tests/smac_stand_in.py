"""A stand-in with the API of smac.env.StarCraft2Env on map 3m, for tests. Numpy only: worker processes import it."""

import os

import numpy as np

N_AGENTS, N_ACTIONS, OBS_DIM, STATE_DIM, LIMIT = 3, 9, 4, 5, 6
STOP, ATTACK = 1, 6


class StandIn:
    """A battle that is won after 2 + seed % 3 steps; `options["script"]` makes it end otherwise.

    Scripts: win, limit (never ends by itself), crash (the game restarts), raise, exit (the process dies), mute
    (no action is available once the episode has ended).
    """

    def __init__(self, map_name, seed, options):
        assert map_name == "3m"
        self.script = options.get("script", "win")
        self.length = 2 + seed % 3
        self.seed, self.steps, self.ended, self.log = seed, 0, False, []

    def get_env_info(self):
        return {
            "state_shape": STATE_DIM,
            "obs_shape": OBS_DIM,
            "n_actions": N_ACTIONS,
            "n_agents": N_AGENTS,
            "episode_limit": LIMIT,
        }

    def reset(self):
        self.log.append("reset")
        self.steps, self.ended = 0, False
        return self.get_obs(), self.get_state()

    def step(self, actions):
        for row, action in zip(self.get_avail_actions(), actions, strict=True):
            assert row[action] == 1, f"Agent cannot perform action {action}"
        self.steps += 1
        if self.script == "raise" and self.steps == 2:
            raise ConnectionError("the game\nwent away")
        if self.script == "exit" and self.steps == 2:
            os._exit(3)
        if self.script == "crash" and self.steps == 2:
            self.steps = -100
            return 0, True, {}
        if self.script != "limit" and self.steps >= self.length:
            self.ended = True
            return 12.5, True, {"battle_won": True}
        if self.steps >= LIMIT:
            return 0.5, True, {"battle_won": False, "episode_limit": True}
        return 0.5, False, {"battle_won": False}

    def get_obs(self):
        return [np.full(OBS_DIM, self.steps + agent / 10, dtype=np.float32) for agent in range(N_AGENTS)]

    def get_state(self):
        return np.full(STATE_DIM, self.steps, dtype=np.float32)

    def get_avail_actions(self):
        if self.ended and self.script == "mute":
            return [[0] * N_ACTIONS] * N_AGENTS
        return [[0, 1, 1, 1, 1, 1, 0, 0, int(self.steps > 0)]] * N_AGENTS

    def save_replay(self):
        self.log.append("save_replay")

    def close(self):
        self.log.append("close")
