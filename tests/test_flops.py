"""FLOPs and parameters against arithmetic written out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from networks import random_bundle

from mast_runtime.measure.flops import Matrix, agent_counts, bundle_cost, network_counts
from mast_train.algorithms import algorithm as algorithm_of
from mast_train.learning.flops import (
    CentralCounts,
    Model,
    QmixCounts,
    Schedule,
    compare,
    qmix_counts,
    training_cost,
)
from mast_train.settings.methods import preset

# SMAX 3m: 75 observed values, 8 actions, a state of 72 values, 3 agents; hidden 64. Input 75 + 8 = 83.
AGENT_FLOPS = (2 * 83 - 1) * 64 + 3 * 64 * (2 * (64 + 64) - 1) + (2 * 64 - 1) * 8
AGENT_PARAMETERS = 83 * 64 + 3 * 64 * (64 + 64) + 64 * 8
MIXER_FLOPS = (
    (2 * 72 - 1) * 64 + (2 * 64 - 1) * 3 * 32  # w1: 72 -> 64 -> 3 x 32
    + (2 * 72 - 1) * 64 + (2 * 64 - 1) * 32  # w2: 72 -> 64 -> 32
    + (2 * 72 - 1) * 32  # b1: 72 -> 32
    + (2 * 72 - 1) * 32 + (2 * 32 - 1) * 1  # b2: 72 -> 32 -> 1
)  # fmt: skip
CENTRAL_FLOPS = (
    (2 * 75 - 1) * 256 + 2 * (2 * 256 - 1) * 256 + (2 * 256 - 1)  # f: 3 values and 72 -> 256 -> 256 -> 256 -> 1
    + (2 * 72 - 1) * 256 + (2 * 256 - 1)  # v: 72 -> 256 -> 1
)  # fmt: skip
CENTRAL = CentralCounts(
    Matrix.full(256, 75), Matrix.full(256, 256), Matrix.full(256, 256), Matrix.full(1, 256), Matrix.full(256, 72),
    Matrix.full(1, 256),
)  # fmt: skip
SCHEDULE = Schedule(batch_samples=1_000, replay_ratio=4.0, target_interval=200, evolution_interval=200)


def dense_3m() -> Model:
    return Model([agent_counts(83, 8, 64)] * 3, qmix_counts(72, 3))


def test_golden_numbers_are_what_the_formulas_say():
    assert (AGENT_FLOPS, AGENT_PARAMETERS, MIXER_FLOPS) == (10_560 + 48_960 + 1_016, 30_400, 43_775)


def test_dense_agent():
    agent = agent_counts(83, 8, 64)
    assert agent.paper_flops == AGENT_FLOPS
    assert agent.paper_parameters == AGENT_PARAMETERS
    assert agent.counted_parameters == AGENT_PARAMETERS + 64 + 4 * 64 + 8


def test_dense_agent_everything_counted():
    last_action = Matrix.full(64, 8)
    agent = agent_counts(83, 8, 64, one_hots=(last_action,))
    products = 2 * (75 * 64 + 192 * 128 + 8 * 64) + 64  # 64: the last action's column is added
    biases = 64 + 4 * 64 + 8
    relu, gates = 64, 64 * (26 + 26 + 23)  # two sigmoids and a tanh per unit
    elementwise = 64 * (2 + 2 + 4)
    argmax = 8 + 7
    assert agent.counted_flops == products + biases + relu + gates + elementwise + argmax


def test_sparsity_scales_the_papers_count_layer_by_layer():
    nnz = {"fc1": 532, "weight_ih": 600, "weight_hh": 300, "fc2": 64}
    agent = agent_counts(83, 8, 64, nnz=nnz)
    expected = 532 / (83 * 64) * (165 * 64) + 900 / (192 * 128) * (192 * 255) + 64 / (64 * 8) * (127 * 8)
    assert agent.paper_flops == pytest.approx(expected)
    assert agent.paper_parameters == 532 + 600 + 300 + 64
    assert agent.dense() == agent_counts(83, 8, 64)


def test_dense_mixer():
    mixer = qmix_counts(72, 3)
    assert mixer.paper_flops == MIXER_FLOPS
    weights = 72 * 64 + 64 * 96 + 72 * 64 + 64 * 32 + 72 * 32 + 72 * 32 + 32
    biases = 64 + 96 + 64 + 32 + 32 + 32 + 1
    assert (mixer.paper_parameters, mixer.counted_parameters) == (weights, weights + biases)
    relu, absolute = 64 + 64 + 32, 96 + 32
    mixing = 2 * 3 * 32 + 32 * 21 + 2 * 32  # q |w1|, elu, |w2|
    assert mixer.counted_flops == 2 * weights + biases + relu + absolute + mixing


def passes(algorithm):
    return algorithm_of(algorithm)(preset("mast")).passes(n_agents=3, n_actions=8)


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("vdn", (4, 0, 0, 0)),
        ("qmix", (4, 4, 0, 0)),
        ("owqmix", (3, 3, 4, 4)),
        ("cwqmix", (3, 3, 4, 5)),
        ("res", (4, 3 + 2 * 3 * 8, 0, 0)),
        ("iql", (4, 0, 0, 0)),
    ],
)
def test_training_per_sample_by_the_paper(algorithm, expected):
    own = passes(algorithm)
    assert (own.agents, own.mixer, own.central_agents, own.central_mixer) == expected
    mixer = qmix_counts(72, 3) if own.mixer else None
    model = Model([agent_counts(83, 8, 64)] * 3, mixer)
    if algorithm in ("owqmix", "cwqmix"):
        model = replace(model, central_agents=model.agents, central_mixer=CENTRAL)
    a, m, ua, um = expected
    forward = a * 3 * AGENT_FLOPS + m * MIXER_FLOPS * (mixer is not None)
    central_forward = ua * 3 * AGENT_FLOPS + um * CENTRAL_FLOPS
    assert training_cost(own, model, SCHEDULE).paper_flops == forward + central_forward


def test_everything_counted_in_training():
    model = dense_3m()
    cost = training_cost(passes("qmix"), model, SCHEDULE)
    agents, mixer = 3 * model.agents[0].counted_flops, model.mixer.counted_flops
    parameters = 3 * (AGENT_PARAMETERS + 328) + model.mixer.counted_parameters
    weights = 3 * AGENT_PARAMETERS + model.mixer.paper_parameters
    assert cost.counted == pytest.approx(
        {
            "learning": 4 * agents + 4 * mixer,
            "acting": agents / 4,
            "targets": 3 * 8 * 46,
            "optimiser": 17 * parameters / 1_000,
            "target_sync": parameters / 200_000,
            "evolution": 2 * (agents + mixer) / 200 + weights / 200_000,
        }
    )
    fixed = training_cost(passes("qmix"), model, replace(SCHEDULE, evolution_interval=None))
    assert fixed.counted["evolution"] == 0.0


def test_everything_counted_in_wqmix():
    model = replace(dense_3m(), central_agents=dense_3m().agents, central_mixer=CENTRAL)
    cost = training_cost(passes("owqmix"), model, SCHEDULE)
    weights = 75 * 256 + 2 * 256 * 256 + 256 + 72 * 256 + 256
    biases, relu = 3 * 256 + 1 + 256 + 1, 3 * 256 + 256
    central = 2 * weights + biases + relu + 1  # 1: f + v
    assert (CENTRAL.counted_flops, CENTRAL.counted_parameters) == (central, weights + biases)
    agents, mixer = 3 * model.agents[0].counted_flops, model.mixer.counted_flops
    assert cost.counted["learning"] == 3 * agents + 3 * mixer + 4 * agents + 4 * central
    agents_parameters = 3 * (AGENT_PARAMETERS + 328)
    parameters = 2 * agents_parameters + model.mixer.counted_parameters + weights + biases
    assert cost.counted["optimiser"] == pytest.approx(17 * parameters / 1_000)
    assert cost.counted["target_sync"] == pytest.approx((agents_parameters + weights + biases) / 200_000)


def test_res_makes_the_mixing_weights_once_a_state():
    """Three passes on s_t; on s_t+1, online and target, the hypernetworks once and 3 x 8 joint actions mixed."""
    model = dense_3m()
    cost = training_cost(passes("res"), model, SCHEDULE)
    mixing = 2 * 3 * 32 + 32 * 21 + 2 * 32
    hypernetworks = model.mixer.counted_flops - mixing
    learned = 4 * 3 * model.agents[0].counted_flops + 3 * model.mixer.counted_flops + 2 * (hypernetworks + 24 * mixing)
    assert cost.counted["learning"] == pytest.approx(learned)


def test_evolution_is_the_papers_estimate_when_sparse():
    """2 A / ((1-S) interval) per sample: the gradient of every weight, whatever is kept."""
    dense = dense_3m()
    agents = [replace(a, fc1=a.fc1.thinned(0.9), gru=a.gru.thinned(0.9), fc2=a.fc2.thinned(0.9)) for a in dense.agents]
    sparse = Model(agents, dense.mixer.thinned(0.9))
    comparison = compare(passes("qmix"), sparse, SCHEDULE)
    whole = training_cost(passes("qmix"), dense, SCHEDULE)
    assert comparison.sparse.counted["evolution"] == pytest.approx(whole.counted["evolution"])
    assert comparison.dense.paper_flops == 4 * 3 * AGENT_FLOPS + 4 * MIXER_FLOPS
    assert comparison.dense.counted["evolution"] == 0.0
    assert comparison.paper_reduction == pytest.approx(10.0, rel=1e-3)
    assert 1.0 < comparison.counted_reduction < comparison.paper_reduction


def test_mixer_from_its_layers_names():
    """QmixCounts and CentralCounts take the mixers' own layer names."""
    from mast_train.networks.mixers import CentralMixer, MonotonicMixer
    from mast_train.settings.config import MixerConfig

    modules = dict(MonotonicMixer(3, 72, MixerConfig()).named_children())
    counts = QmixCounts(**{name: Matrix.full(*module.weight.shape) for name, module in modules.items()})
    assert counts == qmix_counts(72, 3)
    modules = dict(CentralMixer(3, 72, 256).named_children())
    assert CentralCounts(**{name: Matrix.full(*module.weight.shape) for name, module in modules.items()}) == CENTRAL


