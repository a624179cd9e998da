"""Several policies in one image: every name has its prefix, no state is another's, on the host and on bare chips."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from networks import random_bundle, with_noise
from test_c_export import STRICT, compiler, record, run
from test_c_fixed import WARNED
from test_c_fixed import write as write_fixed

from mast_export.c.build import find_compiler
from mast_export.c.source import check_prefix
from mast_export.errors import ExportError
from mast_export.export import export_run
from mast_export.formats.c import export_c
from mast_export.quantise import quantise
from mast_runtime import Bundle

CORTEX = Path(__file__).resolve().parent.parent / "benchmarks" / "cortex_m"
bare = pytest.mark.skipif(
    not (shutil.which("arm-none-eabi-gcc") and shutil.which("qemu-system-arm") and shutil.which("make")),
    reason="apt install gcc-arm-none-eabi qemu-system-arm make",
)
SIZES = {"left_arm": (24, 11), "right_arm": (53, 29)}
"""Hidden units and observations; the second is what would be written past in a state of the first's size."""


def recorded(bundle, steps, dtype):
    """An episode, with the noise of weights of this type."""
    return with_noise(record(bundle, steps), quantise(bundle, dtype), dtype)


@pytest.fixture(scope="module")
def policies() -> dict[str, Bundle]:
    return {
        prefix: random_bundle(len(prefix), 1, obs_dim, hidden=hidden, sparsity=0.9)
        for prefix, (hidden, obs_dim) in SIZES.items()
    }


def write(policies, folder: Path, dtypes, steps=30) -> Path:
    """Both policies as exports of their own, below `folder`."""
    folder.mkdir()
    for (prefix, bundle), dtype in zip(policies.items(), dtypes, strict=True):
        export_c(bundle, folder / prefix, 0, recorded(bundle, steps, dtype), dtype, prefix)
    return folder


