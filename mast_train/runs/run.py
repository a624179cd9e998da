"""One run: its state, what its evaluations say, and its checkpoints. runs/loop.py trains it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mast_train.envs import ENVS, make_env
from mast_train.envs.base import VecEnv
from mast_train.experience.episodes import EpisodeBatch
from mast_train.experience.replay import EpisodeBuffer
from mast_train.experience.rollout import Policy, Rollout, rollout
from mast_train.learning.flops import Passes, Schedule, TrainingComparison, compare
from mast_train.learning.learner import Learner, part, scaling, stream_seed
from mast_train.networks.build import agent_inputs, previous, tiny_widths
from mast_train.runs import checkpoint
from mast_train.runs.events import Clock, Evaluation, Progress, Saved
from mast_train.runs.files import Files
from mast_train.runs.seen import Seen
from mast_train.runs.tickets import ticket, warm_start
from mast_train.settings.config import Config, EnvConfig, ReplayConfig
from mast_train.settings.errors import UserError


def resolve_device(name: str) -> torch.device:
    """auto: cuda when there is one. Raises UserError when cuda is asked for and absent."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda': this torch sees no CUDA GPU; use --device cpu, or see `mast doctor`")
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu"))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """torch on so many threads, and afterwards on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def build_env(config: EnvConfig, seed: int, device: torch.device) -> VecEnv:
    """The configured environment, with those of its settings that it knows. Raises UserError."""
    known = ENVS[config.name].options if config.name in ENVS else ()
    fields = {name: getattr(config, name) for name in known if hasattr(config, name)}
    for name in fields.keys() & config.options.keys():
        raise UserError(f"env.options.{name}: a setting of its own, env.{name}; set that one")
    return make_env(config.name, config.map, config.num_envs, seed, device, {**fields, **config.options})


