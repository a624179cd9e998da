"""Training FLOPs per sample, closed form: the paper's count, and everything counted. Plain numbers; no torch.

A sample is one joint transition: all N agents and the mixer, once. A, M are forward passes of the agents and the mixer,
UA, UM of WQMIX's unrestricted ones; a backward pass costs two forward passes (paper, section "FLOPs"). The recurrent
unroll gives the online network's next-state values from the same pass, so double Q adds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mast_runtime.measure.flops import AgentCounts, Counts, Matrix
from mast_train.learning.critic_flops import CriticCounts, PlainCounts

EXP = 20
"""One exponential or logarithm: range reduction, a polynomial of degree 7, scaling."""
TARGET_PER_ACTION = 2 * EXP + 6
"""Soft mellowmax: two exponentials, two products, two subtractions of the maximum and two sums per action."""
ADAM_PER_PARAMETER = 17
"""Clipping by the norm (3), two moments (7), their corrections, root, epsilon and division (5), step (2)."""


@dataclass(frozen=True)
class QmixCounts:
    """QMIX's mixer: hypernetworks on the state make w1 [N,E], b1 [E], w2 [E] and b2 (oxwhirl/pymarl, two-layer).

    q_tot = elu(q |w1| + b1) |w2| + b2. The products with made weights are no layer: only `counted_flops` has them.
    """

    w1_in: Matrix
    w1_out: Matrix
    w2_in: Matrix
    w2_out: Matrix
    b1: Matrix
    b2_in: Matrix
    b2_out: Matrix

    def matrices(self) -> tuple[Matrix, ...]:
        return self.w1_in, self.w1_out, self.w2_in, self.w2_out, self.b1, self.b2_in, self.b2_out

    @property
    def paper_flops(self) -> float:
        return sum(matrix.paper_flops for matrix in self.matrices())

    @property
    def counted_flops(self) -> float:
        """One joint action in one state."""
        return self.hypernetwork_flops + self.mixing_flops

    @property
    def hypernetwork_flops(self) -> float:
        """Once for a state: the hypernetworks with ReLU, |w1| and |w2|."""
        relu = self.w1_in.outputs + self.w2_in.outputs + self.b2_in.outputs
        absolute = self.w1_out.outputs + self.w2_out.outputs
        return sum(matrix.counted_flops for matrix in self.matrices()) + relu + absolute

    @property
    def mixing_flops(self) -> float:
        """For every joint action: q |w1| (2 N E), ELU (exponential and a sum), times |w2| (2 E)."""
        embed = self.b1.outputs
        return 2 * self.w1_out.outputs + embed * (EXP + 1) + 2 * embed

    @property
    def paper_parameters(self) -> int:
        return sum(matrix.nnz for matrix in self.matrices())

    @property
    def counted_parameters(self) -> int:
        return sum(matrix.nnz + matrix.outputs for matrix in self.matrices())

    def dense(self) -> QmixCounts:
        return QmixCounts(*(matrix.dense() for matrix in self.matrices()))

    def thinned(self, sparsity: float) -> QmixCounts:
        """Every matrix at `sparsity`."""
        return QmixCounts(*(matrix.thinned(sparsity) for matrix in self.matrices()))


@dataclass(frozen=True)
class CentralCounts:
    """WQMIX's unrestricted mixer: f1 to f4 on the agents' values and the state, plus v1, v2 on the state; ReLU."""

    f1: Matrix
    f2: Matrix
    f3: Matrix
    f4: Matrix
    v1: Matrix
    v2: Matrix

    def matrices(self) -> tuple[Matrix, ...]:
        return self.f1, self.f2, self.f3, self.f4, self.v1, self.v2

    @property
    def paper_flops(self) -> float:
        return sum(matrix.paper_flops for matrix in self.matrices())

    @property
    def counted_flops(self) -> float:
        relu = self.f1.outputs + self.f2.outputs + self.f3.outputs + self.v1.outputs
        return sum(matrix.counted_flops for matrix in self.matrices()) + relu + 1

    @property
    def paper_parameters(self) -> int:
        return sum(matrix.nnz for matrix in self.matrices())

    @property
    def counted_parameters(self) -> int:
        return sum(matrix.nnz + matrix.outputs for matrix in self.matrices())

    def dense(self) -> CentralCounts:
        return CentralCounts(*(matrix.dense() for matrix in self.matrices()))


def qmix_counts(state_dim: int, n_agents: int, embed: int = 32, hyper_hidden: int = 64) -> QmixCounts:
    """A dense QMIX mixer: w1 S -> hyper -> N E, w2 S -> hyper -> E, b1 S -> E, b2 S -> E -> 1."""
    return QmixCounts(
        Matrix.full(hyper_hidden, state_dim),
        Matrix.full(n_agents * embed, hyper_hidden),
        Matrix.full(hyper_hidden, state_dim),
        Matrix.full(embed, hyper_hidden),
        Matrix.full(embed, state_dim),
        Matrix.full(embed, state_dim),
        Matrix.full(1, embed),
    )


@dataclass(frozen=True)
class Model:
    """All that is trained. VDN and IQL have no mixer; WQMIX adds unrestricted (central) agents and their mixer, FACMAC
    critics. COMIX's agents are critics."""

    agents: Sequence[AgentCounts | PlainCounts | CriticCounts]
    mixer: Counts | None = None
    central_agents: Sequence[AgentCounts | PlainCounts | CriticCounts] = ()
    central_mixer: Counts | None = None
    critics: Sequence[AgentCounts | PlainCounts | CriticCounts] = ()
    twin_critics: Sequence[AgentCounts | PlainCounts | CriticCounts] = ()
    twin_mixer: Counts | None = None

    def groups(self) -> tuple[Sequence[Counts], ...]:
        """A, M, UA, UM, the critics, and their twins with their mixer."""
        values = self.agents, _one(self.mixer), self.central_agents, _one(self.central_mixer)
        return *values, self.critics, self.twin_critics, _one(self.twin_mixer)

    def dense(self) -> Model:
        return Model(
            [agent.dense() for agent in self.agents],
            self.mixer and self.mixer.dense(),
            [agent.dense() for agent in self.central_agents],
            self.central_mixer and self.central_mixer.dense(),
            [critic.dense() for critic in self.critics],
            [critic.dense() for critic in self.twin_critics],
            self.twin_mixer and self.twin_mixer.dense(),
        )


