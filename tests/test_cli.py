"""The command line as a user would type it: each command in its own process, and one clear line for each mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mast_runtime import __version__
from mast_runtime.bundle import write_atomically

ROOT = Path(__file__).resolve().parent.parent
WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
GOLDEN = ROOT / "tests" / "data" / "3m.mast"
TRAIN = ("train", "--env", "matrix", "--map", "two_step", "--set", "env.num_envs=8", "--set", "train.eval_interval=300")


def mast(*arguments, cwd, **options):
    command = [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, **options)


def ok(*arguments, cwd):
    result = mast(*arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with one finished run, trained by the command."""
    folder = tmp_path_factory.mktemp("user")
    out = ok(*TRAIN, "--steps", "900", cwd=folder)
    assert "win rate" in out and "next: mast export" in out
    return folder


def test_the_run_folder_holds_what_it_says(trained):
    run = trained / "runs" / "two_step-qmix-mast-active-seed0"
    assert {p.name for p in run.iterdir()} == {
        "config.toml", "run.json", "metrics.jsonl", "tensorboard", "checkpoint.safetensors",
        "snapshots", "trace.safetensors",
    }  # fmt: skip
    info = json.loads((run / "run.json").read_text())
    assert info["status"] == "finished" and info["sessions"][0]["versions"]["torch"] and info["seed"] == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in rows} == {"train", "evaluation", "summary"} and rows[-1]["step"] >= 900
    assert list((run / "tensorboard").iterdir())


def test_export_eval_inspect_bench(trained):
    out = ok("export", cwd=trained)
    policy = trained / "runs" / "two_step-qmix-mast-active-seed0" / "policy.mast"
    assert policy.is_file() and "runs/two_step-qmix-mast-active-seed0" in out and "verified over" in out
    random = ("--random", "--env", "matrix", "--map", "two_step")
    for target in ((), (policy,), (policy, "--backend", "reference"), random):
        result = json.loads(ok("eval", *target, "--episodes", "16", "--json", cwd=trained))
        assert result["episodes"] == 16 and result["win_rate_low"] <= result["win_rate"] <= result["win_rate_high"]
    description = json.loads(ok("inspect", "--json", "--png", "masks.png", cwd=trained))
    assert description == json.loads(ok("inspect", "two_step-qmix-mast-active-seed0", "--json", cwd=trained)), (
        "the run's own"
    )
    assert (trained / "masks.png").read_bytes().startswith(b"\x89PNG") and description
    assert all(line in out for line in ("agent_0: removed", "agent_1: removed", "hidden units"))
    (whole,) = json.loads(ok("export", "--no-compact", "-o", "whole.mast", "--json", cwd=trained))
    (compacted,) = json.loads(ok("export", "--json", cwd=trained))
    assert whole["removed"] == [] and whole["size_bytes"] >= compacted["size_bytes"] - 64
    for network, part in zip(description["networks"], compacted["removed"], strict=True):
        assert [network["fc1"] + part["fc1"], network["hidden"] + part["hidden"]] == network["trained"]
    table = ok("bench", policy, "--rounds", "1", "--full", cwd=trained)
    assert all(word in table for word in ("Latency", "sparse i8", "random 16x1"))


def test_export_formats(trained):
    for arguments, name in (
        (("--agent", "1"), "policy-agent1.mast"), (("--dtype", "i8"), "policy-i8.mast"),
        (("--dtype", "f16"), "policy-f16.mast"),
        (("--format", "onnx"), "policy-onnx"),
        (("--format", "c"), "policy-c"),
        (("--format", "onnx-sparse", "--agent", "0"), "policy-agent0-sparse.onnx"),
        (("-o", "mine.mast", "--at", "best"), "../../mine.mast"),
    ):  # fmt: skip
        reports = json.loads(ok("export", *arguments, "--json", cwd=trained))
        assert all(report["n_steps"] == 200 for report in reports)
        assert (trained / "runs" / "two_step-qmix-mast-active-seed0" / name).exists()
        assert all(report["passed"] for report in reports)


def test_names_with_brackets_are_printed_as_they_are(trained):
    (trained / "[sparse] :x: [").mkdir()
    assert "\n[sparse] :x: [/old].mast: " in ok("export", "-o", "[sparse] :x: [/old].mast", cwd=trained)


def test_interrupt_saves_and_resume_continues(tmp_path):
    command = [sys.executable, str(ROOT / "cli.py"), *TRAIN, "--steps", "1000000", "--name", "long"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics = tmp_path / "runs" / "long" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") > 20):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "continue with: mast train --resume --name runs/long" in out
    assert json.loads((tmp_path / "runs" / "long" / "run.json").read_text())["status"] == "interrupted"
    before = len(metrics.read_text().splitlines())
    again = subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), "train", "--resume"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    while time.monotonic() < deadline and len(metrics.read_text().splitlines()) < before + 10:
        time.sleep(0.1)
    second = mast("train", "--resume", "--name", "long", cwd=tmp_path)
    assert second.returncode == 2 and "another process is training this run" in second.stderr
    again.send_signal(signal.SIGTERM)
    out, _ = again.communicate(timeout=60)
    assert "resuming" in out and again.returncode == 0
    steps = [row["step"] for row in map(json.loads, metrics.read_text().splitlines()) if row["kind"] == "train"]
    assert steps == sorted(set(steps))
    info = json.loads((tmp_path / "runs" / "long" / "run.json").read_text())
    assert len(info["sessions"]) == 2 and info["status"] == "interrupted"


