"""The header that counts inputs out of range: compiled, beside the runtime's counter."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import numpy as np
import pytest
from networks import observed, random_bundle
from test_c_export import record
from test_c_fixed import fixed

from mast_export.c import ranges
from mast_export.c.build import find_compiler
from mast_export.errors import ExportError
from mast_export.formats.c import export_c
from mast_export.observed import Seen, with_inputs
from mast_runtime import Layer

MAIN = """
#include "left_arm_ranges.h"
#include <stdio.h>
int main(void)
{
    static uint32_t counts[LEFT_ARM_OBS];
    static TYPE obs[LEFT_ARM_OBS];
    unsigned long total = 0;
    counts[0] = UINT32_MAX - 2;
    while (fread(obs, sizeof obs, 1, stdin) == 1) {
        const int found = COUNT(obs, counts);
        if (found != COUNT(obs, NULL))
            return 1;
        total += (unsigned long)found;
    }
    printf("%lu", total);
    for (int i = 0; i < LEFT_ARM_OBS; i++)
        printf(" %lu", (unsigned long)counts[i]);
    return 0;
}
"""
STRICT = ("-O2", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-ffast-math")
LANGUAGES = {"C99": ("-xc", "-std=c99"), "C++17": ("-xc++", "-std=c++17")}
pytestmark = pytest.mark.skipif(not find_compiler(), reason="no C compiler")


def team(obs_dim=20):
    """A team whose inputs have units of many sizes, begin or end at zero or are constant, and what it recorded."""
    bundle, units = random_bundle(5, obs_dim=obs_dim, hidden=12), 4.0 ** (np.arange(obs_dim) % 6 - 2)

    def in_units(network):
        weight = network.fc1.dense()
        weight[:, :obs_dim] /= units
        return replace(network, fc1=Layer.from_dense(weight, network.fc1.mask()))

    bundle = replace(bundle, networks=tuple(map(in_units, bundle.networks)))
    trace = record(bundle, change=lambda n: np.diag(units))
    named = [[(f"input */ {i} \\", "m") for i in range(obs_dim)]] * 3
    bundle = with_inputs(bundle, Seen.of(trace.obs), named)
    sides = [np.array(x) for x in (bundle.networks[1].inputs.low, bundle.networks[1].inputs.high)]
    for side, values in zip(sides, ((0.0, -1.0, 0.5, 0.0, -1e6), (1.0, 0.0, 0.5, 0.0, 1e6)), strict=True):
        side[:5] = values
    inputs = replace(bundle.networks[1].inputs, low=sides[0], high=sides[1])
    networks = bundle.networks[0], replace(bundle.networks[1], inputs=inputs), bundle.networks[2]
    return replace(bundle, networks=networks), trace


def hard(inputs) -> np.ndarray:
    """Observations [T,O] at and about every limit, both zeros, and random ones."""
    low, high = (np.array(side, np.float32) for side in inputs.limits())
    rows = [low, high, np.full_like(low, 0.0), np.full_like(low, -0.0)]
    for limit in (low, high):
        rows += [np.nextafter(limit, np.float32(side)) for side in (-3e38, 3e38)]
    rng = np.random.default_rng(0)
    return np.array([*rows, *(rng.standard_normal((50, len(low))) * 2.0 ** rng.integers(-9, 9, (50, 1)))], np.float32)


def count(folder, language, obs, type_, function):
    (folder / "main.c").write_text(MAIN.replace("TYPE", type_).replace("COUNT", function))
    flags = (*STRICT, *LANGUAGES[language], f"-I{folder / 'src'}")
    command = [*find_compiler(), *flags, "-o", folder / "count", folder / "main.c"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    done = subprocess.run([folder / "count"], input=obs.tobytes(), capture_output=True, check=True, timeout=60)
    total, *counts = map(int, done.stdout.split())
    return total, counts


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("dtype", ["f32", "i8"])
def test_c_counts_what_python_counts(dtype, language, tmp_path):
    bundle, trace = team()
    export_c(bundle, tmp_path / "c", 1, trace, dtype, "left_arm", True)
    obs, agent = hard(bundle.networks[1].inputs), bundle.agent(1, "reference")
    for row in obs:
        agent.act(row)
    total, counts = count(tmp_path / "c", language, obs, "float", "left_arm_out_of_range")
    expected = agent.out_of_range_counts.tolist()
    assert total == sum(expected) > 100 and min(expected) >= 0 and max(expected) < len(obs)
    assert counts == [2**32 - 1, *expected[1:]], "a count stops at its largest value"


def test_both_zeros_are_one_limit():
    low, high = ranges._ordered(*np.array([[0.0, -0.0, -1e-45], [0.0, -0.0, 1e-45]], np.float32))
    assert low.tolist() == [-1, -1, -2] and high.tolist() == [0, 0, 1]


def test_integers_are_counted_as_their_values(tmp_path):
    bundle, trace = team()
    export_c(bundle, tmp_path / "c", 1, trace, "i8", "left_arm", True)
    bits = fixed(bundle, trace, 1).obs_bits.astype(int)
    assert len(set(bits)) > 2
    integers = np.clip(np.rint(hard(bundle.networks[1].inputs) * 2.0**bits), -32767, 32767).astype(np.int16)
    agent, half = bundle.agent(1, "reference"), 0.5 * 2.0**-bits
    low, high = bundle.networks[1].inputs.limits()
    for row in integers * 2.0**-bits:  # an integer stands for all that is rounded to it
        agent.act(np.where((row + half < low) | (row - half > high), row, np.clip(row, low, high)))
    total, counts = count(tmp_path / "c", "C99", integers, "int16_t", "left_arm_out_of_range_i16")
    assert total == agent.out_of_range > 100 and counts[1:] == agent.out_of_range_counts[1:].tolist()


def test_what_training_saw_is_never_counted_however_coarse_the_integers():
    rng = np.random.default_rng(0)
    for bits in (-3, 0, 4, 7):
        low = rng.uniform(-40, 40, 50).astype(np.float32)
        high = low + np.where(np.arange(50) % 2, 0.0, rng.uniform(0, 0.1, 50)).astype(np.float32)
        below, above = ranges._integers(low, high, np.full(50, bits, np.int8))
        seen = np.rint(rng.uniform(low, high, (200, 50)).astype(np.float32) * 2.0**bits)
        assert (seen >= below).all() and (seen <= above).all() and (above - below <= 0.1 * 2.0**bits + 1).all()


def test_it_is_there_only_where_it_is_asked_for(tmp_path):
    bundle, trace = team()
    export_c(bundle, tmp_path / "c", None, trace)
    assert not list((tmp_path / "c").rglob("*range*"))
    export_c(bundle, tmp_path / "c", None, trace, counted=True)
    found = sorted(path.relative_to(tmp_path / "c").as_posix() for path in (tmp_path / "c").rglob("*range*"))
    assert found == [f"agent_{k}/src/policy_ranges.h" for k in range(3)]
    with pytest.raises(ExportError, match="says nothing of the range"):
        export_c(random_bundle(5, hidden=12), tmp_path / "d", 1, trace, counted=True)


def test_the_header_names_the_inputs(tmp_path):
    bundle = observed(random_bundle(5, hidden=12))
    export_c(bundle, tmp_path / "c", 1, record(bundle, 40), counted=True)
    assert "}, /* 3 (input 3) */" in (tmp_path / "c" / "src" / "policy_ranges.h").read_text()
