# syntax=docker/dockerfile:1
# The server, `deltamem serve`. Not built here: see docs/deploy.md.
#   docker build --tag deltamem .
#   docker run --publish 127.0.0.1:8000:8000 --volume deltamem:/var/lib/deltamem deltamem
FROM python:3.13-slim-bookworm AS build
# The compiled scan needs a compiler; the image that runs does not.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
ARG EXTRAS=serve,postgres,retrieval
# PyTorch's own index has builds for CPUs alone, a tenth of the size of those with CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/deltamem \
    && /opt/deltamem/bin/pip install --no-cache-dir --disable-pip-version-check \
        --extra-index-url "${TORCH_INDEX}" --constraint constraints.txt ".[${EXTRAS}]"

FROM python:3.13-slim-bookworm
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/deltamem deltamem
COPY --from=build /opt/deltamem /opt/deltamem
ENV PATH=/opt/deltamem/bin:$PATH PYTHONUNBUFFERED=1 HF_HOME=/var/lib/deltamem/models
USER 10001
WORKDIR /var/lib/deltamem
VOLUME /var/lib/deltamem
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=4 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["deltamem", "serve", "--port", "8000"]
# Before the first token the server listens on the loopback interface of its container alone: make a token, then start it.
CMD ["--host", "0.0.0.0", "--url", "sqlite:////var/lib/deltamem/memory.db"]
