# docker build --target cpu -t mambamed:cpu .
# docker build --target cuda -t mambamed:cuda .
# docker run --rm -v "$PWD":/data mambamed:cpu predict model.mambamed images -o masks
FROM python:3.12-slim AS base
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    NUMBA_CACHE_DIR=/opt/mambamed/numba \
    MPLCONFIGDIR=/opt/mambamed/matplotlib \
    HF_HOME=/data/.cache/huggingface
RUN groupadd --gid 1000 mambamed \
    && useradd --create-home --uid 1000 --gid 1000 mambamed \
    && install -d -o 1000 -g 1000 /opt/mambamed/numba /opt/mambamed/matplotlib /data /tmp/warm
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY recipes recipes
COPY studies studies
COPY mambamed mambamed

# PyTorch for CPUs comes from PyTorch's own index: the URL that its installation page states.
FROM base AS cpu
ARG TORCH_INDEX=""
RUN if [ -n "$TORCH_INDEX" ]; then pip install --index-url "$TORCH_INDEX" torch==2.13.0; fi \
    && pip install -c constraints.txt ".[dicom,hub]"
USER 1000:1000
WORKDIR /tmp/warm
# Compiles all kernels once, so that no container does at its start, and tests the image.
RUN mambamed demo --minutes 1 && rm -r demo && chmod -R a+rX /opt/mambamed
WORKDIR /data
ENTRYPOINT ["mambamed"]
CMD ["--help"]

# The wheels of torch hold the CUDA libraries; the host needs the NVIDIA driver and container toolkit.
FROM base AS cuda
RUN pip install -c constraints.txt ".[dicom,hub,triton]"
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /tmp/warm
RUN mambamed demo --minutes 1 && rm -r demo && chmod -R a+rX /opt/mambamed
WORKDIR /data
ENTRYPOINT ["mambamed"]
CMD ["--help"]
