"""A small HTTP service around a detector that stays loaded: send a picture, get its verdict as JSON.

python service.py [PORT [CHECKPOINT]]
curl --data-binary @picture.jpg http://127.0.0.1:8080/predict
"""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

from mirror_pl import load_detector
from mirror_pl.detectors import Detector

MAX_BYTES = 20 * 2**20  # of a picture's file
AT_ONCE = 2  # pictures that are worked on at a time; the others wait
PATIENCE_S = 10  # how long they wait before they are sent away

Image.MAX_IMAGE_PIXELS = 50_000_000  # Pillow refuses more than twice as many, by the header, before it decodes


class Service(ThreadingHTTPServer):
    """A thread a connection, and one detector for all of them."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], detector: Detector) -> None:
        super().__init__(address, Handler)
        self.detector = detector
        self.turns = threading.BoundedSemaphore(AT_ONCE)


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Service
    timeout = 30  # of a client that stops sending

    def do_POST(self) -> None:
        """Score the picture that is the body."""
        length = self.headers.get("Content-Length", "")
        if self.path != "/predict":
            self.reply(404, {"error": "POST a picture to /predict"})
        elif not (length.isascii() and length.isdigit()):
            self.reply(411, {"error": "say how long the picture is: Content-Length"})
        elif len(length) > 18:  # Python itself refuses to read a number of some thousand digits
            self.reply(400, {"error": f"Content-Length has {len(length)} digits"})
        elif int(length) > MAX_BYTES:  # before anything of it is read
            self.reply(413, {"error": f"a picture of {length} bytes; at most {MAX_BYTES} are taken"})
        else:
            self.score(self.rfile.read(int(length)))

    def score(self, content: bytes) -> None:
        """Answer with the verdict on a file's bytes, or the reason why there is none."""
        if not self.server.turns.acquire(timeout=PATIENCE_S):
            self.reply(503, {"error": "busy; try again later"})
            return
        try:
            prediction = self.server.detector.predict(content)
        finally:
            self.server.turns.release()
        if prediction.p_fake is None:
            self.reply(422, {"error": prediction.reason, "status": prediction.status})
        else:
            keys = ("p_fake", "logit", "is_fake", "status", "reason")
            self.reply(200, {key: getattr(prediction, key) for key in keys})

    def reply(self, status: int, content: dict[str, Any]) -> None:
        """Send JSON."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
    checkpoint = sys.argv[2] if len(sys.argv) > 2 else "miniature"
    Service(("127.0.0.1", port), load_detector(checkpoint)).serve_forever()