def test_seeds_in_one_process_become_runs_of_their_own(tmp_path):
    command = [sys.executable, str(ROOT / "cli.py"), *TRAIN, "--seeds", "2", "--seed", "3", "--steps", "1000000"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    folders = [tmp_path / "runs" / f"two_step-qmix-mast-active-seed{seed}" for seed in (3, 4)]
    metrics, deadline = folders[1] / "metrics.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") > 20):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "seeds 3, 4" in out and "seed 4 step" in out
    again = "all of them together: mast train --resume --name runs/two_step-qmix-mast-active --seeds 2 --seed 3"
    assert again in " ".join(out.split())
    for seed, folder in zip((3, 4), folders, strict=True):
        assert f"continue with: mast train --resume --name runs/{folder.name}" in out
        info = json.loads((folder / "run.json").read_text())
        assert info["seed"] == seed and info["status"] == "interrupted"
        assert f"seed = {seed}\n" in (folder / "config.toml").read_text()
        assert (folder / "checkpoint.safetensors").is_file() and (folder / "trace.safetensors").is_file()
        assert list((folder / "snapshots").iterdir()) and list((folder / "tensorboard").iterdir())
        assert "verified over" in ok("export", folder, cwd=tmp_path)
        result = json.loads(ok("eval", folder, "--episodes", "8", "--json", cwd=tmp_path))
        assert result["episodes"] == 8


def test_a_name_for_several_seeds_is_a_stem_and_folders_that_exist_stop_all(tmp_path):
    out = ok(*TRAIN, "--steps", "40", "--seeds", "2", "--name", "pair", cwd=tmp_path)
    assert out.count("next: mast export runs/pair-seed") == 2
    again = mast(*TRAIN, "--steps", "40", "--seeds", "3", "--seed", "1", "--name", "pair", cwd=tmp_path)
    assert again.returncode == 2 and "pair-seed1: a run of this name exists" in again.stderr
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"pair-seed0", "pair-seed1"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "--map", "33m"), ("33m", "3m")),
        (("train", "--method", "mats"), ("mats", "mast")),
        (("train", "--set", "train.lrr=1"), ("train.lrr", "train.lr")),
        (("train", "--sparsity", "1.5"), ("1.5", "0.999")),
        (("train", "--config", "absent.toml"), ("absent.toml",)),
        (("train", "--resume"), ("no unfinished run",)),
        pytest.param(("train", "--device", "cuda"), ("CUDA",), marks=WITHOUT_GPU),
        (("train", "--seed", "-1", "--env", "matrix"), ("seed", "-1")),
        (("train", "--resume", "--steps", "5"), ("--resume", "--name")),
        (("train", "--resume", "--seeds", "2"), ("--resume", "--name")),
        (("train", "--env", "matrix", "--seeds", "2", "--set", "train.overlap=true"), ("train.overlap", "--seeds")),
        (("train", "--env", "matrix", "--seeds", "2", "--seed", str(2**31 - 1)), ("seed", str(2**31))),
        (("train", "--name", "a/b", "--env", "matrix"), ("a/b", "--runs")),
        (("train", "--name", "a\udcffb", "--env", "matrix"), ("udcff", "printable")),
        (("train", "--steps", "many"), ("--steps", "whole number", "mast train --help")),
        (("train", "--from", "absent"), ("absent", "no run there")),
        (("runs",), ("no run under runs/", "mast train")),
        (("export", str(GOLDEN)), ("is a file", "expected a run")),
        (("trian",), ("trian", "train")),
        (("eval", "--random", "absent"), ("absent",)),
        (("eval",), ("no run", "mast train")),
        (("eval", "--random"), ("needs a map",)),
        (("eval", str(GOLDEN), "--set", "env.normalise=running"), ("env.normalise", "leave it out")),
        (("eval", "--random", "--env", "matrix", "--seed", "-1"), ("--seed", "greater than or equal to 0")),
        (("play", "--random", "--env", "matrix", "--seed", "-1"), ("--seed", "greater than or equal to 0")),
        (("eval", "absent"), ("absent",)),
        (("export",), ("no run", "mast train")),
        (("bench", "absent.mast"), ("absent.mast",)),
        (("bench",), ("mast export",)),
        (("bench", "broken.mast"), ("broken.mast",)),
        (("inspect", "broken.mast"), ("broken.mast",)),
        (("eval", str(GOLDEN), "--map", "8m", "--episodes", "1"), ("8m", "agents")),
        (("eval", str(GOLDEN), "--backend", "fast", "--episodes", "1"), ("fast", "reference")),
        (("serve", str(GOLDEN), "--agent", "9"), ("9",)),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line_and_exit_code_2(tmp_path, arguments, words):
    (tmp_path / "broken.mast").write_bytes(GOLDEN.read_bytes()[:500])
    result = mast(*arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in words), result.stderr
    assert not (tmp_path / "runs").exists()


