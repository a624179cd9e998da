"""What a compiled module says of itself, and what is wrong with it for the platform tag that its wheel is to have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from elftools.elf.constants import E_FLAGS
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from macholib.MachO import MachO

MACHINES = {"x86_64": ("EM_X86_64", 64), "aarch64": ("EM_AARCH64", 64), "armv7l": ("EM_ARM", 32)}
"""Of a Linux tag -> ELF machine and word."""
MAC_MACHINES = {"x86_64": 0x01000007, "arm64": 0x0100000C}
"""Of a macOS tag -> Mach-O cputype."""
GLIBC = {
    "libc.so.6", "libm.so.6", "libpthread.so.0",
    "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "ld-linux-armhf.so.3",
}  # fmt: skip
MUSL = {"libc.so"}
MAC = {"/usr/lib/libSystem.B.dylib"}
LC_BUILD_VERSION, LC_CODE_SIGNATURE = 0x32, 0x1D


class Tag(NamedTuple):
    """A platform tag: manylinux_2_17_aarch64 is ("manylinux", (2, 17), "aarch64")."""

    system: str
    version: tuple[int, int]
    machine: str


def parse_tag(tag: str) -> Tag:
    """Raises ValueError."""
    found = re.fullmatch(r"(manylinux|musllinux|macosx)_(\d+)_(\d+)_(\w+)", tag)
    if found is None:
        raise ValueError(f"platform tag {tag!r}: expected, for example, manylinux_2_17_aarch64")
    system, major, minor, machine = found.groups()
    return Tag(system, (int(major), int(minor)), machine)


def problems(module: Path, tag: str) -> list[str]:
    """Why a compiled module must not be in a wheel of this tag; empty when it may."""
    wanted = parse_tag(tag)
    found = _mac_problems(module, wanted) if wanted.system == "macosx" else _linux_problems(module, wanted)
    return [f"{module.name}: {problem}" for problem in found]


def _linux_problems(module: Path, tag: Tag) -> list[str]:
    """Another machine, a float ABI that is not armhf's, libraries or symbols that such a system need not have."""
    with module.open("rb") as file:
        if file.read(4) != b"\x7fELF":
            return ["not an ELF file"]
        elf = ELFFile(file)
        machine, bits = MACHINES[tag.machine]
        found = []
        if (elf["e_machine"], elf.elfclass) != (machine, bits):
            found.append(f"for {elf['e_machine']} of {elf.elfclass} bits, expected {machine} of {bits}")
        if machine == "EM_ARM" and not elf["e_flags"] & E_FLAGS.EF_ARM_ABI_FLOAT_HARD:
            found.append("floats are not passed in registers, as armhf passes them")
        needed = {
            entry.needed for section in _sections(elf, DynamicSection) for entry in section.iter_tags("DT_NEEDED")
        }
        if foreign := needed - (GLIBC if tag.system == "manylinux" else MUSL):
            found.append(f"needs {', '.join(sorted(foreign))}")
        versions = [
            version.name
            for section in _sections(elf, GNUVerNeedSection)
            for _, versions in section.iter_versions()
            for version in versions
        ]
        if tag.system == "musllinux" and versions:
            found.append(f"needs versions of symbols, which musl has not: {', '.join(sorted(set(versions)))}")
        if tag.system == "manylinux":
            newer = {name for name in versions if _glibc(name) > tag.version}
            found += [f"needs {name}, newer than {'.'.join(map(str, tag.version))}" for name in sorted(newer)]
    return found


def _sections(elf: ELFFile, kind: type) -> list:
    return [section for section in elf.iter_sections() if isinstance(section, kind)]


def _glibc(version: str) -> tuple[int, ...]:
    """GLIBC_2.2.5 -> (2, 2, 5); what is no version of glibc is newer than any."""
    found = re.fullmatch(r"GLIBC_(\d+(?:\.\d+)+)", version)
    return tuple(map(int, found[1].split("."))) if found else (1_000_000,)


def _mac_problems(module: Path, tag: Tag) -> list[str]:
    """Another machine, a newer system, libraries that are not the system's, no signature where macOS asks for one."""
    try:
        headers = MachO(str(module)).headers
    except ValueError:
        return ["not a Mach-O file"]
    found = []
    for header in headers:
        if header.header.cputype != MAC_MACHINES[tag.machine]:
            found.append(f"cputype {header.header.cputype:#x}, expected {tag.machine}")
        libraries = {name for _, _, name in header.walkRelocatables()}
        if foreign := libraries - MAC:
            found.append(f"needs {', '.join(sorted(foreign))}")
        oldest = [command.minos for load, command, _ in header.commands if load.cmd == LC_BUILD_VERSION]
        if not oldest:
            found.append("does not say which macOS it is for")
        if tag.machine == "arm64" and not any(load.cmd == LC_CODE_SIGNATURE for load, _, _ in header.commands):
            found.append("not signed, and arm64 runs nothing that is not")
        found += [f"for macOS {m >> 16}.{m >> 8 & 255}" for m in oldest if (m >> 16, m >> 8 & 255) > tag.version]
    return found
