# docker build --target cpu -t mambamed:cpu .
# docker build --target cuda -t mambamed:cuda .
# docker run --rm -v "$PWD":/data mambamed:cpu predict model.mambamed images -o masks
FROM python:3.12-slim AS cpu
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    NUMBA_CACHE_DIR=/opt/mambamed/numba \
    TORCHINDUCTOR_CACHE_DIR=/opt/mambamed/inductor \
    TRITON_CACHE_DIR=/opt/mambamed/triton \
    MPLCONFIGDIR=/opt/mambamed/matplotlib \
    HF_HOME=/data/.cache/huggingface
RUN groupadd --gid 1000 mambamed \
    && useradd --create-home --uid 1000 --gid 1000 mambamed \
    && install -d -o 1000 -g 1000 /opt/mambamed /data /tmp/warm
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY recipes recipes
COPY studies studies
COPY mambamed mambamed
# PyTorch for CPUs comes from PyTorch's own index: the URL that its installation page states.
ARG TORCH_INDEX=""
RUN if [ -n "$TORCH_INDEX" ]; then pip install --index-url "$TORCH_INDEX" torch==2.13.0; fi \
    && pip install -c constraints.txt ".[cluster,dicom,hub]"
USER 1000:1000
WORKDIR /tmp/warm
# Compiles the kernels and tests the image. Any user of a container may write the caches: numba and Triton
# read none that they cannot write.
RUN mkdir /opt/mambamed/numba /opt/mambamed/inductor /opt/mambamed/triton /opt/mambamed/matplotlib \
    && mambamed demo --minutes 1 && rm -r demo && chmod -R a+rwX /opt/mambamed
WORKDIR /data
ENTRYPOINT ["mambamed"]
CMD ["--help"]

# The default wheels of torch hold the CUDA libraries; the host needs the NVIDIA driver and container toolkit.
# Triton compiles its launchers with gcc when they are first used.
FROM cpu AS cuda
USER 0:0
# The newest security updates of the base image's release are wanted, not a version.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && pip install -c /src/constraints.txt "mambamed[triton]"
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
