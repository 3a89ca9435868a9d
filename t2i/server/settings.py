"""Settings of a server, as `t2i serve` starts it, and of its workers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from t2i.errors import ArgumentError
from t2i.terminal import plural

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
LOOPBACK_PROXIES = ("127.0.0.1", "::1")
GIBIBYTE = 1 << 30
DAY_SECONDS = 86_400.0
SWITCH_SECONDS = 0.001
"""Seconds that a thread may hold the interpreter: the event loop waits so long for each that works
at a request, 5 times longer by default.
"""
MIN_TOKEN_LENGTH = 8
"""Characters of a secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Settings of a server: model, address, access, bounds, and where and how long it keeps jobs.

    models : names or paths that requests may name, the first is the default; the embedded model
        and those in the Hugging Face cache can be named too
    tokens : secrets, each of which sees its own jobs; none needs a host of LOOPBACK_HOSTS
    folder : of the database, the pictures and the uploads
    lora_folder, embedding_folder : LoRAs and learned words that requests may name
    control_folder : networks of controls (ControlNets, T2I-Adapters) that requests may name
    runs_folder : training runs that are shown, read only
    workers : worker processes, one on each device
    batch : jobs of equal settings that a worker draws together, which rounds otherwise
    max_queued : jobs that wait; another one is refused with 429
    max_pixels_x_steps : width x height x steps x number of one request
    max_bytes, max_age : results that are kept, in bytes (uploads count, too) and in seconds; the
        oldest go first
    upload_age : seconds that an upload is kept; jobs keep what they took
    clean_interval : seconds after which what is too old is looked for
    min_free_bytes : of the disk, below which new jobs are refused with 507
    max_body_bytes : of a request
    body_timeout : seconds in which the next part of a request has to come
    model_bytes : of the models in one worker's memory together; None for half of the memory
    preview_share : of a run's time that previews may take
    trusted_proxies : addresses and networks of reverse proxies whose X-Forwarded-Proto is believed
    root_path : path below which a reverse proxy serves this server
    allowed_hosts, allowed_origins : further names in the Host header, and pages of other sites that
        may call the API
    """

    models: tuple[str, ...] = ("embedded",)
    host: str = "127.0.0.1"
    port: int = 7878
    tokens: tuple[str, ...] = ()
    folder: Path = Path("served")
    lora_folder: Path = Path("loras")
    embedding_folder: Path = Path("embeddings")
    control_folder: Path = Path("controls")
    runs_folder: Path = Path("runs")
    workers: int = 1
    batch: int = 1
    max_queued: int = 256
    max_pixels_x_steps: int = 4 * 2048 * 2048 * 150
    max_bytes: int = 20 * GIBIBYTE
    max_age: float = 30 * DAY_SECONDS
    upload_age: float = DAY_SECONDS
    clean_interval: float = 60.0
    min_free_bytes: int = 256 << 20
    max_body_bytes: int = 64 << 20
    body_timeout: float = 60.0
    model_bytes: int | None = None
    preview_share: float = 0.02
    trusted_proxies: tuple[str, ...] = LOOPBACK_PROXIES
    root_path: str = ""
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can reach the server."""
        return self.host in LOOPBACK_HOSTS or self.host.startswith("127.")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Settings of one worker.

    models : name -> folder or file; the first is the default
    loads_default : whether the default model is loaded before jobs are taken
    device_number : of the accelerator that it uses, where there are several
    """

    models: Mapping[str, Path]
    device_number: int = 0
    model_bytes: int | None = None
    preview_share: float = 0.0
    loads_default: bool = True


def check_access_tokens(tokens: Iterable[str], option: str) -> None:
    """Raise ArgumentError for a server's access token that is too short to be secret or cannot be
    sent in a header.

    option : by which they were given
    """
    for secret in tokens:
        if len(secret) < MIN_TOKEN_LENGTH or not secret.isascii() or not secret.isprintable():
            raise ArgumentError(
                f"Got a {option} of {plural(len(secret), 'character')}: expected at least "
                f"{MIN_TOKEN_LENGTH} printable ones of ASCII, which nobody guesses."
            )
