"""A page in the browser that scores pictures. Only `blocks` and `web` know gradio, and are imported where it is there."""
