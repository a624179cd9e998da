"""A robot with this package alone: the same decisions, one clear line for what cannot be, the commands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import without_numpy
from bounded import bounded_bundle, recorded
from networks import observed, random_bundle
from searched import searching_bundle, with_seen

from mast_export.quantise import quantise
from mast_runtime import BackendError, backends, load, native, save
from mast_runtime.given import chosen_agents
from mast_runtime.measure.inspect import describe
from mast_runtime.network import LAYERS

ROOT = Path(__file__).resolve().parent.parent
TEAM = ROOT / "tests" / "data" / "3m.mast"
pytestmark = pytest.mark.skipif(bool(native.missing()), reason=f"native backend: needs {native.missing()}")


def alone(*words: str, code: int = 0) -> tuple[str, str]:
    """Standard output and error of without_numpy.py."""
    command = [sys.executable, "-W", "error", str(ROOT / "tests" / "without_numpy.py"), *words]
    found = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == code, found.stdout + found.stderr
    return found.stdout, found.stderr


def call(function: str, *arguments: object):
    return json.loads(alone(function, *(json.dumps(argument) for argument in arguments))[0])


def continuous(seed: int, dtype: str, **kinds):
    return recorded(quantise(bounded_bundle(seed, 0.1, hidden=20, **kinds), dtype))


POLICIES = {
    "choices, f32": lambda: observed(random_bundle(1, hidden=20)),
    "choices, f16 in blocks": lambda: quantise(random_bundle(2, hidden=20, blocks=dict.fromkeys(LAYERS, 8)), "f16"),
    "choices, i8, one network": lambda: quantise(random_bundle(3, hidden=20, shared=True), "i8"),
    "choices, without a memory": lambda: random_bundle(4, hidden=20, memory=False),
    "continuous, f32": lambda: continuous(5, "f32"),
    "continuous, i8": lambda: continuous(6, "i8", shared=True),
    "searched for, f32": lambda: with_seen(searching_bundle(7, 0.1, hidden=20))[0],
    "searched for, i8": lambda: quantise(searching_bundle(8, hidden=20, memory=False), "i8"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "kind"), [*zip(POLICIES, ("list", "f", "tuple", "view", "d", "list", "f", "list"), strict=True)]
)
def test_the_same_decisions_as_with_numpy(policy, kind, tmp_path):
    """To the bit: alone and in a team, with other actions executed, after resets; all that can be read, too."""
    bundle = POLICIES[policy]()
    save(bundle, tmp_path / "p.mast")
    rng = np.random.default_rng(0)
    obs = (2 * rng.standard_normal((8, 3, bundle.contract.obs_dim))).astype(np.float32)
    avail = (rng.random((8, 3, bundle.contract.n_actions)) < 0.6) | (np.arange(bundle.contract.n_actions) == 0)
    given = str(tmp_path / "p.mast"), kind, obs.tolist(), avail.astype(int).tolist()
    assert call("play", *given) == without_numpy.play(given[0], "numpy", *given[2:])


def test_what_cannot_be_is_refused_in_one_line_and_as_with_numpy():
    policy = load(TEAM)
    obs, avail = [0.25] * policy.contract.obs_dim, [1] * policy.contract.n_actions
    bare, here = call("refuse", str(TEAM), obs, avail), without_numpy.refuse(str(TEAM), obs, avail)
    assert bare == here and len(bare) == 30
    wrong = {
        "obs has shape [74], expected [75]": 1,
        "obs has shape [3, 74], expected [3, 75]": 1,
        "obs[0] of agent 0 is nan; values must be finite float32": 2,
        "obs[0] of agent 0 is inf; values must be finite float32": 2,
        "avail_actions has shape [7], expected [8]": 1,
        "agent 0 has no available action; at least one is needed": 2,
    }
    assert {text: bare.count(text) for text in wrong} == wrong
    others = "(obs is not an array of numbers|avail_actions is not an array of flags) [(].+[)]|[a-z_]+ has shape .*"
    assert all(text in wrong or (re.fullmatch(others, text) and len(text) < 200) for text in bare)


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "p.mast").write_bytes(TEAM.read_bytes())
    said = call("damaged", str(tmp_path / "p.mast"))
    assert len(said) == 5 and all(line.startswith(f"{tmp_path}/p.mast.bad") and "\n" not in line for line in said)
    assert "do not fit its digest" in said[3]


def test_the_loop_and_what_needs_numpy():
    policy = load(TEAM)
    obs = [0.25] * policy.contract.obs_dim
    assert call("supervised", str(TEAM), obs) == [policy.agent(0).act(obs), "obs has shape [74], expected [75]"]
    reference, onnx, saved, counts, high = call("elsewhere", str(TEAM))
    assert saved == "writing a policy needs numpy; pip install numpy safetensors"
    assert reference == "backend 'reference' needs numpy; pip install numpy" and onnx.endswith("pip install numpy")
    assert counts == policy.networks[0].fc1.counts.tolist() and policy.networks[0].inputs
    assert high == policy.networks[0].inputs.high.tolist()


def test_the_commands_of_a_robot(tmp_path):
    out, _ = alone("mast", "selftest", str(TEAM))
    assert out.endswith("pass\n") and "reference: not here: numpy; pip install numpy\n" in out
    for name, bundle in (("choices", load(TEAM)), ("continuous", continuous(7, "f32"))):
        save(bundle, tmp_path / f"{name}.mast")
        assert json.loads(alone("mast", "selftest", "--json", str(tmp_path / f"{name}.mast"))[0])["passed"]
        described = json.loads(json.dumps(describe(load(tmp_path / f"{name}.mast")).as_dict()))
        assert json.loads(alone("mast", "inspect", str(tmp_path / f"{name}.mast"), "--json")[0]) == described
    out, _ = alone("mast", "inspect", str(TEAM))
    assert "digest d583dd35f998" in out and "agent_1 reads nothing of obs 73, last_action 7\n" in out
    out, _ = alone("mast", "doctor")
    assert "native kernel" in out and "needed only" in out
    log = tmp_path / "robot.jsonl"
    log.write_text("\n".join(map(json.dumps, np.load(ROOT / "tests/data/3m-robot.npz")["obs"].tolist())))
    assert "looks as it did in training" in alone("mast", "selftest", str(TEAM), "--robot-log", str(log))[0]


@pytest.mark.parametrize("name", ["choices", "continuous"])
def test_the_server(name, tmp_path):
    """Decisions, inputs out of range, and what was executed of continuous actions."""
    policy = load(TEAM) if name == "choices" else continuous(7, "f32")
    save(policy, tmp_path / "p.mast")
    agent, size = policy.agent(1), policy.contract.obs_dim
    command = [sys.executable, str(ROOT / "tests" / "without_numpy.py"), "mast", "serve", str(tmp_path / "p.mast")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([*command, "--port", "0"], env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[0]
            for value in (0.1, 50.0, 60.0):
                tensor = {"name": "obs", "datatype": "FP32", "shape": [size], "data": [value] * size}
                message = {"parameters": {"sequence_id": 1, "sequence_start": value < 1.0}, "inputs": [tensor]}
                with urlopen(f"{url}/v2/models/agent_1/infer", json.dumps(message).encode(), 20) as answer:
                    action, q = (output["data"] for output in json.load(answer)["outputs"])
                own = agent.act([value] * size)
                assert action == (own.tolist() if name == "continuous" else [own]) and q == agent.q.tolist()
            with urlopen(f"{url}/metrics", timeout=20) as answer:
                assert answer.read().decode().count("_total{input=") >= size
        finally:
            server.terminate()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bench", str(TEAM)], "mast bench needs numpy; pip install numpy"),
        (["inspect", str(TEAM), "--png", "x.png"], "mast inspect needs numpy; pip install numpy"),
        (["selftest", "nowhere.mast"], "nowhere.mast: no such policy file"),
        (["selftest", str(TEAM), "--nothing"], "No such option: --nothing; see mast selftest --help"),
        (["selftets"], "No such command 'selftets'; see mast --help"),
        (["bench", "--rounds", "0"], "Invalid value for '--rounds': 0 is not in the range x>=1; see mast bench --help"),
    ],
)
def test_a_mistake_is_one_line(words, said):
    assert alone("mast", *words, code=2)[1] == f"error: {said}\n"


def test_numpy_in_numpy_out_and_other_kinds_otherwise():
    policy = bounded_bundle(8, hidden=8)
    obs = np.zeros((3, policy.contract.obs_dim), np.float32)
    for backend in ("native", "reference"):
        for make, kinds in ((random_bundle(8, hidden=8), "q"), (policy, "f")):
            team = make.team(backend=backend)
            for given in (obs, list(obs), obs.astype(np.float64)):
                assert isinstance(team.act(given), np.ndarray)
            given = team.act(obs.tolist())
            assert (given[0] if kinds == "f" else given).typecode == kinds
            assert isinstance(team.q, np.ndarray) and isinstance(team.last_action, np.ndarray)
        assert isinstance(policy.agent(0, backend).act(obs[0]), np.ndarray)
        assert policy.agent(0, backend).act(obs[0].tolist()).typecode == "f"


def test_squashing_in_python_is_that_in_c():
    bundle, rng = bounded_bundle(9, 0.05, hidden=8), np.random.default_rng(0)
    team, plain = bundle.team(), bundle.team(backend="reference")
    for row in rng.standard_normal((20, 3, bundle.contract.obs_dim)).astype(np.float32):
        np.testing.assert_allclose(plain.act(row), team.act(row), atol=1e-5)


def test_which_agents_are_meant():
    for which in (
        None,
        [],
        [1],
        [-1, 0],
        [True, False, True],
        np.array([2]),
        np.array([True, False, False]),
        1,
        (np.int64(2),),
    ):
        everyone = np.arange(3)
        expected = everyone if which is None else everyone[np.asarray(which)] if np.size(which) else []
        assert chosen_agents(which, 3).tolist() == np.atleast_1d(expected).tolist()
    for wrong in ([3], [-4], [True], [0.5], ["a"], [[0]], 3):
        with pytest.raises(IndexError, match="agents to reset"):
            chosen_agents(wrong, 3)


def test_without_any_backend_the_error_names_both(monkeypatch):
    needs = {"native": "a kernel", "reference": "numpy; pip install numpy", "onnx": "numpy; pip install numpy"}
    monkeypatch.setattr(backends, "missing", needs.get)
    with pytest.raises(BackendError, match=r"no backend can run here: native needs a kernel; or reference needs numpy"):
        random_bundle(1, hidden=8).agent(0)
