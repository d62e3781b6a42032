"""The scripts that make wheels for boards refuse what a board could not install or load."""

import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.support import loaded
from tests.test_release import wheel

FOLDER = Path(__file__).parents[1] / "ansible" / "wheels"


wheelhouse = loaded(FOLDER / "wheelhouse.py")


def _wheel(folder: Path, name: str, *needs: str) -> Path:
    return wheel(folder, name, "".join(f"Requires-Dist: {need}\n" for need in needs))


@pytest.mark.parametrize(
    ("there", "faults"),
    [
        ("fast-2.0-cp311-cp311-manylinux_2_28_aarch64.whl", []),
        ("fast-2.0-cp38-abi3-manylinux_2_17_aarch64.whl", []),
        ("fast-2.0-py3-none-any.whl", []),
        ("fast-1.0-py3-none-any.whl", ['agent needs fast>=2; extra == "engine"']),
        ("fast-2.0-cp312-cp312-manylinux_2_28_aarch64.whl", ['agent needs fast>=2; extra == "engine"']),
        ("fast-2.0-cp311-cp311-manylinux_2_28_x86_64.whl", ['agent needs fast>=2; extra == "engine"']),
        ("fast-2.0-cp311-cp311-manylinux_2_38_aarch64.whl", ['agent needs fast>=2; extra == "engine"']),
    ],
)
def test_a_wheel_that_no_board_can_install_counts_as_missing(tmp_path: Path, there: str, faults: list[str]) -> None:
    agent = _wheel(tmp_path, "agent-1.0-py3-none-any.whl", 'fast>=2; extra == "engine"', 'thing; extra == "dev"')
    found = wheelhouse.missing([agent, _wheel(tmp_path, there)], "aarch64", (3, 11))
    assert found == [f"Python 3.11 on aarch64: {fault}" for fault in faults]


def test_boards_of_a_pool_find_its_client_and_a_requirement_of_one_python_counts_for_that_alone(tmp_path: Path) -> None:
    needs = ('client; extra == "pool"', 'older; python_version < "3.13"')
    agent = _wheel(tmp_path, "agent-1.0-py3-none-any.whl", *needs)
    for minor, missing in ((12, needs), (13, needs[:1])):
        found = wheelhouse.missing([agent], "x86_64", (3, minor))
        assert found == [f"Python 3.{minor} on x86_64: agent needs {need}" for need in missing]


def test_requirements_name_every_wheel_of_a_version_by_its_hash(tmp_path: Path) -> None:
    wheels = [_wheel(tmp_path, f"b-1.0-cp3{minor}-cp3{minor}-linux_aarch64.whl") for minor in (11, 12)]
    wheels[1].write_bytes(b"other")
    wheels.append(_wheel(tmp_path, "A_b-2.0-py3-none-any.whl"))
    text = wheelhouse.requirements(wheels)
    assert text == wheelhouse.requirements(wheels[::-1])
    assert [line for line in text.splitlines() if "==" in line] == ["a-b==2.0 \\", "b==1.0 \\"]
    assert text.count("--hash=sha256:") == 3


def test_a_wheel_whose_hash_the_lock_file_does_not_have_is_refused(tmp_path: Path) -> None:
    wheels = [_wheel(tmp_path, name) for name in ("A_b-2.0-py3-none-any.whl", "c-1.0-py3-none-any.whl")]
    lock = wheelhouse.requirements(wheels)
    assert wheelhouse.unlocked(wheels, lock) == []
    wheels[1].write_bytes(b"other")
    assert wheelhouse.unlocked(wheels, lock) == ["not in lock.txt: c-1.0-py3-none-any.whl; make lock"]


def test_the_lock_file_has_a_version_that_the_project_allows_of_all_that_boards_need() -> None:
    text = wheelhouse.LOCK.read_text("utf-8")
    locked = [Requirement(line) for line in re.findall(r"^\S+==\S+", text, flags=re.MULTILINE)]
    versions = {one.name: next(iter(one.specifier)).version for one in locked}
    assert [str(one) for one in locked] == [f"{name}=={version}" for name, version in sorted(versions.items())]
    project = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    for text in (*project["dependencies"], *(text for extra in wheelhouse.EXTRAS for text in extras[extra])):
        needed = Requirement(text)
        if needed.name == "llama-cpp-python":
            # Its wheel is built from the source package that sources.sha256 names.
            continue
        assert versions[canonicalize_name(needed.name)] in needed.specifier, text


def _check(folder: Path, arch: str, *, glibc: str = "2.35") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / "check_symbols.py"), str(folder), arch]
    limits = ["--glibc", glibc, "--glibcxx", "3.4.30"]
    return subprocess.run([*command, *limits], capture_output=True, text=True, check=False)


def _library(folder: Path, name: str, source: str, *words: str) -> None:
    folder.mkdir(exist_ok=True)
    command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-x", "c", "-o", str(folder / name), "-"]
    subprocess.run([*command, *words], input=source, text=True, check=True)


def test_a_library_that_needs_a_newer_system_or_another_library_is_named(tmp_path: Path) -> None:
    here = platform.machine()
    other = "x86_64" if here == "aarch64" else "aarch64"
    beside = tmp_path / "beside"
    _library(beside, "libother.so.1", "int other(void) { return 1; }")
    _library(
        tmp_path / "wheel",
        "libours.so",
        '#include <stdio.h>\nint other(void); int ours(void) { return puts("") + other(); }',
        *("-x", "none", str(beside / "libother.so.1")),
    )

    alone = _check(tmp_path / "wheel", here)
    assert alone.returncode == 1
    assert "libours.so needs libother.so.1, which is neither" in alone.stdout

    _library(tmp_path / "wheel", "libother.so.1", "int other(void) { return 1; }")
    both = _check(tmp_path / "wheel", here)
    assert (both.returncode, both.stdout.startswith(f"2 libraries for {here} need GLIBC ")) == (0, True)

    assert "libours.so needs GLIBC 2." in _check(tmp_path / "wheel", here, glibc="2.1").stdout
    assert f"libours.so is not for {other}" in _check(tmp_path / "wheel", other).stdout


def test_a_folder_without_libraries_is_refused(tmp_path: Path) -> None:
    assert _check(tmp_path, "aarch64").returncode == 1


def test_the_demonstration_starts_from_its_own_folder_whatever_cdpath_says(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    (folder / "env" / "bin").mkdir(parents=True)
    (folder / "env" / "complete").touch()
    program = folder / "env" / "bin" / "edge-agent"
    program.write_text('#!/bin/sh\necho "$@"\n', "utf-8")
    program.chmod(0o755)
    shutil.copy(FOLDER / "demo.sh", folder)
    environment = {"PATH": os.defpath, "CDPATH": "."}
    done = subprocess.check_output(["sh", "a b/demo.sh", "--keep"], cwd=tmp_path, env=environment, text=True)
    assert done == f"demo --work {folder}/pc --keep\n"
