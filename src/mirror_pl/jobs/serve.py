"""The service's job: load the detector, and answer until it is interrupted."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

from omegaconf import DictConfig
from PIL import Image
from rich.console import Console

from mirror_pl.config.build_detector import build_detector, build_policy, is_miniature
from mirror_pl.config.schema import ServeSettings, ServingSettings, read_settings
from mirror_pl.errors import ConfigError
from mirror_pl.prediction import device_of
from mirror_pl.prediction.engine import LARGEST_BATCH
from mirror_pl.reports import print_plain
from mirror_pl.serving.place import allowed_hosts, free_port, is_local
from mirror_pl.serving.scoring import Scorer


def run(cfg: DictConfig) -> None:
    """Serve as `cfg` says.

    Raises:
        MirrorError: Before anything is served, if the extra is not installed, the port is taken, or settings or checkpoint
            are not usable.
    """
    settings = read_settings(cfg, ServeSettings)
    for library in ("fastapi", "uvicorn", "python_multipart"):
        check_extra(library, "serve")
    port, console = free_port(settings.host, settings.port), Console()
    scorer = scorer_of(settings, console)
    from mirror_pl.serving.service import ServiceLimits, build_service, serve

    limits = ServiceLimits(settings.max_upload_mb, settings.max_files, settings.max_waiting)
    hosts = allowed_hosts(settings.host, settings.hosts)
    say_address("service", settings, port, console)
    serve(build_service(scorer, limits, hosts=hosts, root_path=settings.root_path), settings.host, port)


def check_extra(library: str, extra: str) -> None:
    """See that a library of an extra is there.

    Raises:
        ConfigError: If it is not.
    """
    spec = find_spec(library)
    if spec is None or spec.origin is None:  # the second: any folder of that name, such as in the current one
        raise ConfigError(f"this needs {library}, which is not installed: pip install 'mirror_pl[{extra}]'")


def scorer_of(settings: ServingSettings, console: Console) -> Scorer:
    """Load the detector, and say so if it is the miniature."""
    device, policy = device_of(settings.device), build_policy(settings)
    detector, _ = build_detector(settings, settings.precision, device)
    if detector.quantised is not None:
        print_plain(str(detector.quantised), console)
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the limit is max_megapixels here
    miniature = is_miniature(settings.checkpoint)
    if miniature:
        print_plain("This is the miniature: a small detector of small decoders, and none for the real world.", console)
    return Scorer(
        detector.to(device),
        "the miniature" if miniature else detector.name,
        policy,
        LARGEST_BATCH.get(device.type, 16) if settings.batch_size == "auto" else int(settings.batch_size),
        settings.num_workers,
        settings.precision,
        settings.max_megapixels,
        miniature,
    )


def say_address(what: str, settings: ServingSettings, port: int, console: Console) -> None:
    """Say where it is served, and warn if others can reach it."""
    if not is_local(settings.host):
        print_plain(
            f"warning: host={settings.host}: anybody who can reach this port can use the {what}; it asks for no password",
            Console(stderr=True),
        )
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    print_plain(f"The {what}: http://{shown}:{port}/ (Ctrl+C ends it)", console)
