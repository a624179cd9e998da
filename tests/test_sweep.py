"""Sweep files to cells: what is compared, what is tuned, and what a wrong file is told."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from mast_train.settings.errors import UserError
from mast_train.settings.methods import preset
from mast_train.sweeps.sweep import choose_rate, final_cells, load_sweep, parse_sweep, tuning_cells

ROOT = Path(__file__).resolve().parent.parent
TINY = """
[set]
env.name = "matrix"
env.num_envs = 8
net.hidden = 16
train.eval_episodes = 16
replay.capacity = 200
"""


ROWS = "[rows.r]\nmethod = 'mast'\n"
TUNE = "[tune]\nrates = [1e-3]\nsteps = 1\n"


def parsed(text):
    return parse_sweep(tomllib.loads(text), "file")


def finals(text, rates=()):
    return {cell.name: cell.config for cell in final_cells(parsed(text), dict(rates))}


def test_axes_cross_and_a_dense_row_ignores_sparsity_and_block():
    cells = finals("""
        sweep = { seeds = [3, 4], steps = 1000, evaluations = 10 }
        [axes]
        map = ["3m", "8m"]
        method = ["dense", "mast"]
        sparsity = [0.9, 0.975]
        block = ["1x1", "16x1"]
        [rows."wide"]
        method = "rigl"
        map = "3m"
        net.hidden = 128
        """)
    assert len(cells) == 2 * (2 * (1 + 4) + 1)
    cell = cells["8m-qmix-mast_97.5_16x1-seed4"]
    assert (cell.seed, cell.env.map, cell.sparse.agent_sparsity, cell.sparse.block.gru) == (4, "8m", 0.975, 16)
    assert (cell.train.total_steps, cell.train.eval_interval) == (1000, 100)
    assert cells["3m-qmix-dense-seed3"].sparse.agent_sparsity == 0.0
    assert cells["3m-qmix-wide-seed3"].net.hidden == 128 and "8m-qmix-wide-seed3" not in cells
    assert [name[-5:] for name in cells][:11] == ["seed3"] * 11


def test_the_most_specific_setting_wins():
    cells = finals("""
        sweep = { steps = 1000 }
        set = { net.hidden = 32, train.target_interval = 50, train.gamma = 0.9 }
        axes = { map = ["3m", "2s3z"], algorithm = ["qmix", "vdn"] }
        [maps.2s3z]
        steps = 2000
        seeds = [0, 1]
        rows = ["a"]
        train.target_interval = 40
        train.gamma = 0.8
        [rows.a]
        method = "mast"
        train.gamma = 0.7
        [rows.b]
        method = "rigl"
        steps = 500
        """)
    assert set(cells) == {
        f"{cell}-seed{seed}" for algorithm in ("qmix", "vdn")
        for cell, seed in ((f"3m-{algorithm}-a", 0), (f"3m-{algorithm}-b", 0), (f"2s3z-{algorithm}-a", 0),
                           (f"2s3z-{algorithm}-a", 1))
    }  # fmt: skip
    a, b, far = (cells[name] for name in ("3m-qmix-a-seed0", "3m-vdn-b-seed0", "2s3z-qmix-a-seed0"))
    assert (a.net.hidden, a.train.target_interval, a.train.gamma, a.train.total_steps) == (32, 50, 0.7, 1000)
    assert (b.algorithm, b.train.gamma, b.train.total_steps) == ("vdn", 0.9, 500)
    assert (far.train.target_interval, far.train.gamma, far.train.total_steps) == (40, 0.7, 2000)


def test_every_algorithm_the_tickets_and_an_input_floor_are_rows():
    cells = finals("""
        set = { sparsity = 0.9 }
        [axes]
        algorithm = ["qmix", "owqmix", "cwqmix", "res"]
        method = ["dense", "tiny", "mast"]
        sparse.input_floor = [0.0, 2.0]
        [rows."the masks of mast"]
        method = "ticket-winning"
        algorithm = "res"
        sparse.masks_from = "runs/first/3m-res-mast-seed0"
        [rows."random masks"]
        method = "ticket-random"
        algorithm = "res"
        """)
    assert len(cells) == 4 * (1 + 1 + 2) + 2
    assert cells["3m-cwqmix-mast_input_floor_2.0-seed0"].sparse.input_floor == 2.0
    assert cells["3m-cwqmix-dense-seed0"].sparse.input_floor == 0.0
    ticket = cells["3m-res-the_masks_of_mast-seed0"]
    assert (ticket.algorithm, ticket.sparse.masks_from) == ("res", "runs/first/3m-res-mast-seed0")
    assert cells["3m-res-random_masks-seed0"].sparse.agent_sparsity == 0.9


TUNED = """
    sweep = { steps = 1000, seeds = [0, 1] }
    axes = { map = ["3m", "8m"] }
    tune = { rates = [1e-3, 5e-4], seeds = [7, 8], steps = 100, map = "3m" }
    rows.mast.method = "mast"
    rows.off = { method = "mast", replay.recent_batch = 0, rate_of = "mast" }
    rows.fixed = { method = "rigl", train.lr = 3e-3 }
    """


def test_tuning_tries_every_rate_and_its_choice_goes_to_the_rows_that_name_it():
    sweep = parsed(TUNED)
    tuning = {cell.name: cell.config for cell in tuning_cells(sweep)}
    assert set(tuning) == {f"tune-3m-qmix-mast-lr{rate}-seed{seed}" for rate in ("0.001", "0.0005") for seed in (7, 8)}
    assert {config.train.total_steps for config in tuning.values()} == {100}
    assert {cell.row for cell in final_cells(sweep, {})} == {"fixed"}
    rates = {cell.name: cell.config.train.lr for cell in final_cells(sweep, {"3m/qmix/mast": 5e-4})}
    assert len(rates) == 12
    assert all(rate == (3e-3 if "fixed" in name else 5e-4) for name, rate in rates.items())


def test_the_rate_with_the_best_mean_is_chosen():
    assert choose_rate({1e-3: [0.5, 0.5], 2e-3: [0.9, 0.2], 5e-4: [0.1, 0.2]}) == 2e-3
    assert choose_rate({2e-3: [0.5], 1e-3: [0.5]}) == 1e-3


def test_a_number_of_seeds_is_how_many():
    """From 0 on, those of tuning from 100 on."""
    rows = "[rows.s]\nmethod = 'set'\nseeds = 1\n[rows.t]\nmethod = 'rigl'\nseeds = [7]\n"
    sweep = parsed(f"sweep.seeds = 3\n{ROWS}{rows}{TUNE}seeds = 2")
    assert [group.seeds for group in sweep.groups] == [(0, 1, 2), (0,), (7,)]
    assert sweep.tuning.seeds == (100, 101) and parsed(f"{ROWS}{TUNE}").tuning.seeds == (100,)


def test_every_table_may_name_the_algorithm():
    text = "set.algorithm = 'vdn'\n[rows.r]\nmethod = 'mast'\n[rows.s]\nmethod = 'set'\nalgorithm = 'iql'"
    assert [group.algorithm for group in parsed(text).groups] == ["vdn", "iql"]
    assert [group.algorithm for group in parsed(f"axes.algorithm = ['qmix', 'res']\n{text}").groups] == [
        "qmix", "res", "iql"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("no rows", "[axes]")),
        ("sweeps = {}", ("sweeps", "sweep")),
        ("[sweep]\nseed = 3", ("seed", "seeds")),
        ("[axes]\nsparsity = [0.9]", ("no method",)),
        ('[axes]\nmethod = ["mats"]', ("mats", "mast")),
        ('[axes]\nmethod = ["mast"]\n[set]\ntrain.lrr = 1', ("train.lrr", "train.lr", "'mast' on 3m")),
        ('[axes]\nmethod = ["mast"]\n[sweep]\nseeds = [1, 1]', ("seeds", "different")),
        ('[axes]\nmethod = ["mast"]\n[sweep]\nsteps = 0', ("steps", "above 0")),
        ('[axes]\nmethod = ["mast"]\n[sweep]\nname = "a/b"', ("a/b",)),
        ('[axes]\nmethod = ["mast"]\n[maps.3m]\nrows = ["rigl"]', ("rigl", "mast")),
        ('[rows.d]\nmethod = "dense"\nsparsity = 0.9', ("'d' on 3m", "dense")),
        ('[rows.t]\nmethod = "ticket-winning"', ("'t' on 3m", "sparse.masks_from")),
        ('[axes]\nmethod = ["mast"]\nalgorithm = ["qmixx"]', ("qmixx", "qmix")),
        ('[rows."a b"]\nmethod = "mast"\n[rows."a_b"]\nmethod = "mast"', ("a_b", "rename")),
        ('[rows.a]\nmethod = "mast"\nrate_of = "b"', ("rate_of", "[tune]")),
        ('[rows.a]\nmethod = "mast"\nrate_of = "b"\n[tune]\nrates = [1e-3]\nsteps = 1', ("'b'", "'a'")),
        ('[axes]\nmethod = ["mast"]\n[tune]\nrates = []\nsteps = 1', ("rates", "5e-4")),
        ("[axes", ("not valid TOML",)),
        (f"{ROWS}[maps.3mm]\nsteps = 10", ("[maps.3mm]", "did you mean '3m'")),
        (f"{ROWS}[maps]\n3m = 10", ("maps.3m = 10", "table")),
        (f"{ROWS}[maps.3m]\nalgorithm = 'vdn'", ("[maps.3m] algorithm", "[axes]")),
        (f"{ROWS}[maps.3m]\nseed = 1", ("[maps.3m] seed", "`seeds`")),
        (f"{ROWS}[set]\nseed = 1", ("[set] seed", "`seeds`")),
        (f"{ROWS}seed = 1", ("row 'r' seed", "`seeds`")),
        (f"{ROWS}env.map = '3m'", ("row 'r' env.map", "`map`")),
        (f"{ROWS}map = '3m'\n[set]\nenv.map = '3m'", ("[set] env.map",)),
        (f"{ROWS}[set]\ntrain.total_steps = 9\n[sweep]\nsteps = 10", ("[set] train.total_steps", "`steps`")),
        (f"{ROWS}train.eval_interval = 9\n[sweep]\nevaluations = 2", ("train.eval_interval", "`evaluations`")),
        (f"{ROWS}{TUNE}map = '3mm'", ("tune.map = '3mm'", "did you mean '3m'")),
        (f"{ROWS}{TUNE}[set]\ntrain.lr = 0.1", ("[set] train.lr", "[tune] chooses")),
        (f"{ROWS}{TUNE}[maps.3m]\ntrain.lr = 0.1", ("[maps.3m] train.lr", "[tune] chooses")),
        (f"{ROWS}train.lr = 0.1\n{TUNE}", ("[tune] would change nothing", "every row")),
        (f"{ROWS}map = '3m'\n[rows.s]\nmethod = 'set'\nmap = '8m'\n{TUNE}map = '8m'", ("3m/qmix/r", "8m/qmix/r")),
        (f"{ROWS}[sweep]\nseeds = 0", ("seeds", "how many")),
        (f"{ROWS}seeds = -1", ("seeds", "how many")),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path, text, words):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(UserError) as error:
        final_cells(load_sweep(tmp_path / "s.toml"), {})
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words), error.value


def test_every_sweep_file_of_the_repository_is_valid():
    files = sorted((ROOT / "sweeps").glob("*.toml"))
    assert files
    for file in files:
        sweep = load_sweep(file)
        assert sweep.groups and (tuning_cells(sweep) or final_cells(sweep, {}))


def test_a_cell_is_an_ordinary_configuration():
    config = final_cells(parsed('axes.method = ["mast"]'), {})[0].config
    assert config == preset("mast")
