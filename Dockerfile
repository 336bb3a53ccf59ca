# geosiam in a container. The scenes are mounted at /data, where commands run:
#   docker build --tag geosiam .                       # for CPUs
#   docker build --tag geosiam:cuda --target cuda .    # for NVIDIA's devices
#   docker run --rm --volume "$PWD:/data" --user "$(id -u):$(id -g)" geosiam detect before.tif after.tif -o anomalies.gpkg
#   docker run --rm --gpus all ... geosiam:cuda ...
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY . .
RUN pip install --no-cache-dir build==1.6.1 \
    && python -m build --wheel --outdir /wheel

FROM python:${PYTHON}-slim AS runtime
LABEL org.opencontainers.image.title="geosiam" \
      org.opencontainers.image.description="Finds what changed or does not belong between two georeferenced scenes" \
      org.opencontainers.image.licenses="Apache-2.0"
# Caches and matplotlib's settings go where any user may write.
ENV HOME=/tmp \
    PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 1000 geosiam \
    && mkdir /data \
    && chown geosiam /data
WORKDIR /data
ENTRYPOINT ["geosiam"]
CMD ["--help"]
HEALTHCHECK --interval=1m --timeout=30s CMD ["geosiam", "--version"]

# PyTorch's wheels for Linux on PyPI bring CUDA along; the host needs NVIDIA's driver and container toolkit only.
FROM runtime AS cuda
COPY constraints.txt /tmp/constraints.txt
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-cache-dir --constraint /tmp/constraints.txt "$(ls /wheel/*.whl)[cluster]"
USER 1000

FROM runtime AS cpu
COPY constraints.txt /tmp/constraints.txt
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-cache-dir --constraint /tmp/constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu \
        "torch==$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' /tmp/constraints.txt)+cpu" "$(ls /wheel/*.whl)[cluster]"
USER 1000