@pytest.mark.parametrize("shared", [False, True])
def test_bundle_against_a_slow_loop(shared):
    bundle = random_bundle(1, n_agents=3, obs_dim=11, n_actions=5, shared=shared, hidden=12, fc1=9, sparsity=0.7)
    flops = parameters = counted = 0.0
    for index, network in enumerate(bundle.networks):
        users = sum(agent.network == index for agent in bundle.agents)
        for name, layer in network.layers().items():
            inputs = {"weight_ih": 9 + 12, "weight_hh": 9 + 12}.get(name, layer.inputs)
            connections = sum(1 for row in layer.dense() for weight in row if weight != 0.0)
            flops += users * connections / inputs * (2 * inputs - 1)
            parameters += connections
            counted += users * 2 * connections
        mask = network.fc1.mask()
        for start, width in [(11, 5), (16, 3)][: 2 if shared else 1]:
            read = np.count_nonzero(mask[:, start : start + width])
            counted += users * (read / width - 2 * read)
        counted += users * (9 + 4 * 12 + 5 + 9 + 12 * (2 * 26 + 23 + 8) + 2 * 5 - 1)
    sparse, dense = bundle_cost(bundle)
    assert sparse.paper_flops == pytest.approx(flops)
    assert sparse.counted_flops == pytest.approx(counted)
    assert sparse.paper_parameters == parameters
    assert dense == bundle_cost(replace(bundle, networks=tuple(n.densified() for n in bundle.networks)))[0]


def test_empty_network_costs_no_products():
    network = random_bundle(0, hidden=8, sparsity=1.0).networks[0]
    counts = network_counts(random_bundle(0).contract, network)
    assert (counts.paper_flops, counts.paper_parameters) == (0, 0)
    assert counts.counted_flops > 0
