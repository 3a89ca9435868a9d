"""The files of the page: small, of our own, and each of them used."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "t2i" / "server" / "page"
FILES = [path for path in PAGE.rglob("*") if path.is_file()]
MODULES = [path for path in FILES if path.suffix == ".js"]


def test_the_page_is_below_300_kilobytes() -> None:
    assert sum(path.stat().st_size for path in FILES) < 300_000


def test_each_module_is_below_350_lines() -> None:
    long = {path.name for path in MODULES if len(path.read_text().splitlines()) > 350}
    assert long == set()


def test_nothing_is_inline_or_from_elsewhere() -> None:
    html = (PAGE / "index.html").read_text()
    assert re.findall(r"<style|<script(?![^>]*\bsrc=)|\bstyle=|\bon[a-z]+=", html) == []
    for path in FILES:
        if path.suffix in (".html", ".css", ".js"):
            addresses = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", path.read_text())
            assert [one for one in addresses if "w3.org" not in one] == [], path.name


def test_no_module_parses_text_as_markup() -> None:
    for path in MODULES:
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|\beval\(", path.read_text())


def test_every_module_is_imported() -> None:
    imported = {(PAGE / "app" / "main.js").resolve()}
    for path in MODULES:
        for name in re.findall(r'from "(\.[^"]+)"', path.read_text()):
            assert (path.parent / name).is_file(), f"{path.name} imports {name}"
            imported.add((path.parent / name).resolve())
    assert {path.resolve() for path in MODULES} == imported


def test_every_icon_and_style_exists() -> None:
    html = (PAGE / "index.html").read_text()
    for name in re.findall(r'(?:href|src)="([^"#]+)"', html):
        assert (PAGE / name).is_file(), name
    for path in MODULES:
        known = re.findall(r"^  (\w+): \"M", (PAGE / "app" / "dom.js").read_text(), re.MULTILINE)
        assert set(re.findall(r'icon\("(\w+)"\)', path.read_text())) <= set(known), path.name
