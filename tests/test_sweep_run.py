"""What a sweep runs and what it does not, and whole sweeps by the command: local, stopped, and on Ray."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from rich.console import Console
from test_sweep import ROOT, TINY, TUNED, parsed

from mast_train.envs import ENVS
from mast_train.settings.config import to_toml
from mast_train.settings.errors import UserError
from mast_train.sweeps import width
from mast_train.sweeps.display import Status
from mast_train.sweeps.run import run_sweep, units
from mast_train.sweeps.state import cell_state, choose_rates
from mast_train.sweeps.sweep import final_cells, tuning_cells
from mast_train.sweeps.width import Width, width_of


def finish(cell, folder, win_rate=1.0, status="finished"):
    """What a trained cell leaves."""
    run = folder / cell.name
    run.mkdir(parents=True, exist_ok=True)
    (folder / f"{cell.name}.toml").write_text(to_toml(cell.config))
    (run / "config.toml").write_text(to_toml(cell.config))
    (run / "run.json").write_text(json.dumps({"status": status}))
    row = {"kind": "evaluation", "step": cell.config.train.total_steps, "elapsed_s": 2.0, "win_rate": win_rate}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")


class Instant:
    """A worker that is done when first asked. ends: cell name -> exit code, 0 when not named. saves: when some cells
    fail, those beside them leave a checkpoint."""

    def __init__(self, ends=None, win_rates=None, saves=False):
        self.ends, self.win_rates, self.launched, self.most, self.running = ends or {}, win_rates or {}, [], 0, 0
        self.saves = saves

    def __call__(self, cells, folder):
        self.launched.append([cell.name for cell in cells])
        self.running += 1
        self.most = max(self.most, self.running)
        code = max(self.ends.get(cell.name, 0) for cell in cells)
        (folder / f"{cells[0].name}.log").write_text("line\nerror: the reason\n")
        for cell in cells if code == 0 else ():
            finish(cell, folder, self.win_rates.get(cell.config.train.lr, 1.0))
        for cell in cells if code and self.saves else ():
            if cell.name not in self.ends:
                finish(cell, folder, status="failed")
                (folder / cell.name / "checkpoint.safetensors").touch()
        outer = self

        class Done:
            def poll(self):
                outer.running -= 1
                return [Status()] * len(cells), code

            def stop(self, now=False):
                raise AssertionError("nothing asked for a stop")

        return Done()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("mast_train.sweeps.run.POLL_SECONDS", 0.0)


def test_finished_cells_are_not_run_again_and_failures_do_not_stop_the_others(tmp_path, quick):
    sweep = parsed('sweep = { seeds = [0, 1, 2], name = "s" }\naxes.method = ["mast"]')
    cells = final_cells(sweep, {})
    finish(cells[0], tmp_path / "s")
    launch = Instant({cells[1].name: 3})
    outcome = run_sweep(sweep, tmp_path, Width(1), launch, Console(quiet=True))
    assert launch.launched == [[cells[1].name], [cells[2].name]] and launch.most == 1
    assert outcome.finished == [cells[0].name, cells[2].name] and outcome.exit_code == 1
    assert outcome.failed == {cells[1].name: "line\nerror: the reason"}
    again = run_sweep(sweep, tmp_path, Width(2), Instant(), Console(quiet=True))
    assert len(again.finished) == 3 and again.exit_code == 0
    assert not (tmp_path / "s" / ".lock").exists()


@pytest.mark.parametrize(
    ("saves", "sizes", "parts"), [(False, [16, 8, 8, 4, 4, 2, 2, 1, 1], "halves"), (True, [16, 8, 1, 7], "3 parts")]
)
def test_a_process_of_many_cells_that_failed_goes_on_in_halves(tmp_path, quick, saves, sizes, parts):
    """Cells with and without a checkpoint stay apart."""
    sweep = parsed('sweep = { seeds = 16, name = "s" }\naxes.method = ["mast"]')
    cells, console = final_cells(sweep, {}), Console(width=200)
    launch = Instant({cells[3].name: 2}, saves=saves)
    with console.capture() as capture:
        outcome = run_sweep(sweep, tmp_path, Width(1, 64), launch, console)
    assert [len(names) for names in launch.launched] == sizes
    assert list(outcome.failed) == [cells[3].name] and len(outcome.finished) == 15
    assert f"the process of {cells[0].name} and 15 more ended after" in capture.get()
    assert f"with exit code 2: the reason; its {parts} go on" in capture.get()


def test_smax_on_a_gpu_has_one_process_of_many_cells_where_nobody_says_otherwise(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    fills, cores = Width(1, 64, divided=True), Width(3)
    for gpu, given, expected in (
        (True, "", fills), (False, "", cores), (True, 'set.device = "cpu"', cores),
        (False, 'set.device = "cuda"', fills), (True, "sweep = { jobs = 2, together = 3 }", Width(2, 3)),
        (True, "sweep = { together = 8 }", Width(1, 8)), (True, "sweep = { jobs = 4 }", Width(4, 64, divided=True)),
        (True, 'axes.device = ["cpu", "cuda"]', cores),
    ):  # fmt: skip
        monkeypatch.setattr(width, "has_gpu", lambda gpu=gpu: gpu)
        assert width_of(parsed(f'{given}\naxes.method = ["mast"]')) == expected, given
    monkeypatch.setattr(width, "has_gpu", lambda: True)
    for name in set(ENVS) - {"smax"}:
        sweep = parsed(f'set.env.name = "{name}"\nset.env.map = "{ENVS[name].map or "game"}"\naxes.method = ["mast"]')
        assert width_of(sweep) == cores, name


def test_given_processes_share_the_cells_where_nobody_says_how_many_each_trains(tmp_path, quick):
    sweep = parsed('sweep = { seeds = 12, name = "s" }\nset.device = "cuda"\naxes.method = ["mast"]')
    launch = Instant()
    run_sweep(sweep, tmp_path, width_of(sweep, jobs=4), launch, Console(quiet=True))
    assert [len(names) for names in launch.launched] == [3, 3, 3, 3] and launch.most == 4
    assert [width_of(sweep).most(cells) for cells in (1, 12, 200)] == [1, 12, 64]
    assert width_of(sweep, jobs=4, together=2).most(12) == 2


def test_cells_that_play_ahead_are_alone_in_their_process(tmp_path):
    cells = final_cells(parsed('sweep.seeds = 3\naxes.method = ["mast"]\naxes.train.overlap = [false, true]'), {})
    assert sorted(len(unit) for unit in units(cells, tmp_path, 8)) == [1, 1, 1, 3]


def test_a_sweep_tunes_first_and_records_its_choices(tmp_path, quick):
    launch = Instant(win_rates={1e-3: 0.25, 5e-4: 0.75})
    outcome = run_sweep(parsed(TUNED), tmp_path, Width(2), launch, Console(quiet=True))
    assert launch.most == 2 and outcome.exit_code == 0
    assert all(name.startswith("tune-") for (name,) in launch.launched[:4]) and len(launch.launched) == 16
    plan = json.loads((tmp_path / "file" / "sweep.json").read_text())
    scores = {"0.001": [0.25, 0.25], "0.0005": [0.75, 0.75]}
    assert plan["choices"] == {"3m/qmix/mast": {"rate": 5e-4, "measure": "win_rate", "scores": scores}}
    assert plan["cells"]["8m-qmix-off-seed1"] == {"row": "off", "phase": "final", "group": "8m/qmix/off"}
    assert "lr = 0.0005\n" in (tmp_path / "file" / "8m-qmix-off-seed1.toml").read_text()


def test_a_row_whose_tuning_failed_is_named_and_not_guessed(tmp_path, quick):
    sweep = parsed(TUNED)
    outcome = run_sweep(sweep, tmp_path, Width(2), Instant({tuning_cells(sweep)[0].name: 1}), Console(quiet=True))
    assert outcome.exit_code == 1 and choose_rates(sweep, tmp_path / "file") == {}
    assert [line.split(":")[0] for line in outcome.waiting] == [
        "3m/qmix/mast", "8m/qmix/mast", "3m/qmix/off", "8m/qmix/off"
    ]  # fmt: skip
    assert sum("fixed" in name for name in outcome.finished) == 4


def test_a_cell_of_another_configuration_is_refused(tmp_path, quick):
    cell = final_cells(parsed('axes.method = ["mast"]'), {})[0]
    finish(cell, tmp_path)
    assert cell_state(cell, tmp_path) == "finished"
    other = final_cells(parsed('axes.method = ["mast"]\nset.train.gamma = 0.5\nset.net.hidden = 32'), {})[0]
    with pytest.raises(UserError, match=r"net.hidden = 64, the sweep file now says 32 \(and 1 more\)"):
        cell_state(other, tmp_path)
    (tmp_path / f"{cell.name}.toml").unlink()
    with pytest.raises(UserError, match="did not start"):
        cell_state(cell, tmp_path)


def command(*arguments):
    return [sys.executable, str(ROOT / "cli.py"), "sweep", *arguments]


LONG = 240
"""Seconds after which something hangs, however slow the machine is."""


def wait_for(condition):
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.1)


GATE = """
import sys
import time
from pathlib import Path

