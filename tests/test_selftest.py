"""The recorded episode on every backend, and a robot's log beside what training saw."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from networks import observed, random_bundle
from typer.testing import CliRunner

from cli import app
from mast_runtime import Bundle, RuntimeFault, load, native, save
from mast_runtime.backends import installed_backends
from mast_runtime.selftest.compare import compare
from mast_runtime.selftest.log import LogError, read_log
from mast_runtime.selftest.replay import engines, replay

HERE = Path(__file__).parent
TEAM = HERE / "data" / "3m.mast"
HEALTHY = np.load(HERE / "data" / "3m-robot.npz")["obs"].astype(np.float64)
"""Agent 0's observations [T,75] in greedy episodes of that team, played in SMAX after the team was trained."""
X, COOLDOWN, ENEMY_X, AGENT = 66, 68, 27, 0


@pytest.fixture(scope="module")
def team() -> Bundle:
    return load(TEAM)


def run(*arguments) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["selftest", *map(str, arguments)])
    return result.exit_code, result.output


def test_every_backend_takes_the_recorded_actions(team):
    result = replay(team)
    assert result.passed and not result.absent
    expected = {f"native {level}{team}" for level in native.levels() for team in ("", ", 8 agents at once")}
    assert {check.backend for check in result.checks} == expected | {*installed_backends()} - {"native"}
    for check in result.checks:
        assert check.equal == check.steps == 5 * 3 * 32 and check.decision_us > 0.0


def test_a_policy_that_acts_otherwise_fails_where_it_does(team):
    """The recording of agent 0 for the network of agent 1."""
    changed = replace(team.networks[1], recording=team.networks[0].recording, inputs=team.networks[0].inputs)
    result = replay(replace(team, networks=(team.networks[0], changed, team.networks[2])))
    assert not result.passed and all(not check.passed for check in result.checks)
    assert all(check.differs.startswith(f"{team.agents[1].name}, step ") for check in result.checks)


def test_what_cannot_run_here_is_named_with_its_reason(team, monkeypatch):
    from mast_runtime import backends

    class Absent:
        @staticmethod
        def missing() -> str:
            return "a part that is not there"

    monkeypatch.setattr(backends, "backend_of", lambda name: Absent)
    monkeypatch.setattr(native, "levels", tuple)
    monkeypatch.setattr(native, "missing", lambda: "a compiler")
    assert engines() == dict.fromkeys(("reference", "onnx"), "a part that is not there") | {"native": "a compiler"}
    assert not replay(team).passed, "nothing was checked"


def test_a_policy_without_a_recording_says_so():
    with pytest.raises(RuntimeFault, match="no recorded episode; export it again from its run: mast export RUN"):
        replay(random_bundle(1))


def test_the_command_passes_and_fails(tmp_path):
    code, text = run(TEAM)
    assert code == 0 and text.splitlines()[-1] == "pass" and "reference: 480 of 480 actions" in text
    code, text = run(TEAM, "--json")
    found = json.loads(text)
    assert code == 0 and found["passed"] and found["identity"]["digest"] == load(TEAM).identity.digest
    save(observed(random_bundle(1, n_agents=1)), tmp_path / "nobody.mast")
    code, text = run(tmp_path / "nobody.mast")
    assert code == 1 and text.splitlines()[-1] == "FAIL" and "FAIL: ally_0, step " in text


# A robot's log.


def faults(team: Bundle, rows: np.ndarray, agent: int = AGENT) -> list[tuple[str, list[int]]]:
    return [(found.kind, found.inputs) for found in compare(team, agent, rows.tolist())]


def test_healthy_logs_raise_no_alarm(team):
    lengths = (70, 90, 180, 360, len(HEALTHY) - 1)
    windows = [HEALTHY[start : start + size] for size in lengths for start in range(0, len(HEALTHY) - size, 45)]
    assert len(windows) > 30 and all(faults(team, window) == [] for window in windows)


@pytest.mark.parametrize("factor", [57.29578, 1 / 57.29578, 1000.0, 0.001, -100.0])
@pytest.mark.parametrize("column", [X, COOLDOWN, ENEMY_X])
def test_a_scaled_input_is_pointed_at(team, column, factor):
    rows = HEALTHY.copy()
    rows[:, column] *= factor
    assert faults(team, rows) == [("scaled", [column])]


def test_degrees_for_radians_are_named(team):
    rows = HEALTHY.copy()
    rows[:, X] *= 57.29578
    (found,) = compare(team, AGENT, rows.tolist())
    assert "as degrees for radians would be" in found.sentence()
    assert found.sentence().startswith("66 (own position x): scaled: about ")


