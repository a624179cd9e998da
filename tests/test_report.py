"""Reports: results that rebuild the page to the byte, their tables, and the page in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mast_train.report.bench import ROUNDS, bench_runs
from mast_train.report.collect import collect
from mast_train.report.command import write_report
from mast_train.report.markdown import to_markdown
from mast_train.report.marl_eval import marl_eval
from mast_train.report.page import to_html
from mast_train.report.rows import build
from mast_train.settings.errors import UserError
from mast_train.sweeps.display import Status
from mast_train.sweeps.run import run_sweep
from mast_train.sweeps.sweep import parse_sweep
from mast_train.sweeps.width import Width

ROOT = Path(__file__).resolve().parent.parent
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SWEEP = """
[sweep]
name = "small"
steps = 400
evaluations = 4
seeds = [0, 1]
[set]
env.name = "matrix"
env.num_envs = 8
net.hidden = 16
train.eval_episodes = 8
replay.batch = 8
replay.capacity = 100
replay.recent_batch = 2
sparse.update_interval = 5
[axes]
map = ["recall", "two_step"]
method = ["dense", "mast"]
sparsity = [0.5, 0.8]
[maps.two_step]
rows = ["dense", "mast 80%"]
[tune]
rates = [1e-3, 3e-3]
seeds = [7]
steps = 100
map = "recall"
"""


class Trained:
    """Cells that were trained in this process."""

    def __init__(self, cells, folder):
        from mast_train.commands.session import begin

        self.cells = cells
        begin([cell.config for cell in cells], [cell.name for cell in cells], folder, Console(quiet=True))

    def poll(self):
        return [Status()] * len(self.cells), 0

    def stop(self, now=False):
        raise AssertionError("nothing asked for a stop")


@pytest.fixture(scope="module", autouse=True)
def few_repetitions():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mast_train.report.statistics.REPETITIONS", 200)
        yield


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A finished sweep with measured latencies for three rows."""
    root = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mast_train.sweeps.run.POLL_SECONDS", 0.0)
        outcome = run_sweep(parse_sweep(tomllib.loads(SWEEP), "small"), root, Width(1), Trained, Console(quiet=True))
    assert outcome.exit_code == 0 and len(outcome.finished) == 6 + 10
    for name, latency in (("dense", 2.0), ("mast_50", 1.5), ("mast_80", 0.5)):
        folder = root / "small" / f"recall-qmix-{name}-seed0"
        measured = {"latency_us": latency, "dense_latency_us": 2.0, "team_latency_us": 0.4, "size_bytes": 1000}
        (folder / "bench.json").write_text(json.dumps({"run": folder.name, "machine": "a machine", **measured}))
    return root / "small"