def _one(part: Counts | None) -> Sequence[Counts]:
    return () if part is None else (part,)


@dataclass(frozen=True)
class Passes:
    """Forward passes that a training sample costs, a backward pass counting as two.

    critics: of FACMAC's critics. searched: further actions that are valued in a memory of COMIX's agents.
    reduced: values that the target operator reduces for a sample, None: those of every agent's every action.
    hypernetworks: how often those of the mixer run, where that is less often than the mixer: once for many joint
    actions of a state. additions: further operations, of a mixer without weights.
    """

    agents: int
    mixer: int = 0
    central_agents: int = 0
    central_mixer: int = 0
    critics: int = 0
    twin_critics: int = 0
    twin_mixer: int = 0
    searched: int = 0
    reduced: int | None = None
    hypernetworks: int | None = None
    additions: int = 0


@dataclass(frozen=True)
class Schedule:
    """What training does beside the learning passes.

    batch_samples: joint transitions in a batch. replay_ratio: samples learned per environment step, which share that
    step's acting. target_interval, evolution_interval: updates between target copies and between topology evolutions
    (None: the topology is fixed).
    """

    batch_samples: int
    replay_ratio: float
    target_interval: int = 200
    evolution_interval: int | None = 200


@dataclass(frozen=True)
class TrainingCost:
    """FLOPs per training sample: the paper's count, and everything counted by part."""

    paper_flops: float
    counted: dict[str, float]

    @property
    def counted_flops(self) -> float:
        return sum(self.counted.values())


