"""What mkdocs is told beside mkdocs.yml: what README and the pages link to outside docs/.

Those files become pages of the site too, below "repository/": Markdown as it is, a folder as a
list, other text as code, pictures as they are. README is a page too, and so is the notebook.
"""

import json
import os
from pathlib import PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.pages import REPO, links, text_of, with_links

HOME, TOUR = "README.md", "docs/tour.ipynb"
PICTURES = (".png", ".webp", ".jpg")
LANGUAGES = {".toml": "toml", ".json": "json", ".py": "python", ".sh": "bash", ".yaml": "yaml"}
HIDDEN = ("__pycache__",)
sources: dict[str, str] = {}
"""Page of the site -> the file of the repository that it shows."""


def place_of(path: str) -> str:
    """Where a file or folder of the repository lies in the site's sources."""
    if path == HOME:
        return "readme.md"
    if path == TOUR:
        return "tour.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if (REPO / path).is_dir():
        return f"repository/{path}/index.md"
    as_it_is = path.endswith((".md", *PICTURES))
    return f"repository/{path}" if as_it_is else f"repository/{path}.md"


def target_of(page: str, link: str) -> str | None:
    """The file of the repository to which a page's link leads; None where that is elsewhere."""
    place = link.partition("#")[0]
    if not place or "://" in link or link.startswith("data:"):
        return None
    return os.path.normpath(PurePosixPath(page).parent / place)


def markdown_of(path: str) -> str:
    """What the page of a file or folder says."""
    full = REPO / path
    if path == TOUR:
        return notebook(json.loads(text_of(path)))
    if path.endswith(".md"):
        return text_of(path)
    if full.is_dir():
        names = sorted(p.name for p in full.iterdir() if p.name not in HIDDEN)
        return "\n".join([f"# {path}", "", *(f"- [{n}]({full.name}/{n})" for n in names)])
    return f"# {path}\n\n```{LANGUAGES.get(full.suffix, 'text')}\n{text_of(path)}\n```\n"


def notebook(content: dict[str, Any]) -> str:
    """Its cells, and what they showed when they were run."""
    parts = []
    for cell in content["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for shown in cell.get("outputs", ()):
            data = shown.get("data", {})
            if "image/png" in data:
                parts.append(
                    f"![shown](data:image/png;base64,{''.join(data['image/png'].split())})"
                )
            elif text := "".join(shown.get("text", data.get("text/plain", ""))):
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/, and whatever they link to."""
    there = {file.src_uri for file in files}
    sources.update({uri: f"docs/{uri}" for uri in there if uri.endswith(".md")})
    waiting = [HOME, TOUR, *sources.values()]
    while waiting:
        path = waiting.pop()
        place = place_of(path)
        if path not in sources.values() and place not in there:
            there.add(place)
            if path.endswith(PICTURES):
                files.append(File.generated(config, place, abs_src_path=str(REPO / path)))
                continue
            sources[place] = path
            files.append(File.generated(config, place, content=markdown_of(path)))
        if path.endswith(PICTURES):
            continue
        for link in links(markdown_of(path)):
            target = target_of(path, link)
            if target is not None and place_of(target) not in there and (REPO / target).exists():
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead a page's links to where the site has what they mean."""
    path = sources[page.file.src_uri]

    def changed(link: str) -> str:
        target = target_of(path, link)
        if target is None or not (REPO / target).exists():
            return link
        here = PurePosixPath(page.file.src_uri).parent
        _, mark, anchor = link.partition("#")
        return os.path.relpath(place_of(target), here) + mark + anchor

    return with_links(markdown, changed)
