# docker build -t maquette .
# docker run --rm --ipc=host -v "$PWD/runs:/maquette/runs" maquette              # make train
# docker run --rm --ipc=host maquette make test
# On NVIDIA GPUs, add `--gpus all`. Processes that load data need the shared memory of `--ipc=host`.
FROM python:3.11-slim AS base
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*

FROM base
ENV PIP_NO_CACHE_DIR=1
WORKDIR /maquette
COPY Makefile requirements.txt ./
RUN make setup
COPY . .
CMD ["make", "train"]
