"""A C policy as a library: one folder that CMake, Arduino, PlatformIO, Zephyr and ESP-IDF take as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mast_export.c.source import makefile
from mast_runtime import __version__

VERSION = "1.0.0"
ARCHITECTURES = "esp32,esp8266,mbed,mbed_edge,mbed_giga,mbed_nano,mbed_nicla,mbed_opta,mbed_portenta,mbed_rp2040,nrf52,"
ARCHITECTURES += "renesas_portenta,renesas_uno,rp2040,sam,samd,stm32,teensy"
"""Arduino's names of cores. avr is not among them: it would copy the tables to its RAM."""

CMAKE = """\
# For plain CMake (add_subdirectory, or this folder alone for its test), as an ESP-IDF component, as a Zephyr module.
if(ESP_PLATFORM)
  idf_component_register(SRCS src/@prefix@.c src/@prefix@_selftest.c INCLUDE_DIRS src)
elseif(ZEPHYR_BASE)
  if(CONFIG_@PREFIX@)
    zephyr_library_named(@prefix@)
    zephyr_library_sources(src/@prefix@.c src/@prefix@_selftest.c)
    zephyr_include_directories(src)
    if(CONFIG_@PREFIX@_SELFTEST)
      zephyr_compile_definitions(@PREFIX@_SELFTEST)
    endif()
  endif()
else()
  cmake_minimum_required(VERSION 3.13)
  project(@prefix@ VERSION @version@ LANGUAGES C)
  option(@PREFIX@_SELFTEST "Compile @prefix@_selftest" OFF)
  add_library(@prefix@ STATIC src/@prefix@.c src/@prefix@_selftest.c)
  target_include_directories(@prefix@ PUBLIC src)
  set_target_properties(@prefix@ PROPERTIES C_STANDARD 99)
  if(@PREFIX@_SELFTEST)
    target_compile_definitions(@prefix@ PUBLIC @PREFIX@_SELFTEST)
  endif()
  if(CMAKE_SOURCE_DIR STREQUAL CMAKE_CURRENT_SOURCE_DIR AND NOT CMAKE_CROSSCOMPILING)
    enable_testing()
    add_executable(@prefix@_test test/@prefix@_test.c)
    target_link_libraries(@prefix@_test PRIVATE @prefix@)
    add_test(NAME @prefix@ COMMAND @prefix@_test)
  endif()
endif()
"""

KCONFIG = """\
config @PREFIX@
@tab@bool "The policy @prefix@"
@tab@help
@tab@  @sentence@

config @PREFIX@_SELFTEST
@tab@bool "The self-test of @prefix@"
@tab@depends on @PREFIX@
@tab@help
@tab@  Compile @prefix@_selftest, which plays recorded steps.
"""

MODULE = """\
name: @prefix@
build:
  cmake: .
  kconfig: zephyr/Kconfig
"""

COMPONENT = """\
version: "@version@"
description: "@sentence@"
files:
  exclude:
    - "examples/**/*"
    - "test/**/*"
"""

PROPERTIES = """\
name=@prefix@
version=@version@
author=mast export
maintainer=mast export
sentence=@sentence@
paragraph=A neural network, sparse, without heap and without libraries. See @prefix@.h.
category=Device Control
url=https://pypi.org/project/mast-marl/
architectures=@architectures@
includes=@prefix@.h
"""

SKETCH = """\
// The policy @prefix@ on an Arduino: an observation in, an action out, ten times a second.
// Build with -D@PREFIX@_SELFTEST to let it first play recorded steps and compare.
#include <@prefix@.h>

static @prefix@_state state;
static float obs[@PREFIX@_OBS];

static void readSensors()
{
    for (int i = 0; i < @PREFIX@_OBS; i++)
        obs[i] = 0.0f;  // the observation as the policy was trained on it
}

void setup()
{
    Serial.begin(115200);
    @prefix@_reset(&state);  // and at the start of each episode
#ifdef @PREFIX@_SELFTEST
    Serial.println(@prefix@_selftest() == 0 ? "self-test passed" : "self-test FAILED");
#endif
}

void loop()
{
    readSensors();
@decision@
    delay(100);
}
"""

CHOICE = """\
    const int action = @prefix@_act(&state, obs, NULL);
    if (action < 0)
        Serial.println("no action: stop");
    else
        Serial.println(action);"""

CONTINUOUS = """\
    float action[@PREFIX@_ACTIONS];
    if (@prefix@_act(&state, obs, action) != 0)
        Serial.println("no action: stop");
    else
        for (int i = 0; i < @PREFIX@_ACTIONS; i++)
            Serial.println(action[i]);"""

TEXTS = {
    "CMakeLists.txt": CMAKE,
    "zephyr/module.yml": MODULE,
    "zephyr/Kconfig": KCONFIG,
    "idf_component.yml": COMPONENT,
    "library.properties": PROPERTIES,
    "examples/@prefix@/@prefix@.ino": SKETCH,
}


def library(
    files: Mapping[str, str], prefix: str, agent: str, info: Mapping[str, Any], continuous: bool = False
) -> dict[str, str]:
    """The files of source.generate in their places, and what each build system reads, by path in the folder.

    continuous: its actions are.
    """
    words = {
        "decision": CONTINUOUS if continuous else CHOICE,
        "tab": "\t",
        "prefix": prefix,
        "PREFIX": prefix.upper(),
        "version": VERSION,
        "sentence": _sentence(agent, info),
        "architectures": ARCHITECTURES,
    }
    placed = {f"{'test' if name.endswith(('_test.c', '_trace.h')) else 'src'}/{name}": x for name, x in files.items()}
    made = {_fill(name, words): _fill(text, words) for name, text in TEXTS.items()}
    return placed | made | {"library.json": _platformio(prefix, words["sentence"]), "Makefile": makefile(prefix)}


def _sentence(agent: str, info: Mapping[str, Any]) -> str:
    """One line without what YAML, JSON or Kconfig would read as more than a word."""
    where = " ".join(str(info[key]) for key in ("env", "map") if info.get(key))
    words = f"The policy of {agent}{f', trained on {where}' if where else ''}, by mast-marl {__version__}"
    return "".join(x if x.isascii() and (x.isalnum() or x in " ._,-") else "_" for x in words)


def _platformio(prefix: str, sentence: str) -> str:
    manifest = {
        "name": prefix,
        "version": VERSION,
        "description": sentence,
        "keywords": ["reinforcement learning", "policy", "neural network"],
        "headers": f"{prefix}.h",
        "frameworks": "*",
        "platforms": "*",
        "build": {"srcDir": "src", "includeDir": "src"},
        "examples": [{"name": prefix, "base": f"examples/{prefix}", "files": [f"{prefix}.ino"]}],
    }
    return json.dumps(manifest, indent=2) + "\n"


def _fill(text: str, words: Mapping[str, str]) -> str:
    for name, word in words.items():
        text = text.replace(f"@{name}@", word)
    return text
