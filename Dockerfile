# Two images from one recipe:
#   api  the API, migrations and the command line; no torch
#   gpu  all of that with torch: workers (which start trainers) and engines; runs without a GPU too
# No CUDA base image: torch's wheels bring their own CUDA libraries.
FROM python:3.11.14-slim-bookworm AS dependencies
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/loramill
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
# empty packages stand in for ours, so that a change of code does not install the dependencies again
RUN for package in app core loramill migrations worker; do mkdir $package && touch $package/__init__.py; done \
    && /opt/loramill/bin/pip install --constraint constraints.txt '.[tables]'

FROM dependencies AS engine-dependencies
RUN /opt/loramill/bin/pip install --constraint constraints.txt '.[engine]'

FROM dependencies AS api-installed
COPY . .
RUN /opt/loramill/bin/pip install --no-deps --force-reinstall --constraint constraints.txt .

FROM engine-dependencies AS gpu-installed
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY . .
# for every level of CPU, since it is not known where the image will run; it needs no compiler there
RUN /opt/loramill/bin/python -m worker.native.compiling
RUN /opt/loramill/bin/pip install --no-deps --force-reinstall --constraint constraints.txt .

FROM python:3.11.14-slim-bookworm AS runtime
# /data is made before VOLUME: a named volume takes over the owner and mode it finds here
RUN useradd --uid 1000 --user-group --no-create-home --home-dir /data loramill \
    && install --directory --owner=1000 --group=1000 --mode=0700 /data
ENV PATH=/opt/loramill/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    LORAMILL_HOME=/data HF_HOME=/data/huggingface
USER 1000:1000
WORKDIR /data
VOLUME /data
STOPSIGNAL SIGTERM
ENTRYPOINT ["loramill"]

FROM runtime AS gpu
COPY --from=gpu-installed /opt/loramill /opt/loramill
CMD ["worker"]

# last, so that a build without --target makes the small image
FROM runtime AS api
COPY --from=api-installed /opt/loramill /opt/loramill
ENV LORAMILL_HOST=0.0.0.0
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=4)"]
CMD ["api"]
