"""Finds ``configs/``, composes it and builds objects from it. The only room, besides commands and jobs, that knows Hydra.

`command` is quick to import, `build` is not: it brings torch and transformers.
"""
