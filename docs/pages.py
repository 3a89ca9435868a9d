"""The pages as a program reads them: README and docs/*.md, their blocks, links and anchors."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{p.name}" for p in REPO.glob("docs/*.md")))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE_OR_LINK = re.compile(
    r"^```.*?^```|`[^`\n]*`|(?<=\]\()(?P<target>[^()\s]+)(?=\))", re.MULTILINE | re.DOTALL
)
HEADING = re.compile(r"^#{1,6} +(.*?)\s*$", re.MULTILINE)


class Block(NamedTuple):
    page: str
    language: str
    code: str

    def commands(self) -> list[str]:
        """Its lines, continued ones joined, without comments and a prompt's dollar sign."""
        lines = (line.strip() for line in self.code.replace("\\\n", " ").splitlines())
        return [line.removeprefix("$ ") for line in lines if line and not line.startswith("#")]


def text_of(page: str) -> str:
    return (REPO / page).read_text("utf-8")


def blocks(*languages: str, page: str | None = None) -> Iterator[Block]:
    """All that are written in these languages, of one page or of every page, in their order."""
    for name in PAGES if page is None else (page,):
        for language, code in FENCE.findall(text_of(name)):
            if language in languages:
                yield Block(name, language, code)


def links(text: str) -> list[str]:
    """Where a page's links and pictures point to; what stands in code is none."""
    found = (match["target"] for match in CODE_OR_LINK.finditer(text))
    return [target for target in found if target is not None]


def with_links(text: str, changed: Callable[[str], str]) -> str:
    """The page with each of these put through a function."""
    return CODE_OR_LINK.sub(lambda m: m[0] if m["target"] is None else changed(m["target"]), text)


def anchors(text: str) -> set[str]:
    """What can stand after "#" in a link to this page, as GitHub makes it of the headings."""
    seen: dict[str, int] = {}
    found = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if slug in seen else slug)
        seen[slug] = seen.get(slug, 0) + 1
    return found