@pytest.fixture(scope="module")
def report(swept, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report([swept], folder)
    return folder


def test_results_hold_the_runs_the_choices_and_what_they_kept(swept):
    results = collect([swept])
    finals = [run for run in results["runs"] if run["phase"] == "final"]
    assert len(finals) == 10 and len(results["runs"]) == 16 and results["unfinished"] == 0
    assert list(dict.fromkeys(run["row"] for run in finals)) == ["dense", "mast 50%", "mast 80%"]
    assert set(results["choices"]["small"]) == {f"recall/qmix/{row}" for row in ("dense", "mast 50%", "mast 80%")}
    masks = results["masks"]["recall/qmix/mast 80%"]
    run = next(run for run in finals if run["name"] == masks["run"])
    assert masks["run"] == "recall-qmix-mast_80-seed0" and len(masks["final"]) == 2
    total = sum(sum(counts) for counts in masks["per_input"].values())
    assert total == sum(sum(counts) for counts in masks["per_output"].values()) == sum(masks["kept"])
    assert total == run["costs"]["agent_weights"]
    assert "recall/qmix/dense" not in results["masks"] and set(results["bench"]) == set(results["choices"]["small"])
    assert len(run["curve"]["step"]) == len(run["curve"]["value_estimate"]) == 5
    assert run["idle"] and all(0 < step <= 400 and 0.0 <= share < 1.0 for step, share in run["idle"])
    assert all(bool(other["idle"]) == (other["row"] != "dense") for other in finals)
    assert collect([swept, swept])["runs"] == results["runs"], "a run given twice counts once"


def test_a_results_file_from_before_a_setting_is_of_its_default(swept, tmp_path):
    results = collect([swept])
    for config in results["configs"]:
        del config["sparse.drop"], config["train.lr_end_factor"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    both = collect([swept, tmp_path / "results.json"])
    assert len(both["runs"]) == len(results["runs"]) and len(both["configs"]) == len(results["configs"])


def test_costs_are_those_of_the_networks(swept):
    rows = {row.name: row for row in build(collect([swept])).tasks["recall", "qmix"]}
    spec = json.loads((swept / "recall-qmix-dense-seed0" / "run.json").read_text())["spec"]
    inputs, hidden, actions = spec["obs_dim"] + spec["n_actions"], 16, spec["n_actions"]
    weights = spec["n_agents"] * (inputs * hidden + 6 * hidden * hidden + hidden * actions)
    assert rows["dense"].cost("agent_weights") == weights
    assert rows["mast 50%"].cost("agent_weights") == pytest.approx(weights / 2, abs=4)


def test_the_report_is_made_again_from_its_results_alone(report, tmp_path):
    write_report([report / "results.json"], tmp_path)
    for name in ("report.html", "report.md", "results.json", "marl-eval.json"):
        assert (tmp_path / name).read_bytes() == (report / name).read_bytes(), name


def test_the_table_normalises_to_dense(swept, report):
    text = (report / "report.md").read_text()
    recall = build(collect([swept])).tasks["recall", "qmix"]
    dense, mast = recall[0], next(row for row in recall if row.name == "mast 80%")
    expected = np.mean(mast.scores) / np.mean(dense.scores)
    line = next(line for line in text.splitlines() if line.startswith("| mast 80% |"))
    assert f"| {expected:.1%} |".replace("%", " %") in line
    assert "last 1 evaluations (the paper averages 20 of 200" in text and "| dense |" in text


def test_marl_evals_layout(swept):
    tree = marl_eval(collect([swept]))
    assert set(tree) == {"matrix"} and set(tree["matrix"]) == {"recall", "two_step"}
    run = tree["matrix"]["recall"]["qmix mast 80%"]["seed_1"]
    assert set(run) == {*(f"step_{k}" for k in range(5)), "absolute_metrics"}
    assert run["step_0"]["step_count"] == 0 and run["step_4"]["win_rate"] == run["absolute_metrics"]["win_rate"]
    assert not any("," in name for task in tree["matrix"].values() for name in task)


def test_runs_of_other_settings_become_a_row_of_their_own(swept):
    results = collect([swept])
    longer = {**results["configs"][results["runs"][-1]["config"]], "train.total_steps": 800}
    other = {**results, "configs": [longer], "runs": [{**results["runs"][-1], "config": 0}]}
    path = swept.parent / "longer.json"
    path.write_text(json.dumps(other))
    names = {run["row"] for run in collect([swept, path])["runs"]}
    assert f"{results['runs'][-1]['row']} (total_steps 800)" in names


def test_an_unfinished_run_is_left_out_and_counted(swept, tmp_path):
    shutil.copytree(swept, tmp_path / "s")
    path = tmp_path / "s" / "recall-qmix-mast_80-seed1" / "run.json"
    path.write_text(path.read_text().replace('"finished"', '"interrupted"'))
    report = build(collect([tmp_path / "s"]))
    assert report.results["unfinished"] == 1 and "1 unfinished left out" in to_html(report)
    row = next(row for row in report.tasks["recall", "qmix"] if row.name == "mast 80%")
    assert len(row.scores) == 1 and row.interval is None
    with pytest.raises(UserError, match="no finished run"):
        collect([tmp_path / "s" / "recall-qmix-mast_80-seed1"])


def test_a_game_without_winning_is_compared_by_return(tmp_path):
    """A PettingZoo game whose infos never say `won`: tuned, shown and reported by return, and nowhere a win rate."""
    game = f"{ROOT / 'tests' / 'parallel_games.py'}:Expedition"
    head = 'sweep = { name = "g", steps = 64, evaluations = 4, seeds = [0, 1] }\n'
    tail = f"[tune]\nrates = [1e-3, 3e-3]\nseeds = [7]\nsteps = 32\n[axes]\nmap = {json.dumps(game)}\n"
    text = head + SWEEP[SWEEP.index("[set]") : SWEEP.index("[axes]")].replace("matrix", "pettingzoo") + tail
    console = Console(width=200, record=True, quiet=False, file=io.StringIO())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mast_train.sweeps.run.POLL_SECONDS", 0.0)
        sweep = parse_sweep(tomllib.loads(text + 'method = ["dense", "mast"]'), "g")
        assert run_sweep(sweep, tmp_path, Width(1), Trained, console).exit_code == 0
    shown = console.export_text()
    assert re.search(r"dense-seed0: return -?\d", shown) and "win rate" not in shown
    (choice, _) = json.loads((tmp_path / "g" / "sweep.json").read_text())["choices"].values()
    assert choice["measure"] == "return_mean" and len(choice["scores"]) == 2

    results = collect([tmp_path / "g"])
    report = build(results)
    (rows,) = report.tasks.values()
    for row in rows:
        assert row.scores == [run["curve"]["return_mean"][-1] for run in row.runs] and row.share is None
        assert row.interval is not None and min(row.scores) <= row.interval[0] <= max(row.scores)
    page = Page(to_html(report)).text
    assert "mean greedy return of its last 1 evaluations" in page and "greedy return" in page
    assert "win rate" not in page.lower()
    table = to_markdown(report)
    assert "(return)" in table and not re.search(r"\d %", table.replace("95 %", ""))
    (task,) = marl_eval(results)["pettingzoo"].values()
    assert set(task["qmix mast"]["seed_0"]["absolute_metrics"]) == {"return", "episode_length"}


def test_win_rates_and_returns_are_never_set_against_each_other(swept):
    """One seed of one row without a win rate: its task is compared by return, outside the mean over maps."""
    results = collect([swept])
    for run in results["runs"]:  # whatever so short a training made of it
        run["curve"] = {**run["curve"], "win_rate": [0.5] * len(run["curve"]["step"])}
    assert build(results).overall["qmix"] and build(results).measure == "win rate"
    run = next(run for run in results["runs"] if run["name"] == "recall-qmix-mast_80-seed1")
    run["curve"] = {**run["curve"], "win_rate": [None] * len(run["curve"]["step"])}
    report = build(results)
    assert {row.measure for row in report.tasks["recall", "qmix"]} == {"return_mean"}
    assert {row.measure for row in report.tasks["two_step", "qmix"]} == {"win_rate"}
    assert report.overall == {} and report.measure == "score"
    page = to_html(report)
    assert "Critical sparsity:" not in page and "Score over sparsity" in page and "recall, QMIX (return)" in page
    recall = marl_eval(results)["matrix"]["recall"].values()
    assert {name for runs in recall for seed in runs.values() for name in seed["absolute_metrics"]} == {
        "return", "episode_length"
    }  # fmt: skip


def test_a_run_that_asks_for_returns_makes_its_task_a_comparison_of_returns(swept):
    results = collect([swept])
    for config in results["configs"]:
        if config["env.map"] == "recall" and config["method"] == "dense":
            config["train.score"] = "return"
    report = build(results)
    assert {row.measure for row in report.tasks["recall", "qmix"]} == {"return_mean"}
    assert {row.measure for row in report.tasks["two_step", "qmix"]} == {"win_rate"}


def test_without_a_dense_row_the_first_one_is_the_reference(swept):
    results = collect([swept])
    results["runs"] = [r for r in results["runs"] if results["configs"][r["config"]]["method"] != "dense"]
    for run in results["runs"]:
        run["curve"] = {**run["curve"], "win_rate": [0.2 + 0.2 * run["seed"]] * len(run["curve"]["step"])}
    rows = build(results).tasks["recall", "qmix"]
    first, other = rows[:2]
    assert first.share == 1.0 and first.improvement is None and other.improvement is not None
    page = to_html(build(results))
    assert f"of {first.name}</th>" in page and "of dense</th>" not in page


def test_rows_that_differ_in_their_rate_alone_are_no_curve_over_sparsity(swept):
    results = collect([swept])
    final = [r for r in results["runs"] if r["phase"] == "final"]
    sparse = next(r for r in final if results["configs"][r["config"]]["method"] == "mast")
    same = results["configs"][sparse["config"]]
    results["runs"] = [sparse, {**sparse, "row": "faster", "config": len(results["configs"])}]
    results["configs"].append({**same, "train.lr": 2 * same["train.lr"]})
    assert "over sparsity" not in to_html(build(results))


def test_bench_measures_every_row_in_every_round(swept, tmp_path):
    shutil.copytree(swept, tmp_path / "s")
    for path in tmp_path.glob("s/*/bench.json"):
        path.unlink()
    said = []
    bench_runs([tmp_path / "s"], said.append)
    found = collect([tmp_path / "s"])["bench"]
    assert set(found) == {f"recall/qmix/{row}" for row in ("dense", "mast 50%", "mast 80%")} | {
        f"two_step/qmix/{row}" for row in ("dense", "mast 80%")
    }
    for group, row in found.items():
        assert len(row["rounds_us"]) == ROUNDS and row["rows_together"] == 5 and row["run"].endswith("seed0")
        assert min(row["rounds_us"]) <= row["latency_us"] <= max(row["rounds_us"]) and row["measured_s"] > 0
        assert not group.endswith("dense") or row["latency_us"] == row["dense_latency_us"]
    assert found["recall/qmix/mast 80%"]["size_bytes"] < found["recall/qmix/dense"]["size_bytes"]
    assert len(said) == 10


@pytest.mark.parametrize("text", [None, "{", '{"format": "other"}'])
def test_a_wrong_path_is_one_clear_line(tmp_path, text):
    path = tmp_path / "results.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as error:
        write_report([path], tmp_path / "report")
    assert "\n" not in str(error.value) and str(path) in str(error.value) and not (tmp_path / "report").exists()


class Page(HTMLParser):
    """What a browser made of the page: text, and how many of each element with each class."""

    def __init__(self, html):
        super().__init__()
        self.counts, self.words, self._silent = {}, [], 0
        self.attributes = []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self._silent += tag in ("script", "style")
        self.attributes.append((tag, dict(attrs)))
        for name in (tag, *(f"{tag}.{c}" for c in (dict(attrs).get("class") or "").split())):
            self.counts[name] = self.counts.get(name, 0) + 1

    def handle_endtag(self, tag):
        self._silent -= tag in ("script", "style")

    def handle_data(self, data):
        if not self._silent:
            self.words.append(data)


PROBE_HEAD = "<script>window.faults=[];window.addEventListener('error',e=>faults.push(e.message));</script></head>"
PROBE_END = """<script>
const before = root.dataset.theme;
document.getElementById("theme").click();
const key = document.querySelector('#curves [data-toggle="dense"]');
key.click();
const rows = (kind) => [...document.querySelectorAll(`#curves g.${kind}`)].map((g) => g.dataset.row);
const lit = () => {
  document.querySelector('#curves [data-toggle="mast 80%"]').dispatchEvent(new PointerEvent("pointerenter"));
  return [[...new Set(rows("lit"))], rows("dim").includes("dense"), rows("dim").includes("mast 80%")];
};
document.body.dataset.probe = JSON.stringify({
  faults, themes: [before, root.dataset.theme],
  colours: getComputedStyle(document.body).backgroundColor,
  hidden: document.querySelectorAll("#curves figure g.hidden").length,
  wide: document.documentElement.scrollWidth > window.innerWidth,
  lit: lit(),
  masks: [...document.querySelectorAll("details[open] .mask img")].filter((i) => i.naturalWidth > 0).length,
  outside: performance.getEntriesByType("resource").map((r) => r.name).filter((n) => !n.startsWith("data:")),
});
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_the_page_in_a_real_browser(report, tmp_path):
    html = (report / "report.html").read_text().replace("</head>", PROBE_HEAD, 1).replace("</body>", PROBE_END)
    (tmp_path / "page.html").write_text(html)
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1280,900",
        f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=5000",
        "--dump-dom", (tmp_path / "page.html").as_uri(),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert not re.search(r"CONSOLE.*", result.stderr), result.stderr
    page = Page(result.stdout)
    probe = json.loads(next(a["data-probe"] for tag, a in page.attributes if tag == "body"))
    assert probe["faults"] == [] and probe["outside"] == [] and not probe["wide"]
    assert set(probe["themes"]) == {"light", "dark"} and probe["hidden"] == 1
    assert probe["lit"] == [["mast 80%"], True, False]
    for title in (
        "Scores", "Learning curves", "Probability of improvement", "Win rate over sparsity", "Win rate against latency",
        "Cost", "Estimated and realised value", "Connections that carry nothing", "Which connections survive",
        "Learning rates tried",
    ):  # fmt: skip
        assert title in page.text, title
    assert page.counts["section"] == 10
    curves, front_and_sparsity, values, idle, degrees = 2, 2, 2, 2, 2 * 3
    drawn = page.counts["svg"] - page.counts["svg.swatch"]
    assert drawn == curves + front_and_sparsity + values + idle + degrees
    assert page.counts["polyline.thin"] >= 10 and page.counts["polygon.band"] == 5
    assert probe["masks"] == 2 * (5 + 2)
    assert "Critical sparsity: mast" in page.text and "mast report" in page.text
    links = {a["download"]: a["href"] for tag, a in page.attributes if tag == "a" and "download" in a}
    assert set(links) == {"results.json", "marl-eval.json", "report.md"}
    for name, link in links.items():
        assert base64.b64decode(link.partition("base64,")[2]).strip() == (report / name).read_bytes().strip()


def test_sections_without_data_are_left_out(swept):
    results = collect([swept / "two_step-qmix-mast_80-seed0"])
    assert results["runs"][0]["row"] == "mast 80%"
    results["masks"], results["runs"][0]["costs"] = {}, None
    page = to_html(build(results))
    assert re.findall(r'<section id="(\w+)"', page) == ["scores", "curves", "values", "idle"]
