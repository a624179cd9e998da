"""The folder of a C export as a library: built by CMake, read as Arduino, PlatformIO, Zephyr and ESP-IDF read it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from networks import random_bundle
from test_c_export import record

from mast_export.c.build import find_compiler
from mast_export.formats.c import export_c

yaml = pytest.importorskip("yaml", reason="pip install pyyaml")
cmake = pytest.mark.skipif(not (shutil.which("cmake") and find_compiler()), reason="apt install cmake gcc")
NAMES = {"src": {"left_arm.c", "left_arm.h", "left_arm_selftest.c"}, "test": {"left_arm_test.c", "left_arm_trace.h"}}
ARDUINO = """\
#include <stddef.h>
#include <stdio.h>
struct {
    void begin(long) {}
    void println(const char *x) { puts(x); }
    void println(int x) { printf("%d\\n", x); }
} Serial;
static void delay(int) {}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    bundle = random_bundle(3, hidden=16)
    path = tmp_path_factory.mktemp("library") / "left_arm"
    export_c(bundle, path, 1, record(bundle, 20), "i8", "left_arm")
    return path


def build(folder: Path, where: Path, *arguments: str) -> str:
    """Configured and built; what CMake said."""
    said = run("cmake", "-S", folder, "-B", where, *arguments)
    return said + run("cmake", "--build", where)


def run(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@cmake
def test_cmake_builds_it_and_its_test_passes(folder, tmp_path):
    build(folder, tmp_path / "build", "-DLEFT_ARM_SELFTEST=ON", "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON")
    assert "100% tests passed" in run("ctest", "--test-dir", tmp_path / "build")


@cmake
def test_a_firmware_takes_it_by_add_subdirectory(folder, tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(firmware C)\nset(LEFT_ARM_SELFTEST ON)\n"
        f"add_subdirectory({folder} left_arm)\nadd_executable(firmware main.c)\n"
        "target_link_libraries(firmware PRIVATE left_arm)\n"
    )
    (tmp_path / "main.c").write_text('#include "left_arm.h"\nint main(void) { return left_arm_selftest(); }\n')
    build(tmp_path, tmp_path / "build")
    run(tmp_path / "build" / "firmware")
    assert not list((tmp_path / "build").rglob("left_arm_test*"))


@cmake
@pytest.mark.parametrize("system", ["esp", "zephyr", "zephyr, not chosen"])
def test_the_other_systems_of_cmake_are_given_every_source(system, folder, tmp_path):
    """Their functions replaced by ones that say what they are given."""
    told = "idf_component_register", "zephyr_library_named", "zephyr_library_sources", "zephyr_include_directories"
    functions = "".join(f'function({name})\n message("{name} ${{ARGN}}")\nendfunction()\n' for name in told)
    functions += 'function(zephyr_compile_definitions)\n message("defined ${ARGN}")\nendfunction()\n'
    chosen = {"esp": "set(ESP_PLATFORM 1)", "zephyr": "set(ZEPHYR_BASE /z)\nset(CONFIG_LEFT_ARM y)"}
    chosen["zephyr, not chosen"] = "set(ZEPHYR_BASE /z)"
    script = tmp_path / "as.cmake"
    script.write_text(
        f"{functions}{chosen[system]}\nset(CONFIG_LEFT_ARM_SELFTEST y)\ninclude({folder}/CMakeLists.txt)\n"
    )
    done = subprocess.run(["cmake", "-P", script], capture_output=True, text=True, timeout=60)
    sources = "src/left_arm.c;src/left_arm_selftest.c"
    expected = {
        "esp": f"idf_component_register SRCS;{sources};INCLUDE_DIRS;src\n",
        "zephyr": f"zephyr_library_named left_arm\nzephyr_library_sources {sources}\nzephyr_include_directories src\n"
        "defined LEFT_ARM_SELFTEST\n",
        "zephyr, not chosen": "",
    }
    assert done.returncode == 0 and done.stderr == expected[system]


def test_what_each_manifest_promises_is_there(folder):
    """The keys that each system's schema demands, and paths that exist."""
    for place, names in NAMES.items():
        assert {path.name for path in (folder / place).iterdir()} == names
    lines = (folder / "library.properties").read_text().splitlines()
    properties = dict(line.split("=", 1) for line in lines)
    wanted = {"name", "version", "author", "maintainer", "sentence", "paragraph", "category", "url", "architectures"}
    assert wanted <= set(properties) and properties["category"] == "Device Control"
    assert re.fullmatch(r"[A-Za-z0-9][\w .-]*", properties["name"]) and "avr" not in properties["architectures"].split(
        ","
    )
    assert (folder / "src" / properties["includes"]).is_file()
    library = json.loads((folder / "library.json").read_text())
    assert (folder / "src" / library["headers"]).is_file() and library["build"]["srcDir"] == "src"
    (example,) = library["examples"]
    assert (folder / example["base"] / example["files"][0]).is_file()
    component = yaml.safe_load((folder / "idf_component.yml").read_text())
    module = yaml.safe_load((folder / "zephyr" / "module.yml").read_text())
    assert set(module) == {"name", "build"} and (folder / module["build"]["kconfig"]).is_file()
    assert (folder / module["build"]["cmake"] / "CMakeLists.txt").is_file()
    versions = {properties["version"], library["version"], component["version"]}
    assert len(versions) == 1 and re.fullmatch(r"\d+\.\d+\.\d+", versions.pop())
    symbols = re.findall(r"^config (\w+)$", (folder / "zephyr" / "Kconfig").read_text(), re.MULTILINE)
    assert symbols == ["LEFT_ARM", "LEFT_ARM_SELFTEST"]


@pytest.mark.skipif(not shutil.which("g++"), reason="no g++")
def test_the_arduino_sketch_is_cpp_that_runs(folder, tmp_path):
    """Compiled as the Arduino builder does: Arduino.h before it, the library's C files beside it."""
    sketch = (folder / "examples" / "left_arm" / "left_arm.ino").read_text()
    (tmp_path / "sketch.cpp").write_text(f"{ARDUINO}{sketch}\nint main() {{ setup(); loop(); }}\n")
    objects = []
    for name in ("left_arm", "left_arm_selftest"):
        objects.append(tmp_path / f"{name}.o")
        run("gcc", "-DLEFT_ARM_SELFTEST", "-c", folder / "src" / f"{name}.c", "-o", objects[-1])
    flags = ("-DLEFT_ARM_SELFTEST", "-Wall", "-Wextra", "-Werror", f"-I{folder / 'src'}")
    run("g++", *flags, tmp_path / "sketch.cpp", *objects, "-o", tmp_path / "sketch")
    passed, action = run(tmp_path / "sketch").split("\n")[:2]
    assert passed == "self-test passed" and 0 <= int(action) < 7


def test_a_name_that_no_manifest_could_hold(tmp_path):
    """Names of agents and maps are words of YAML, JSON, properties and Kconfig."""
    from mast_export.c.library import library

    files = library({}, "arm", 'a: "b"\nc=#{}', {"env": "x\n- y", "map": "'é'"})
    assert yaml.safe_load(files["idf_component.yml"])["description"] == json.loads(files["library.json"])["description"]
    assert "\nc=" not in files["library.properties"] and "\n- y" not in files["zephyr/Kconfig"]
