"""What `pip install` brings: exactly our three packages, with all assets and the licence."""

import configparser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PACKAGES = ("t2i", "pipelines", "train")
FILES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")


@pytest.fixture(scope="module")
def wheel(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    # A copy, so that the build leaves nothing in the repository.
    source = tmp_path_factory.mktemp("source")
    for name in FILES:
        shutil.copy(repo / name, source)
    for name in PACKAGES:
        shutil.copytree(repo / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    build = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert build.returncode == 0, build.stdout[-2000:] + build.stderr[-2000:]
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def dist_info(wheel: zipfile.ZipFile) -> str:
    (name,) = {n.split("/")[0] for n in wheel.namelist() if ".dist-info/" in n}
    return name


def test_the_top_level_is_exactly_our_packages(wheel: zipfile.ZipFile) -> None:
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert top == {*PACKAGES, dist_info(wheel)}


def test_every_module_and_asset_is_in_the_wheel(wheel: zipfile.ZipFile, repo: Path) -> None:
    present = {
        path.relative_to(repo).as_posix()
        for package in PACKAGES
        for path in (repo / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in wheel.namelist() if not name.startswith(dist_info(wheel))}
    assert packed == present


def test_the_console_script_is_the_command_line(wheel: zipfile.ZipFile) -> None:
    parser = configparser.ConfigParser()
    parser.read_string(wheel.read(f"{dist_info(wheel)}/entry_points.txt").decode())
    assert dict(parser["console_scripts"]) == {"t2i": "t2i.cli:main"}


def test_licence_and_notice_come_along(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    for name in ("LICENSE", "NOTICE"):
        assert f"{dist_info(wheel)}/licenses/{name}" in names
    metadata = wheel.read(f"{dist_info(wheel)}/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata


def test_the_pictures_carry_their_licence(wheel: zipfile.ZipFile) -> None:
    licence = wheel.read("t2i/assets/scenes/LICENSE").decode()
    assert "Copyright (c) Microsoft Corporation" in licence