def test_what_an_environment_prints_is_not_the_answer(tmp_path):
    """By Python, by C, by a process that it starts, and while it is imported."""
    (tmp_path / "loud.py").write_text(
        f"import os, subprocess, sys\nsys.path.insert(0, {str(ROOT / 'tests')!r})\nfrom metres import Metres\n"
        "print('imported')\nclass Loud(Metres):\n    def reset(self, seed=None, options=None):\n"
        "        print('reset'), os.write(1, b'written\\n'), subprocess.run(['echo', 'started'])\n"
        "        return super().reset(seed)\n"
    )
    loud = ("--random", "--env", "pettingzoo:loud.py:Loud", "--episodes", "2")
    result = mast("eval", *loud, "--json", cwd=tmp_path)
    assert json.loads(result.stdout)["episodes"] == 2
    assert all(f"{word}\n" in result.stderr for word in ("imported", "reset", "written", "started"))
    result = mast("eval", *loud, cwd=tmp_path)
    assert result.stdout.startswith("random (-) on pettingzoo loud.py:Loud: 2 episodes")
    assert result.stdout.count("\n") == 1


@pytest.mark.parametrize("command", ["--version", f"inspect {GOLDEN} --json"])
def test_answers_that_cannot_be_written(tmp_path, command):
    def shell(text):
        mast = f"{sys.executable} {ROOT / 'cli.py'} {command}"
        return subprocess.run(["bash", "-c", f"{mast} {text}"], cwd=tmp_path, capture_output=True, text=True)

    closed, full = shell(">&-"), shell("> /dev/full")
    assert (closed.returncode, closed.stdout, closed.stderr) == (0, "", "")
    assert (full.returncode, full.stdout, full.stderr) == (2, "", "error: No space left on device\n")
    assert shell(">&- 2>&- <&-").returncode == 0
    pipe = shell("| true; exit ${PIPESTATUS[0]}")
    assert pipe.returncode in (0, 1) and pipe.stderr == ""


def test_version_and_completion(tmp_path):
    assert ok("--version", cwd=tmp_path) == f"mast {__version__}\n"
    words = {"_MAST_COMPLETE": "complete_bash", "COMP_WORDS": "mast train --al", "COMP_CWORD": "2"}
    assert mast(cwd=tmp_path, env={**os.environ, **words}).stdout.split() == ["--algorithm"]


def test_a_file_that_cannot_be_written_is_named_as_the_user_named_it(trained):
    result = mast("export", "-o", "absent/policy.mast", cwd=trained)
    assert result.returncode == 2 and "absent: no such folder" in result.stderr
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(trained / "absent" / "policy.mast", b"")
    assert caught.value.filename == str(trained / "absent" / "policy.mast")


def test_help_imports_nothing_heavy():
    code = "import sys, cli; cli.app(['--help'], standalone_mode=False); print(sorted(sys.modules), file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    for module in ("torch", "jax", "onnx", "numpy"):
        assert f"'{module}'" not in result.stderr
    assert "train" in result.stdout and "serve" in result.stdout


def test_settings_and_runs_are_looked_at_without_torch(tmp_path, trained):
    (tmp_path / "torch.py").write_text("raise AssertionError('torch was imported')")
    hidden = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert "two_step-qmix-mast-active-seed0" in mast("runs", cwd=trained, env=hidden).stdout
    assert 'map = "8m"' in mast("train", "--map", "8m", "--show-config", cwd=trained, env=hidden).stdout
    assert "did you mean 'train.lr'" in mast("train", "--set", "lr=1", cwd=trained, env=hidden).stderr


def test_doctor_and_show_config(tmp_path):
    checks = json.loads(ok("doctor", "--json", cwd=tmp_path))
    assert {"Python", "torch", "jaxmarl"} <= {check["name"] for check in checks}
    (tmp_path / "a.toml").write_text(ok("train", "--map", "8m", "--block", "16x1", "--show-config", cwd=tmp_path))
    text = ok("train", "--config", "a.toml", "--show-config", cwd=tmp_path)
    assert text == (tmp_path / "a.toml").read_text() and 'map = "8m"' in text and "gru = 16" in text


def test_a_missing_extra_is_named(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    result = mast(
        "train", "--env", "matrix", "--map", "two_step", cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
    assert result.returncode == 2 and 'pip install "mast-marl[train]"' in result.stderr
