"""Reads an uploaded form while it arrives, so that what is too large is refused before it is read whole."""

from __future__ import annotations

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from mirror_pl.app_page.uploads import RefusedUploadError, UploadLimits


class FormReader:
    """Reads the files of a form while it arrives, and refuses it as soon as one of them is too large."""

    def __init__(self, content_type: str, limits: UploadLimits) -> None:
        """Begin.

        Raises:
            RefusedUploadError: If it is no form.
        """
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or b"boundary" not in options:
            raise RefusedUploadError("An upload must be a form: multipart/form-data.", 400)
        self._limits = limits
        self._files: list[tuple[str, bytearray]] = []
        self._field = self._value = self._disposition = b""
        self._takes = False
        self._parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": self._on_part_begin,
                "on_header_begin": self._on_header_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
            },
        )

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises:
            RefusedUploadError: If a file is too large, there are too many, or it is no form.
        """
        try:
            self._parser.write(chunk)
        except MultipartParseError as error:
            raise RefusedUploadError(f"The upload is no whole form: {error}", 400) from error

    def finish(self) -> list[bytes]:
        """Return the files' contents, in their order; what they are called, the page says when it asks about them."""
        return [bytes(content) for _, content in self._files]

    def _on_part_begin(self) -> None:
        self._disposition, self._takes = b"", False

    def _on_header_begin(self) -> None:
        self._field = self._value = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._takes = b"filename" in options
        if self._takes:
            if len(self._files) == self._limits.max_files:
                raise RefusedUploadError(f"At most {self._limits.max_files} files are taken at once (max_files).")
            self._files.append((options[b"filename"].decode("utf-8", "replace"), bytearray()))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if not self._takes:
            return
        name, content = self._files[-1]
        if len(content) + end - start > self._limits.file_bytes:
            raise RefusedUploadError(
                f"{name} is larger than {self._limits.max_upload_mb:g} MB, the most for a file (max_upload_mb)."
            )
        content += data[start:end]
