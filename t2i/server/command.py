"""`t2i serve`: the page and the API on this machine's models.

Nothing of the command line is imported here at the top: it imports this module itself.
"""

import os
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

import typer

TOKEN_VARIABLE = "T2I_TOKEN"
EPILOG = """Examples:

`t2i serve --open`

`T2I_TOKEN="$(openssl rand -hex 16)" t2i serve --model models/sd15 --host 0.0.0.0`
"""


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="A name of `t2i models`, or a folder; may be repeated, the first is the default.",
            show_default="embedded",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; others than this machine's need --token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535)] = 7878,
    token: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SECRET",
            envvar=TOKEN_VARIABLE,
            help="Answer only requests with this secret; may be repeated, each sees its own jobs. "
            "Others on this machine can read an option, and not the environment.",
        ),
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where jobs and pictures are kept.")] = Path(
        "served"
    ),
    lora_dir: Annotated[Path, typer.Option(help="LoRAs that requests may name.")] = Path("loras"),
    embedding_dir: Annotated[
        Path, typer.Option(help="Learned words that requests may name.")
    ] = Path("embeddings"),
    control_dir: Annotated[
        Path, typer.Option(help="Networks of controls (ControlNets) that requests may name.")
    ] = Path("controls"),
    runs: Annotated[Path, typer.Option(help="Training runs to show, read only.")] = Path("runs"),
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Worker processes, one on each device.")
    ] = 1,
    batch: Annotated[
        int,
        typer.Option(
            min=1, max=64, help="Jobs of equal settings drawn together; rounds otherwise than 1."
        ),
    ] = 1,
    max_queued: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Jobs that may wait.")
    ] = 256,
    keep_days: Annotated[float, typer.Option(min=0, help="Days that results are kept.")] = 30.0,
    keep_gib: Annotated[float, typer.Option(min=0, help="GiB of results that are kept.")] = 20.0,
    model_gib: Annotated[
        float | None,
        typer.Option(
            min=0, help="GiB of models in memory together.", show_default="half of the memory"
        ),
    ] = None,
    root_path: Annotated[
        str, typer.Option(metavar="PATH", help="Path at which a reverse proxy has the server.")
    ] = "",
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="Proxy or network whose X-Forwarded-Proto is believed; may be repeated.",
            show_default="127.0.0.1 and ::1",
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A further name of the server; may be repeated."),
    ] = None,
    allowed_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="A site whose pages may call the API; may be repeated."),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Serve the page and the API until Ctrl-C, which lets the running picture finish.

    Jobs and pictures are kept in a folder: after a crash finished work is there, and what was
    running is drawn again. A second Ctrl-C does not wait; what ran is drawn at the next start.
    """
    from t2i.cli.output import print_remark
    from t2i.cli.startup.gc_control import end_gc_delay_and_freeze
    from t2i.errors import ArgumentError
    from t2i.optional_dependencies import build_install_command
    from t2i.server.settings import (
        DAY_SECONDS,
        GIBIBYTE,
        LOOPBACK_PROXIES,
        ServerSettings,
        check_access_tokens,
    )

    settings = ServerSettings(
        models=tuple(model or ["embedded"]),
        host=host,
        port=port,
        tokens=tuple(token or []),
        folder=folder,
        lora_folder=lora_dir,
        embedding_folder=embedding_dir,
        control_folder=control_dir,
        runs_folder=runs,
        workers=workers,
        batch=batch,
        max_queued=max_queued,
        max_age=keep_days * DAY_SECONDS,
        max_bytes=int(keep_gib * GIBIBYTE),
        model_bytes=None if model_gib is None else int(model_gib * GIBIBYTE),
        trusted_proxies=tuple(trusted_proxy or LOOPBACK_PROXIES),
        root_path=root_path.rstrip("/"),
        allowed_hosts=tuple(allowed_host or []),
        allowed_origins=tuple(allowed_origin or []),
    )
    opened = f"--host {host}" if not settings.is_loopback else "--allowed-host"
    if (not settings.is_loopback or settings.allowed_hosts) and not settings.tokens:
        raise ArgumentError(
            f"Got {opened} without --token: anybody who reaches this machine could use the "
            'server. Set a secret before, as in export T2I_TOKEN="$(openssl rand -hex 16)".'
        )
    for proxy in settings.trusted_proxies:
        try:
            ip_network(proxy)
        except ValueError:
            raise ArgumentError(
                f"Got --trusted-proxy {proxy!r}: expected an IP address or a network, as in "
                "10.0.0.5 or 10.0.0.0/24."
            ) from None
    check_access_tokens(settings.tokens, "--token")
    if set(settings.tokens) - set(os.environ.get(TOKEN_VARIABLE, "").split()):
        print_remark(
            "The secret of --token is in the list of processes, which other users of this machine "
            "can read. The environment variable T2I_TOKEN is not."
        )
    try:
        from t2i.server.running import run_server
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "starlette", "uvicorn", "anyio", "python_multipart"):
            raise
        raise ArgumentError(
            f"The server needs {error.name}, which is not installed: "
            f"{build_install_command('serve')}"
        ) from error
    end_gc_delay_and_freeze()
    run_server(settings, open_page=open_page)
