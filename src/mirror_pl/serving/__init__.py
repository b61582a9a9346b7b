"""Scores over HTTP: the page and the service. The only room with gradio, fastapi and uvicorn, which are imported late."""