def play(env: VecEnv, policy: Policy, episodes: int) -> list[Rollout]:
    """Whole rounds of one episode per environment until at least `episodes` were played."""
    return [rollout(env, policy) for _ in range(-(-episodes // env.num_envs))]


def summarise(rounds: list[Rollout], step: int, episodes: int) -> Evaluation:
    """The first `episodes` of the rounds of `play` as one evaluation; the surplus of the last round is dropped.

    An episode that does not say whether it was won was not; where none says, nothing is known of wins.
    """
    won, says = (torch.cat(column)[:episodes] for column in zip(*(r.verdicts() for r in rounds), strict=True))
    wins = int(won.sum()) if says.any() else None
    returns = torch.cat([r.returns for r in rounds])[:episodes]
    lengths = torch.cat([r.episodes.lengths for r in rounds])[:episodes]
    return Evaluation(step, returns.numel(), wins, float(returns.mean()), float(lengths.float().mean()))


def _envs(config: Config, device: torch.device) -> Iterator[VecEnv]:
    """A run's environments: one to train in, and one to evaluate in, no wider than an evaluation needs."""
    env = build_env(config.env, config.seed, device)
    yield env
    if ENVS[config.env.name].costly:
        yield env
    else:
        narrow = replace(config.env, num_envs=min(config.env.num_envs, config.train.eval_episodes))
        yield build_env(narrow, stream_seed(config.seed, "evaluation"), device)


def _replay(config: Config) -> ReplayConfig:
    """The replay's settings; agents without a memory need no burn-in but for the action before the first."""
    net, replay = config.net, config.replay
    return replay if net.recurrent else replace(replay, burn_in=min(replay.burn_in, int(net.last_action)))


class Run:
    """Environments, replay, learner, and every random stream."""

    def __init__(self, config: Config, folder: Path | None = None, resumed: bool = False) -> None:
        """resumed: a checkpoint will follow, so nothing is taken over from another run. Raises UserError."""
        start, warm = None, bool(config.train.weights_from) and not resumed
        if config.sparse.masks_from and not (resumed or warm):
            config, start = ticket(config)
        self.device = resolve_device(config.device)
        with ExitStack() as opened:
            self.env, self.eval_env = (opened.enter_context(closing(env)) for env in _envs(config, self.device))
            self.spec = self.env.spec
            self.config = tiny_widths(config, self.spec) if config.sparse.tiny_of > 0.0 else config
            try:
                start = warm_start(self.config, self.spec) if warm else start
                self.learner = Learner(self.config, self.spec, self.device, start)
            except ValueError as error:
                ticketed = start is not None and not warm
                source = f"sparse.masks_from = {config.sparse.masks_from!r} does not fit: " if ticketed else ""
                raise UserError(f"{source}{error}") from error
            self.replay = EpisodeBuffer(_replay(self.config), self.spec, self.device)
            opened.pop_all()
        self.folder = folder
        self.files: Files | None = None
        """What writes snapshots in the background; None: they are there when an evaluation is over."""
        self.exploration = torch.Generator(self.device).manual_seed(stream_seed(config.seed, "exploration"))
        self.sampling = torch.Generator().manual_seed(stream_seed(config.seed, "sampling"))
        self.step = 0
        self.stop_requested = False
        self.clock = Clock()
        self.seen = Seen(self.spec, self.device)
        self.ahead: Rollout | None = None
        self.next_eval = 0  # the step from which the next evaluation is due
        self.inputs = partial(agent_inputs, self.config, self.spec)
        self.last_eval: Evaluation | None = None

    @property
    def noise(self) -> float:
        """Standard deviation of the noise on actions, where they are continuous."""
        return self.config.train.noise if self.spec.box is not None else 0.0

    @property
    def epsilon(self) -> float:
        """Linear from epsilon_start to epsilon_end over epsilon_steps."""
        c = self.config.train
        share = min(1.0, self.step / c.epsilon_steps)
        return c.epsilon_start + share * (c.epsilon_end - c.epsilon_start)

    def training_flops(self) -> TrainingComparison:
        """FLOPs per training sample beside a dense run of the same shape, at the episode length last evaluated."""
        c, length = self.config, self.last_eval.length_mean if self.last_eval else float(self.spec.episode_limit)
        samples = c.replay.batch * length
        interval = c.sparse.update_interval if c.sparse.grow != "none" else None
        ratio = max(1.0, samples * self.learner.updates / max(1, self.step))
        schedule = Schedule(round(samples), ratio, c.train.target_interval, interval)
        return compare(self.passes, self.learner.counts(), schedule)

    @property
    def passes(self) -> Passes:
        """Of the algorithm in this environment."""
        return self.learner.algorithm.passes(self.spec.n_agents, self.spec.n_actions)

    def close(self) -> None:
        """Release the environments (real games are processes)."""
        self.env.close()
        self.eval_env.close()

    @property
    def finished(self) -> bool:
        """Whether all steps were taken."""
        return self.step >= self.config.train.total_steps

    def progress(self, metrics: dict[str, float]) -> Progress:
        """Where the run is, after a round with these means."""
        return Progress(self.step, self.learner.updates, self.epsilon, metrics, self.clock.as_dict())

    def adapt_replay(self) -> None:
        """After an update: RLx2's dynamic capacity, where it is on and due."""
        c = self.config.replay
        if c.dynamic_capacity and self.learner.updates % c.dynamic_interval == 0:
            self._shrink_replay()

    @torch.no_grad()
    def _shrink_replay(self) -> None:
        """RLx2's dynamic capacity, adapted to episodes (docs/methods.md): when the current greedy policy disagrees with
        more than `dynamic_threshold` of the actions in the oldest batch, that batch is forgotten."""
        replay = self.replay
        oldest = replay.gather(replay.size - 1 - torch.arange(min(replay.size, replay.batch_episodes)))
        disagreement = policy_disagreement(self.learner, oldest)
        if disagreement > self.config.replay.dynamic_threshold:
            replay.drop_oldest(replay.batch_episodes)

    def where(self) -> dict[str, Any]:
        """Where the run is, as headers say it. Of a device it waits for no more than its environments' state."""
        return {
            "step": self.step,
            "next_eval": self.next_eval,
            "seconds": self.clock.as_dict(),
            "env_state": self.env.state_dict(),
        }

    def header(self, where: dict[str, Any], learner: Learner) -> dict[str, Any]:
        """Of a file of this run, about where it was and what it had learnt."""
        evaluation = self.last_eval
        return where | {
            "sparsity": learner.sparsity(),
            "normalised": learner.statistics.summary() if learner.statistics else None,
            "eval_env_state": self.eval_env.state_dict(),
            "evaluation": None if evaluation is None else asdict(evaluation),
        }

    def save(self, reason: str) -> Saved:
        """The episodes under a name of their own first, then the checkpoint that names them, then the old ones go: a
        failure at any point leaves a pair that resumes. A finished run keeps its networks, not its episodes."""
        assert self.folder is not None
        if self.files:
            self.files.wait()
        path, replay_path = self.folder / "checkpoint.safetensors", self.folder / f"replay-{self.step}.safetensors"
        tensors = {f"learner.{name}": tensor for name, tensor in self.learner.state_dict().items()}
        tensors |= {"exploration": self.exploration.get_state(), "sampling": self.sampling.get_state()}
        tensors |= {f"seen.{name}": tensor for name, tensor in self.seen.state_dict().items()}
        meta = self.header(self.where(), self.learner)
        if reason != "finished":
            episodes = self.replay.state_dict()
            if self.ahead is not None:
                episodes |= {f"ahead.{name}": tensor for name, tensor in self.ahead.state_dict().items()}
            checkpoint.write(replay_path, episodes, self.config, self.spec, {"step": self.step})
        checkpoint.write(path, tensors, self.config, self.spec, meta)
        for old in self.folder.glob("replay-*.safetensors"):
            if old != replay_path or reason == "finished":
                old.unlink()
        return Saved(self.step, path, reason)

    @classmethod
    def resume(cls, folder: Path) -> Run:
        """Continue the run in `folder` exactly where its checkpoint was written. Raises UserError."""
        tensors, header = checkpoint.read(folder / "checkpoint.safetensors")
        config = checkpoint.config_of(header)
        if header["step"] >= config.train.total_steps:
            raise UserError(f"{folder}: this run has finished its {config.train.total_steps} steps; start a new one")
        episodes, _ = checkpoint.read(folder / f"replay-{header['step']}.safetensors")
        run = cls(config, folder, resumed=True)
        ahead = part(episodes, "ahead.")
        try:
            run.learner.load_state_dict(part(tensors, "learner."))
            run.seen.load_state_dict(part(tensors, "seen."))
            run.replay.load_state_dict(episodes)
            run.ahead = Rollout.from_state_dict(ahead, run.env.device) if ahead else None
            run._load_streams(tensors, header)
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            run.close()
            raise UserError(f"{folder}: the checkpoint does not fit its configuration: {error}") from error
        return run

    def _load_streams(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        """The random streams and where the run is, as `save` wrote them. Raises ValueError, KeyError, TypeError."""
        if tensors["exploration"].shape != self.exploration.get_state().shape:
            raise ValueError(f"it was saved on another kind of device than {self.device}; set --device as it was then")
        self.exploration.set_state(tensors["exploration"])
        self.sampling.set_state(tensors["sampling"])
        self.env.load_state_dict(header["env_state"])
        if self.eval_env is not self.env:
            self.eval_env.load_state_dict(header["eval_env_state"])
        self.step, self.next_eval = header["step"], header["next_eval"]
        self.clock = Clock(**header["seconds"])
        self.last_eval = Evaluation(**header["evaluation"]) if header["evaluation"] else None


@torch.no_grad()
def policy_disagreement(learner: Learner, batch: EpisodeBatch) -> float:
    """Share of recorded actions that the greedy policy would not take now, where there was a choice; of continuous ones
    the mean distance between the two in every component, as a share of its range."""
    seen_as = scaling([learner])
    obs = batch.obs if seen_as is None else seen_as.observed(batch.obs)
    x = agent_inputs(learner.config, learner.spec, obs, previous(learner.spec, batch.actions)).transpose(0, 1)
    decided, _ = learner.algorithm.decides(learner.spec, learner.networks, x, batch.avail_actions.transpose(0, 1))
    greedy = decided.transpose(0, 1)[:, :-1]
    if learner.spec.box is not None:
        has = batch.avail_actions[:, :-1] & batch.filled[..., None, None]
        return float(0.5 * ((greedy - batch.actions).abs() * has).sum() / has.sum().clamp(min=1))
    choice = (batch.avail_actions[:, :-1].sum(-1) > 1) & batch.filled.unsqueeze(-1)
    return float(((greedy != batch.actions) & choice).sum() / choice.sum().clamp(min=1))