def on_chip(folder: Path, chip: str, *arguments: str) -> str:
    command = ["make", "-s", "-C", str(CORTEX), "run", f"POLICY={folder}", f"CHIP={chip}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-500:]
    return done.stdout


@compiler
@pytest.mark.parametrize("dtypes", [("f32", "i8"), ("i8", "f16")])
def test_two_policies_of_different_sizes_in_one_image(policies, dtypes, tmp_path):
    folder = write(policies, tmp_path / "both", dtypes)
    sources = [path for path in sorted(folder.rglob("*.c")) if "test" not in path.parts]
    includes = [f"-I{path}" for path in [*folder.glob("*/src"), *folder.glob("*/test")]]
    defines = [f"-D{prefix.upper()}_SELFTEST" for prefix in SIZES]
    flags = [*STRICT[:-1], "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = [*find_compiler(), *flags, *includes, *defines, *sources, CORTEX / "pair.c", "-o", tmp_path / "pair"]
    subprocess.run(command, check=True)
    run(tmp_path / "pair")


@bare
@pytest.mark.parametrize("chip", ["m4f", "m0"])
def test_two_policies_on_a_bare_chip(policies, chip, tmp_path):
    folder = write(policies, tmp_path / "both", ("f32", "i8"), 12)
    on_chip(folder, chip, "MAIN=pair.c")


@bare
def test_fixed_point_on_a_bare_chip_has_the_references_bits(tmp_path):
    """And takes little: less than 800 bytes of RAM, fewer than a fifteenth of soft float's instructions."""
    bundle = random_bundle(1, 1, 66, 14, hidden=64, sparsity=0.95)
    trace = record(bundle, 12)
    integers = write_fixed(bundle, 0, tmp_path / "c", trace)
    said = on_chip(tmp_path / "c", "m0")
    rows = [line.split() for line in said.splitlines() if re.match(r"\d+( [0-9a-f]{8})+$", line)]
    actions, q, hidden = integers.play(trace.agent(0))
    found = np.array([[int(word, 16) for word in row[1:]] for row in rows], np.uint32).view(np.int32)
    assert np.array_equal(found, np.concatenate([q, hidden], 1)) and [int(row[0]) for row in rows] == actions.tolist()
    figure = {name: int(number) for name, number in re.findall(r"^([a-z ]+): (\d+)$", said, re.MULTILINE)}
    assert figure["bytes of stack"] + figure["bytes of state"] < 800
    assert 20_000 < figure["instructions per step"] < 50_000


@bare
@pytest.mark.parametrize("chip", ["m4f", "m0"])
def test_the_count_of_instructions_goes_beyond_24_bits(chip, tmp_path):
    said = on_chip(tmp_path, chip, "MAIN=count.c", f"OUT={tmp_path}/count")
    assert 6_000_000 <= int(said.split()[0]) <= 6_001_000


@pytest.mark.parametrize("dtype", ["f32", "i8"])
def test_every_name_has_the_prefix(policies, dtype, tmp_path):
    """In the code, but for comments, nothing is called policy; file names and macros have the prefix too."""
    (file,) = export_c(
        policies["left_arm"], tmp_path / "c", 0, recorded(policies["left_arm"], 20, dtype), dtype, "left_arm"
    )
    paths = [path for path in file.path.rglob("*") if path.is_file()]
    named = {path.name for path in paths if path.suffix in (".c", ".h", ".ino")}
    assert named and all(name.startswith("left_arm") for name in named)
    for path in paths:
        assert not re.search(r"@\w+@", path.read_text()), path
        if path.suffix in (".c", ".h"):
            code = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
            assert not re.search("policy", code, re.IGNORECASE), path
    header = (file.path / "src" / "left_arm.h").read_text()
    macros = re.findall(r"#define (\w+)|^ {4}([A-Z]\w+) = ", header, re.MULTILINE)
    assert len(macros) >= 7 and all("".join(name).startswith("LEFT_ARM_") for name in macros)
    if shutil.which("nm") and find_compiler():
        subprocess.run([*find_compiler(), *WARNED, "-c", "left_arm.c"], cwd=file.path / "src", check=True)
        listing = run("nm", "-g", "left_arm.o", prefix=("env", "-C", str(file.path / "src"))).stdout
        public = [line.split()[-1] for line in listing.splitlines() if " U " not in line]
        assert public and all(name.startswith("left_arm_") for name in public)


def test_a_team_gets_a_prefix_each(tmp_path):
    bundle = random_bundle(3, hidden=16)
    files = export_c(bundle, tmp_path / "team", None, record(bundle, 20), "f32", "arm")
    assert [file.path.name for file in files] == ["arm_0", "arm_1", "arm_2"]
    assert [(file.path / "src" / f"{file.path.name}.h").is_file() for file in files] == [True] * 3


@pytest.mark.parametrize("prefix", ["Left", "2nd", "_a", "a-b", "a b", "é", "stdint", "x" * 41, "a;b", "a.b"])
def test_what_cannot_begin_a_name_is_refused(prefix, tmp_path):
    bundle = random_bundle(3, hidden=8)
    with pytest.raises(ExportError, match="use a lower-case letter"):
        export_c(bundle, tmp_path / "c", 0, record(bundle, 3), "f32", prefix)
    assert not (tmp_path / "c").exists() and check_prefix("left_arm2") == "left_arm2"


def test_a_format_without_source_takes_no_prefix():
    with pytest.raises(ExportError, match=r"--prefix left with --format onnx: it writes no source; use --format c"):
        export_run(Path("run"), Path("snapshot"), "onnx", prefix="left")


@compiler
def test_a_wrong_table_fails_the_self_test(policies, tmp_path):
    """On the target nobody compares bits: eight recorded steps must notice one changed row of weights."""
    for dtype in ("f32", "i8"):
        (file,) = export_c(
            policies["left_arm"], tmp_path / dtype, 0, recorded(policies["left_arm"], 200, dtype), dtype, "left_arm"
        )
        source = file.path / "src"
        (source / "main.c").write_text('#include "left_arm.h"\nint main(void) { return left_arm_selftest(); }\n')
        build = [*find_compiler(), "-DLEFT_ARM_SELFTEST", "left_arm.c", "left_arm_selftest.c", "main.c", "-o", "try"]
        subprocess.run(build, cwd=source, check=True)
        assert subprocess.run([source / "try"]).returncode == 0
        text = (source / "left_arm.c").read_text()
        table = re.search(r"(fc2_bias|q_biases)\[\] = \{\s*(-?[\d.e+-]+)", text)
        assert table
        wrong = text[: table.start(2)] + {"f32": "99.0", "i8": "99999999"}[dtype] + text[table.end(2) :]
        (source / "left_arm.c").write_text(wrong)
        subprocess.run(build, cwd=source, check=True)
        assert subprocess.run([source / "try"]).returncode == 1