@pytest.mark.parametrize("column", [X, ENEMY_X, 65])
def test_a_stuck_input_is_pointed_at(team, column):
    """At a value of its own; where it is at rest in training too, nothing can tell."""
    rows = HEALTHY.copy()
    between = (rows[:, column] > 0.02) & (rows[:, column] < 0.9)
    rows[:, column] = rows[between, column][0]
    assert faults(team, rows) == [("stuck", [column])]
    assert faults(team, rows[:60]) == [], "in one episode an input may well stay as it is"


@pytest.mark.parametrize("pair", [(1, X), (28, 67), (X, COOLDOWN)])
def test_swapped_inputs_are_pointed_at(team, pair):
    """Of different kinds: own x and own y have like values, and nothing can tell them apart."""
    rows = HEALTHY.copy()
    rows[:, pair] = HEALTHY[:, pair[::-1]]
    assert faults(team, rows) == [("swapped", sorted(pair))]


def test_several_faults_at_once_and_the_worst_values(team):
    rows = HEALTHY.copy()
    rows[:, X] *= 1000.0
    rows[:, ENEMY_X] = 0.31
    rows[5, 3] = np.nan
    assert faults(team, rows) == [("not finite", [3]), ("stuck", [ENEMY_X]), ("scaled", [X])]
    rows = HEALTHY.copy()
    rows[:, 70] = 1.0
    assert faults(team, rows) == [("out of range", [70])]


def test_a_log_that_says_too_little(team):
    for rows in (HEALTHY[:20], np.zeros((100, 75))):
        with pytest.raises(LogError, match="observations that are finite and not all zero, expected 32 or more"):
            compare(team, 0, rows.tolist())
    with pytest.raises(LogError, match="agent 3: the policy has agents 0 to 2"):
        compare(team, 3, HEALTHY.tolist())
    with pytest.raises(LogError, match="does not say what training saw; export it again"):
        compare(random_bundle(1, obs_dim=75), 0, HEALTHY.tolist())


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_logs_as_people_write_them(tmp_path):
    rows = [[1.0, -2.5], [3.0, 4e-3]]
    plain = "\n".join(json.dumps(row) for row in rows)
    assert read_log(written(tmp_path / "a.jsonl", plain + "\n\n"), 2) == rows
    objects = "\n".join(json.dumps({"t": i, "obs": row}) for i, row in enumerate(rows))
    assert read_log(written(tmp_path / "b.log", objects), 2) == rows
    table = "1.0, -2.5\n3,0.004\n"
    assert read_log(written(tmp_path / "c.csv", table), 2) == rows
    assert read_log(written(tmp_path / "d.CSV", "left,right\n" + table), 2, ("left", "right")) == rows
    turned = [row[::-1] for row in rows]
    assert read_log(written(tmp_path / "e.csv", "right,left\n" + table), 2, ("left", "right")) == turned
    assert read_log(written(tmp_path / "f.csv", "x,y\n" + table), 2, ("left", "right")) == rows


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "", "no observations; expected a line of 2 numbers for each decision"),
        ("a.jsonl", "1,2\n", "line 1: not JSON .* a table goes in a file named .csv"),
        ("a.jsonl", "[1, 2]\n{}", 'line 2: expected an array of numbers, or an object with one as "obs"'),
        ("a.jsonl", "[1, 2]\n[1]", "line 2: 1 values, the observation has 2"),
        ("a.jsonl", '[1, "x"]', "line 1: not a row of numbers"),
        ("a.jsonl", "[1, true]", "line 1: not a row of numbers .True is no number"),
        ("a.jsonl", "[1, null]", "line 1: not a row of numbers"),
        ("a.csv", "x,y\n1,2,3\n", "line 2: 3 values, the observation has 2"),
        ("a.csv", "x,y\n1,?\n", "line 2: not a row of numbers"),
    ],
)
def test_logs_that_cannot_be_read(tmp_path, name, text, message):
    with pytest.raises(LogError, match=message):
        read_log(written(tmp_path / name, text), 2)


def test_the_command_compares_a_log(tmp_path):
    healthy = tmp_path / "healthy.jsonl"
    healthy.write_text("\n".join(json.dumps(row) for row in HEALTHY.tolist()))
    code, text = run(TEAM, "--robot-log", healthy)
    assert code == 0 and f"every input of {len(HEALTHY)} rows looks as it did in training" in text
    degrees = HEALTHY.copy()
    degrees[:, X] *= 57.29578
    wrong = tmp_path / "degrees.csv"
    np.savetxt(wrong, degrees, delimiter=",")
    code, text = run(TEAM, "--robot-log", wrong, "--json")
    assert code == 1 and [found["inputs"] for found in json.loads(text)["findings"]] == [[X]]
    code, text = run(TEAM, "--robot-log", tmp_path / "none.csv")
    assert code == 2 and "No such file" in text
    code, text = run(TEAM, "--robot-log", wrong, "--agent", 9)
    assert code == 2 and "agent 9: the policy has agents 0 to 2" in text
