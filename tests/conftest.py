"""One thread per process: networks of this size gain nothing from more, and waiting threads starve a busy machine.

`--quick` leaves SLOW out; `--random-games 500` trains on more random environments than a change has to pass.
"""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

SLOW = {
    "test_install": (), "test_training": (), "test_sweep_run": (), "test_smax": (), "test_seeds": (),
    "test_algorithms": (), "test_train_sanitizers": (), "test_c_export": (), "test_play": (), "test_report": (),
    "test_doctor": (), "test_hostile_bundle": (), "test_rounds": (), "test_fused": (), "test_benchmarks": (),
    "test_imports": ("test_a_command_names_the_package_that_it_needs", "test_a_run_goes_on_without_tensorboard"),
    "test_train_levels": (), "test_smac_game": (), "test_smac_install": (), "test_scaling": (), "test_web": (),
    "test_smac": (
        "test_ctrl_c_while_a_game_is_waited_for_ends_it", "test_a_resumed_run_does_not_repeat_its_first_episodes",
        "test_training_and_evaluation_take_turns_on_one_set_of_games", "test_a_failing_game_is_reported_on_one_line",
    ),
    "test_import": (), "test_ros": (), "test_serve_robot": (), "test_mamujoco": (),
    "test_together": (), "test_c_prefix": (), "test_c_fixed": (), "test_c_library": (), "test_control": (),
    "test_import_pruning": (), "test_continuous_runs": (), "test_facmac": (), "test_comix": (), "test_fused_engine": (),
    "test_due": (), "test_fused_optimise": (), "test_web_kinds": (), "test_c_search": (),
    "test_continuous_envs": (), "test_feed_forward": (), "test_graphs": (), "test_serve": ("test_cap_and_idle_limit",),
    "test_cli": (
        "test_the_run_folder_holds_what_it_says", "test_export_eval_inspect_bench", "test_export_formats",
        "test_names_with_brackets_are_printed_as_they_are", "test_interrupt_saves_and_resume_continues",
        "test_seeds_in_one_process_become_runs_of_their_own", "test_mistakes_end_in_one_line_and_exit_code_2",
        "test_a_name_for_several_seeds_is_a_stem_and_folders_that_exist_stop_all", "test_doctor_and_show_config",
        "test_a_file_that_cannot_be_written_is_named_as_the_user_named_it",
        "test_settings_and_runs_are_looked_at_without_torch", "test_what_an_environment_prints_is_not_the_answer",
    ),
    "test_native": ("test_lanes_as_reference", "test_nothing_leaks"), "test_native_sanitizers": (),
    "test_train_native": ("test_sizes", "test_masks_and_groups"),
    "test_pettingzoo": ("test_the_example_is_learned",),
    "test_recipes": (
        "test_an_instruction_set_is_one_file_and_one_line", "test_a_method_row_is_one_line",
        "test_an_algorithm_is_one_file_and_one_line", "test_an_environment_is_one_file_and_one_line",
    ),
    "test_random_games": (), "test_c_bounded": (), "test_c_fixed_kinds": (), "test_c_ranges": (),
    "test_search_runs": (), "test_continuous_kernels": (), "test_twins": (), "test_compact": (), "test_compact_mlp": (),
    "test_without_numpy": (),
    "test_wheels": (), "test_packed": (), "test_storage": (), "test_selftest": (), "test_tickets": (),
    "test_serve_errors": ("test_fuzzed_bodies_never_break_the_server",),
}  # fmt: skip
"""File -> the tests of it that take long; none named: all."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="leave out what takes long (SLOW in tests/conftest.py)")
    parser.addoption("--random-games", type=int, default=12, help="how many random environments are trained on")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--quick"):
        return
    slow = [item for item in items if is_slow(item.path.stem, item.name.partition("[")[0])]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


def is_slow(file: str, test: str) -> bool:
    """Whether --quick leaves it out."""
    return file in SLOW and (not SLOW[file] or test in SLOW[file])


@pytest.fixture
def one_thread():
    """One thread of torch whatever an earlier test has set."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
