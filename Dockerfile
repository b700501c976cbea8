# streamcap in a container. On a CPU, under 1.9 GB:
#   docker build -t streamcap --build-arg PIP_EXTRA_INDEX_URL=INDEX .
# INDEX is PyTorch's index of CPU builds, which its installation page names. With CUDA:
#   docker build -t streamcap:cuda --build-arg VARIANT=cuda .
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS wheel
# The compiler makes the CPU kernels.
RUN apt-get update -q && apt-get install -q -y --no-install-recommends gcc libc6-dev
WORKDIR /source
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY streamcap streamcap
RUN pip wheel --no-cache-dir --no-deps -w /wheel .

FROM python:${PYTHON}-slim-bookworm
ARG VARIANT=cpu
ARG PIP_EXTRA_INDEX_URL
# ffmpeg reads srt:// sources.
RUN apt-get update -q \
    && apt-get install -q -y --no-install-recommends ffmpeg \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY pyproject.toml constraints.txt ./
# All dependencies in one layer, which changes only with these two files.
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
       print(*p['dependencies'], *p['optional-dependencies']['cluster'], sep='\n')" > dependencies.txt \
    && pip install --no-cache-dir -r dependencies.txt -c constraints.txt \
    && python -c "import sys, torch; sys.exit('$VARIANT' == 'cpu' and torch.version.cuda is not None and \
       'this is the CUDA build of PyTorch: give --build-arg PIP_EXTRA_INDEX_URL=(its index of CPU builds), or VARIANT=cuda')"
COPY --from=wheel /wheel /wheel
RUN pip install --no-cache-dir --no-deps /wheel/*.whl && rm -rf /wheel /build

RUN useradd --system --uid 10001 --home-dir /var/lib/streamcap --create-home streamcap
USER 10001
WORKDIR /var/lib/streamcap
ENV STREAMCAP_CACHE=/var/lib/streamcap/cache PYTHONUNBUFFERED=1
VOLUME /var/lib/streamcap
EXPOSE 8642
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8642/healthz', timeout=4)"]
ENTRYPOINT ["streamcap"]
# Listening on all addresses needs a token: set STREAMCAP_TOKEN.
CMD ["serve", "--host", "0.0.0.0", "--out", "captions", "--quiet", "--log-format", "json"]