@dataclass(frozen=True)
class TrainingComparison:
    """A sparse model beside the dense one of its shape, trained by the same schedule without evolution."""

    sparse: TrainingCost
    dense: TrainingCost

    @property
    def paper_reduction(self) -> float:
        return self.dense.paper_flops / self.sparse.paper_flops

    @property
    def counted_reduction(self) -> float:
        return self.dense.counted_flops / self.sparse.counted_flops


def training_cost(passes: Passes, model: Model, schedule: Schedule) -> TrainingCost:
    """FLOPs per training sample.

    paper    sum over parts of passes x forward
    counted  the same with counted forward passes, hypernetworks as often as they run; and per sample: acting A /
             replay_ratio; the target operator, on n m values where actions are choices; the optimiser and clipping,
             parameters / batch; the targets' copy, their parameters / (interval batch); and topology evolution: the
             gradient of all weights, 2 forward_dense / interval = 2 A / ((1-S) interval), and one comparison per
             weight, weights / (interval batch).
    """
    reduced = len(model.agents) * model.agents[0].fc2.outputs if passes.reduced is None else passes.reduced
    p = passes
    times = p.agents, p.mixer, p.central_agents, p.central_mixer, p.critics, p.twin_critics, p.twin_mixer
    groups = model.groups()
    parameters = _parameters(groups)
    copied = _parameters(groups[2:] if model.central_agents else groups)
    learning = _weighted(times, groups, "counted_flops") + passes.additions
    learning += deciding(model, passes.searched) - deciding(model, 0)
    if passes.hypernetworks is not None and isinstance(model.mixer, QmixCounts):
        learning -= (passes.mixer - passes.hypernetworks) * model.mixer.hypernetwork_flops
    counted = {
        "learning": learning,
        "acting": deciding(model, passes.searched) / schedule.replay_ratio,
        "targets": float(reduced * TARGET_PER_ACTION),
        "optimiser": ADAM_PER_PARAMETER * parameters / schedule.batch_samples,
        "target_sync": copied / (schedule.target_interval * schedule.batch_samples),
        "evolution": _evolution(model, schedule),
    }
    return TrainingCost(_weighted(times, groups, "paper_flops"), counted)


def compare(passes: Passes, model: Model, schedule: Schedule) -> TrainingComparison:
    """The model beside the dense one of its shape, whose topology is fixed."""
    fixed = Schedule(schedule.batch_samples, schedule.replay_ratio, schedule.target_interval, None)
    return TrainingComparison(training_cost(passes, model, schedule), training_cost(passes, model.dense(), fixed))


def deciding(model: Model, searched: int) -> float:
    """Counted FLOPs of one joint decision; searched: the further actions that an agent values in its memory."""
    another = sum(agent.another_flops for agent in model.agents if isinstance(agent, CriticCounts))
    return sum(agent.counted_flops for agent in model.agents) + searched * another


def costs(model: Model, training: TrainingComparison, searched: int = 0) -> dict[str, float]:
    """What a run's log keeps: FLOPs per training sample and per joint decision, and the agents' weights. searched: as
    of deciding; the paper's count leaves the choice of an action out."""
    return {
        "training_paper_flops": training.sparse.paper_flops,
        "training_counted_flops": training.sparse.counted_flops,
        "inference_paper_flops": sum(agent.paper_flops for agent in model.agents),
        "inference_counted_flops": deciding(model, searched),
        "agent_weights": sum(agent.paper_parameters for agent in model.agents),
    }


def _weighted(times: Sequence[int], groups: Sequence[Sequence[Counts]], attribute: str) -> float:
    return sum(n * getattr(part, attribute) for n, group in zip(times, groups, strict=True) for part in group)


def _parameters(groups: Sequence[Sequence[Counts]]) -> int:
    return sum(part.counted_parameters for group in groups for part in group)


def _evolution(model: Model, schedule: Schedule) -> float:
    if schedule.evolution_interval is None:
        return 0.0
    parts = [part for group in model.dense().groups() for part in group]
    gradient = 2.0 * sum(part.counted_flops for part in parts)
    weights = sum(part.paper_parameters for part in parts)
    return (gradient + weights / schedule.batch_samples) / schedule.evolution_interval
