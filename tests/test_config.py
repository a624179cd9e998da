"""Settings: TOML round trip, precedence, and one clear line for every mistake."""

from __future__ import annotations

import pytest

from mast_train.envs.base import EnvSpec
from mast_train.networks.build import tiny_widths
from mast_train.settings.config import Config, flatten, override, parse_assignments, parse_toml, to_toml
from mast_train.settings.errors import UserError
from mast_train.settings.limits import validate
from mast_train.settings.methods import METHODS, RECIPES, preset, resolve


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_preset_is_valid_and_survives_toml(method, recipe):
    config = preset(method, recipe)
    config = validate(override(config, {"sparse.masks_from": "runs/x"}) if method == "ticket-winning" else config)
    assert parse_toml(to_toml(config)) == config
    assert (config.method, config.recipe) == (method, recipe)


def test_a_recipe_has_a_method_where_none_is_named(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text('recipe = "paper"\nnet.hidden = 32\n')
    for config, method, drop in (
        (resolve(None, {}, []), "mast-active", "idle"),
        (resolve(None, {"recipe": "paper"}, []), "mast", "magnitude"),
        (resolve(file, {}, []), "mast", "magnitude"),
        (resolve(file, {"recipe": "modern"}, []), "mast-active", "idle"),
        (resolve(file, {"method": "rigl"}, []), "rigl", "magnitude"),
    ):
        assert (config.method, config.sparse.drop) == (method, drop)
    with pytest.raises(UserError, match="recipe"):
        resolve(None, {"recipe": "papr"}, [])
    assert (resolve(None, {"recipe": "shared"}, []).method, preset("mast").net.shared) == ("mast-double", False)
    file.write_text("train.lr = 0.003\n")
    assert resolve(file, {"method": "mast"}, []).train.lr == resolve(file, {}, []).train.lr == 0.003


def test_dense_and_sparse_rows_share_all_but_what_the_table_names():
    dense, ss = flatten(preset("dense")), flatten(preset("ss"))
    different = {key for key in dense if dense[key] != ss[key]}
    assert different == {"method", "sparse.agent_sparsity", "sparse.mixer_sparsity", "train.lr"}


def test_paper_recipe():
    mast, rigl = preset("mast", "paper"), preset("rigl", "paper")
    assert (mast.train.optimizer, mast.train.lr, mast.env.num_envs, mast.sparse.update_interval) == (
        "rmsprop",
        5e-4,
        1,
        200,
    )
    assert mast.target.returns == "td_lambda" and mast.target.start * mast.train.total_steps == 750_000
    assert rigl.target.returns == "one_step" and mast.replay.recent_capacity * 50 == mast.replay.capacity


def test_precedence(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('method = "rigl"\n[train]\nlr = 0.002\ntotal_steps = 7000\n[env]\nmap = "8m"\n')
    config = resolve(file, {"env.map": "2s3z", "sparsity": 0.9, "block": "16x1"}, ["train.lr=3e-3", "target.omega=5"])
    assert config.method == "rigl" and config.replay.recent_batch == 0
    assert (config.train.total_steps, config.env.map, config.train.lr, config.target.omega) == (
        7000,
        "2s3z",
        0.003,
        5.0,
    )
    assert config.sparse.agent_sparsity == config.sparse.mixer_sparsity == 0.9
    assert (config.sparse.block.gru, config.sparse.block.fc1) == (16, 1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: override(Config(), {"train.lrr": 1.0}), ("train.lrr", "train.lr")),
        (lambda: override(Config(), {"train": 1.0}), ("train", "section")),
        (lambda: override(Config(), {"seed.x": 1}), ("seed.x", "no section")),
        (lambda: override(Config(), {"train.lr": "fast"}), ("train.lr", "a number")),
        (lambda: override(Config(), {"train.lr": float("nan")}), ("train.lr", "nan")),
        (lambda: override(Config(), {"seed": True}), ("seed", "whole number")),
        (lambda: override(Config(), {"seed": 1.5}), ("seed", "whole number")),
        (lambda: validate(override(Config(), {"sparse.agent_sparsity": 1.0})), ("sparse.agent_sparsity", "0.999")),
        (lambda: validate(override(Config(), {"train.lr": float("inf")})), ("train.lr",)),
        (lambda: validate(override(Config(), {"target.operator": "mellomax"})), ("mellowmax",)),
        (lambda: validate(preset("ticket-winning")), ("--masks", "masks_from")),
        (lambda: validate(override(Config(), {"sparse.masks_from": "runs/x"})), ("'mast-active'", "ticket-winning")),
        (lambda: resolve(None, {"method": "ticket-winning", "sparsity": 0.9}, []), ("--sparsity", "--masks")),
        (lambda: validate(override(Config(), {"replay.recent_batch": 64})), ("recent_batch", "32")),
        (
            lambda: validate(override(Config(), {"env.num_envs": 3, "train.episodes_per_update": 2})),
            ("num_envs", "whole number"),
        ),
        (
            lambda: validate(override(Config(), {"env.num_envs": 6000})),
            ("env.num_envs = 6000", "replay.capacity, 5000"),
        ),
        (
            lambda: validate(override(Config(), {"env.num_envs": 4, "train.episodes_per_update": 0.75})),
            ("num_envs", "0.75"),
        ),
        (lambda: validate(override(Config(), {"seed": -1})), ("seed", "-1")),
        (lambda: resolve(None, {}, ["block=8"]), ("8", "16x1")),
        (lambda: resolve(None, {}, ["method=5"]), ("5", "mast")),
        (lambda: preset("mats"), ("mats", "mast")),
        (lambda: preset("mast", "papr"), ("papr", "paper")),
        (lambda: parse_toml("a = ["), ("TOML",)),
        (lambda: parse_toml("speed = 1"), ("speed",)),
        (lambda: parse_assignments(["lr"]), ("key=value",)),
        (lambda: resolve(None, {"block": "8x2"}, []), ("8x2", "16x1")),
        (lambda: resolve(None, {"method": "dense", "sparsity": 0.9}, []), ("dense",)),
    ],
)
def test_mistakes_are_one_line(make, words):
    with pytest.raises(UserError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_tiny_has_about_as_many_weights_as_the_sparse_row():
    spec = EnvSpec("smax", "3m", 3, 75, 72, 8, 101, ("marine",) * 3)
    tiny = tiny_widths(preset("tiny"), spec)
    assert tiny.sparse.tiny_of == 0.0 and parse_toml(to_toml(tiny)) == tiny
    h, e, k = tiny.net.hidden, tiny.mixer.embed, tiny.mixer.hypernet_hidden
    agent = h * 83 + 6 * h * h + 8 * h
    full = 64 * 83 + 6 * 64 * 64 + 8 * 64
    assert agent <= 0.05 * full < (h + 1) * 83 + 6 * (h + 1) ** 2 + 8 * (h + 1)
    mixer = 72 * k + k * 3 * e + 72 * k + k * e + 72 * e + 72 * e + e
    assert 0.6 * 0.05 < mixer / (72 * 64 + 64 * 96 + 72 * 64 + 64 * 32 + 72 * 32 * 2 + 32) <= 0.05


def test_another_row_beside_a_file_keeps_what_only_recipes_decide(tmp_path):
    file = tmp_path / "shared.toml"
    file.write_text(to_toml(override(preset("mast-double", "shared"), {"net.hidden": 32, "env.num_envs": 4})))
    rigl = resolve(file, {"method": "rigl"}, [])
    assert (rigl.method, rigl.net.hidden, rigl.net.shared, rigl.env.num_envs) == ("rigl", 32, True, 4)


def test_a_row_named_beside_a_file_decides_what_rows_decide(tmp_path):
    file = tmp_path / "mast.toml"
    file.write_text(to_toml(override(preset("mast"), {"env.map": "8m", "net.hidden": 32})))
    dense = resolve(file, {"method": "dense"}, [])
    assert flatten(dense) == flatten(override(preset("dense"), {"env.map": "8m", "net.hidden": 32}))
    assert resolve(file, {}, []).method == "mast"
    shared = resolve(file, {"recipe": "shared"}, [])
    assert (shared.net.shared, shared.net.hidden) == (True, 128)
    paper = resolve(file, {"recipe": "paper"}, [])
    assert (paper.train.optimizer, paper.env.num_envs, paper.env.map) == ("rmsprop", 1, "8m")


def test_options_of_an_environment_are_a_table_of_its_own(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('[env]\nname = "smac"\n[env.options]\ndifficulty = 7\nnested = {a = [1, 2]}\n')
    config = resolve(file, {}, ["env.options.difficulty=9", "env.options.nested.b=true"])
    assert config.env.options == {"difficulty": 9, "nested": {"a": [1, 2], "b": True}}
    assert config.env.reward_scale == 1.0
    assert parse_toml(to_toml(config)) == config == override(Config(), flatten(config))
    with pytest.raises(UserError, match="expected a table"):
        resolve(None, {}, ["env.options=3"])
    with pytest.raises(UserError, match=r"env\.options: expected numbers"):
        validate(resolve(None, {}, ["env.options.when=2026-01-01"]))


def test_an_environment_in_one_word():
    assert resolve(None, {"env.name": "smax:8m"}, []).env.map == "8m"
    vmas = resolve(None, {"env.name": "vmas"}, []).env
    assert (vmas.map, vmas.reward_scale) == ("navigation", 1.0)
    assert resolve(None, {"env.name": "vmas"}, ["env.reward_scale=5"]).env.reward_scale == 5.0


def test_an_environment_without_a_map_takes_its_first():
    assert resolve(None, {"env.name": "matrix"}, []).env.map == "two_step"
    assert resolve(None, {"env.name": "matrix", "env.map": "recall"}, []).env.map == "recall"


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("lr", "did you mean 'train.lr'?"),
        ("embed", "did you mean 'mixer.embed' or 'wqmix.embed'?"),
        ("train.steps", "did you mean 'train.total_steps'?"),
        ("train.learning_rate", "expected one of: train.total_steps, train.optimizer, train.lr, "),
        ("sweep.steps", "mast train --show-config prints every key"),
    ],
)
def test_an_unknown_key_is_told_where_to_look(key, advice):
    with pytest.raises(UserError) as caught:
        override(Config(), {key: 1})
    assert str(caught.value).startswith(f"unknown config key '{key}': {advice}")


def test_a_mistake_in_a_file_names_the_file():
    with pytest.raises(UserError, match=r"^mine\.toml: unknown config key 'trian\.lr'"):
        parse_toml("[trian]\nlr = 1", source="mine.toml")


@pytest.mark.parametrize(
    ("text", "value"),
    [("False", False), ("True", True), ("TRUE", True), ("false", False), ("[True, False]", [True, False]),
     ("{'a': True}", {"a": True}), ("(1, 2)", [1, 2]), ("8m", "8m"), ("1e-3", 1e-3), ("'8m'", "8m"), ("01", "01")],
)  # fmt: skip
def test_values_are_read_as_toml_or_python_writes_them(text, value):
    read = parse_assignments([f"env.options.x={text}"])["env.options.x"]
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize("text", ["None", "[1, None]", "{'a': [None]}"])
def test_none_is_refused(text):
    with pytest.raises(UserError, match="cannot be None"):
        parse_assignments([f"env.options.x={text}"])
