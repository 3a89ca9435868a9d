"""Installation command for an optional dependency."""

import json
from importlib import metadata
from pathlib import Path
from shlex import quote
from urllib.parse import unquote, urlsplit


def build_install_command(extra: str) -> str:
    """Return the command that adds an extra of pyproject.toml to the installed t2i.

    pip notes where a package came from (PEP 610): nothing for one from an index, whose name is
    then enough; a clone, an archive or a repository have to be named again.
    """
    try:
        noted = metadata.distribution("t2i").read_text("direct_url.json")
    except metadata.PackageNotFoundError:  # the sources, by PYTHONPATH
        noted = json.dumps(
            {"url": Path(__file__).parents[1].as_uri(), "dir_info": {"editable": True}}
        )
    if noted is None:
        return f"pip install 't2i[{extra}]'"
    origin = json.loads(noted)
    if "dir_info" not in origin:
        version = origin.get("vcs_info")
        url = (
            f"{version['vcs']}+{origin['url']}@{version['commit_id']}" if version else origin["url"]
        )
        return f"pip install {quote(f't2i[{extra}] @ {url}')}"
    clone = Path(unquote(urlsplit(origin["url"]).path))
    place = "." if clone == Path.cwd() else str(clone)
    option = "-e " if origin["dir_info"].get("editable") else ""
    return f"pip install {option}{quote(f'{place}[{extra}]')}"
