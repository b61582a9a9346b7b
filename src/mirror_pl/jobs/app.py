"""The app's job: load the detector, and serve the page until it is interrupted."""

from __future__ import annotations

import threading
import warnings

from omegaconf import DictConfig
from rich.console import Console

from mirror_pl.config.schema import AppSettings, read_settings
from mirror_pl.jobs.serve import check_extra, say_address, scorer_of
from mirror_pl.serving.place import allowed_hosts, free_port, private_folder


def run(cfg: DictConfig) -> None:
    """Serve as `cfg` says.

    Raises:
        MirrorError: Before anything is served, if the extra is not installed, the port is taken, or settings or checkpoint
            are not usable.
    """
    settings = read_settings(cfg, AppSettings)
    check_extra("gradio", "app")
    port, console = free_port(settings.host, settings.port), Console()
    scorer = scorer_of(settings, console)
    with private_folder() as folder:
        # Imported here: gradio reads from the environment what is switched off, and may not be installed.
        from mirror_pl.serving.page import build_page, launch

        warnings.filterwarnings("ignore", module=r"gradio\.")  # how gradio uses other libraries is for its makers
        page = build_page(scorer, folder, max_files=settings.max_files, at_once=settings.at_once)
        launch(
            page,
            host=settings.host,
            port=port,
            hosts=allowed_hosts(settings.host, settings.hosts),
            root_path=settings.root_path,
            max_upload_mb=settings.max_upload_mb,
        )
        try:
            say_address("page", settings, port, console)
            threading.Event().wait()
        finally:
            page.close(verbose=False)
