# docker build --target cpu -t mirror_pl .          and --target cuda where there is a GPU (docker run --gpus all)
# docker run --rm -v "$PWD:/work" mirror_pl predict photo.jpg
# Of the CPU stage, each package is the one that constraints-release.txt names, with its hash; of the CUDA stage, PyTorch is the
# build of PyPI in the same version, and the rest is equal.
FROM python:3.11-slim AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 1000 mirror
COPY pyproject.toml README.md LICENSE constraints.txt constraints-release.txt /src/
COPY src /src/src
COPY configs /src/configs
COPY data/miniature /src/data/miniature

FROM base AS cuda
RUN sed 's/ *--hash=[^ ]*//; s/^\(torch==[0-9.]*\).*/\1/' /src/constraints-release.txt > /src/versions.txt \
 && pip install -c /src/versions.txt '/src[app,serve,provenance]' && rm -r /src
USER mirror
WORKDIR /work
ENTRYPOINT ["mirror-pl"]

FROM base AS cpu
RUN pip install --require-hashes --extra-index-url https://download.pytorch.org/whl/cpu -r /src/constraints-release.txt \
 && pip install --no-deps /src && rm -r /src
USER mirror
WORKDIR /work
ENTRYPOINT ["mirror-pl"]
