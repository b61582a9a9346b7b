"""The app's job: load the detector, and serve the page until it is interrupted."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from urllib.parse import urlsplit

from omegaconf import DictConfig
from PIL import Image
from rich.console import Console

from mirror_pl.app_page.answer import Costs
from mirror_pl.app_page.port import is_local, listen, private_folder
from mirror_pl.app_page.uploads import UploadLimits, Uploads
from mirror_pl.config.build_detector import build_detector, build_policy, is_miniature
from mirror_pl.config.schema import AppSettings, read_settings
from mirror_pl.errors import ConfigError
from mirror_pl.prediction import device_of
from mirror_pl.prediction.engine import LARGEST_BATCH
from mirror_pl.reports import print_plain

AT_ONCE = 2
"""Pictures worked on at a time, unless said otherwise: while one is decoded, another one is scored."""


def run(cfg: DictConfig) -> None:
    """Serve as `cfg` says.

    Raises:
        MirrorError: Before anything is served, if the extra is not installed, the port is taken, or settings or checkpoint
            are not usable.
    """
    settings = read_settings(cfg, AppSettings)
    gradio = find_spec("gradio")
    if gradio is None or gradio.origin is None:  # the second: any folder of that name, such as in the current one
        raise ConfigError(
            "the app needs gradio, which is not installed: pip install 'mirror_pl[app]'; docs/app.md says more"
        )
    device, policy, console = device_of(settings.device), build_policy(settings), Console()
    with private_folder() as folder, listen(settings.host, settings.port) as opened:
        # Imported here: gradio reads from the environment what is switched off, and may not be installed.
        from mirror_pl.app_page.blocks import Service
        from mirror_pl.app_page.web import serve, web_app

        detector, _ = build_detector(settings)
        detector.to(device)
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the limit is max_megapixels here
        warnings.filterwarnings("ignore", module=r"gradio\.")  # how gradio uses pandas is for its makers
        batch_size = LARGEST_BATCH.get(device.type, 16) if settings.batch_size == "auto" else int(settings.batch_size)
        miniature = is_miniature(settings.checkpoint)
        title = "the miniature" if miniature else detector.name
        service = Service(
            detector,
            title,
            policy,
            Costs(settings.max_megapixels, batch_size, settings.precision),
            Uploads(UploadLimits(settings.max_upload_mb, settings.max_files)),
            settings.num_workers or AT_ONCE,
            miniature,
        )
        behind = urlsplit(settings.root_path or "").hostname or ""
        app = web_app(service, folder, settings.root_path, settings.host.lower(), (behind, *settings.hosts))
        if miniature:
            print_plain("This is the miniature: a small detector of small decoders, and none for the real world.", console)
        if not is_local(settings.host):
            print_plain(
                f"warning: host={settings.host}: anybody who can reach this port can use the page; it asks for no password",
                Console(stderr=True),
            )
        port = opened.getsockname()[1]
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        print_plain(f"The page: http://{shown}:{port}/ (Ctrl+C ends it)", console)
        serve(app, opened)