sys.path.insert(0, {tests!r})
from parallel_games import Expedition


class Gated(Expedition):
    def step(self, actions):
        while Path("hold").exists():
            Path("waiting").touch()
            time.sleep(0.02)
        return super().step(actions)
"""


def test_a_stopped_sweep_saves_and_continues_and_a_failure_is_shown(tmp_path):
    """The game waits while the file `hold` is there, so that nothing here depends on how fast the machine is."""
    (tmp_path / "game.py").write_text(GATE.format(tests=str(ROOT / "tests")))
    (tmp_path / "hold").touch()
    (tmp_path / "s.toml").write_text(
        TINY.replace("matrix", "pettingzoo")
        + "[sweep]\nsteps = 300\nevaluations = 2\n"
        + '[rows.good]\nmap = "game.py:Gated"\n[rows.bad]\nmap = "absent.py:Gated"\n'
    )
    good, bad = "game.py_Gated-qmix-good-seed0", "absent.py_Gated-qmix-bad-seed0"
    run, log = tmp_path / "runs" / "s" / good, tmp_path / "runs" / "s" / f"{good}.log"
    first = subprocess.Popen(command("s.toml", "--jobs", "2"), cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        wait_for((tmp_path / "waiting").exists)
        second = subprocess.run(command("s.toml"), cwd=tmp_path, capture_output=True, text=True)
        assert second.returncode == 2 and "another process is running this sweep" in second.stderr
        first.send_signal(signal.SIGTERM)
        wait_for(lambda: "saving after this round" in log.read_text())
    finally:
        (tmp_path / "hold").unlink()
        out, _ = first.communicate(timeout=LONG)
    assert first.returncode == 130 and "the same command continues" in out, out
    assert (run / "checkpoint.safetensors").is_file() and json.loads((run / "run.json").read_text())["status"] == (
        "interrupted"
    )
    again = subprocess.run(command("s.toml"), cwd=tmp_path, capture_output=True, text=True, timeout=LONG)
    assert again.returncode == 1 and f"{good}: resumed" in again.stdout
    assert f"{bad} failed" in again.stdout and "absent.py: no such file" in again.stdout
    assert "1 finished, 1 failed" in again.stdout
    assert len(json.loads((run / "run.json").read_text())["sessions"]) == 2


def test_the_same_cells_run_on_a_ray_cluster(tmp_path):
    pytest.importorskip("ray")
    (tmp_path / "s.toml").write_text(
        TINY + '[sweep]\nsteps = 100\nevaluations = 1\n[rows.good]\nmap = "two_step"\n[rows.bad]\nmap = "absent"\n'
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    scratch = tempfile.mkdtemp(prefix="ray-")  # short: Ray puts Unix sockets there
    head = [
        str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=2",
        f"--temp-dir={scratch}", "--include-dashboard=false", "--disable-usage-stats",
        "--object-store-memory=100000000",
    ]  # fmt: skip
    ray = subprocess.Popen(head, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)

    def listening():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(listening)
        address = f"127.0.0.1:{port}"
        result = subprocess.run(
            command("s.toml", "--ray", address), cwd=tmp_path, capture_output=True, text=True, timeout=LONG
        )
    finally:
        ray.terminate()
        ray.wait(30)
        shutil.rmtree(scratch, ignore_errors=True)
    assert result.returncode == 1, result.stdout + result.stderr
    run = tmp_path / "runs" / "s" / "two_step-qmix-good-seed0"
    assert json.loads((run / "run.json").read_text())["status"] == "finished" and list(run.glob("snapshots/*"))
    assert "finished" in run.with_name(f"{run.name}.log").read_text()
    assert "'absent': expected one of" in result.stdout


def test_no_cluster_there_is_one_line(tmp_path):
    pytest.importorskip("ray")
    (tmp_path / "s.toml").write_text('axes.method = ["mast"]')
    result = subprocess.run(command("s.toml", "--ray", "wrong://address"), cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2 and "no Ray cluster answers" in result.stderr and result.stderr.count("\n") == 1
