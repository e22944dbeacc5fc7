# The whole of Assay. Folders of the host are written as its user:
#   docker build -t assay .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" assay run tiny --out runs/tiny
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" -p 8010:8010 assay web runs/mine --host 0.0.0.0
FROM python:3.11-slim

# The compiler: helpers for CPUs are built when they are first used
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

# torch's wheels on PyPI bring CUDA; with the index of its CPU wheels here the image is gigabytes smaller
ARG PIP_EXTRA_INDEX_URL=
COPY pyproject.toml constraints.txt README.md LICENSE /assay/
COPY src /assay/src
RUN pip install --no-cache-dir --constraint /assay/constraints.txt '/assay[tiny,lora,policy,serve,web,hub]' \
    && assay fetch smollm2 easy-vqa efficientnet-lite0

# Whoever runs it has a place for caches
ENV HOME=/tmp
USER 1000
WORKDIR /work
ENTRYPOINT ["assay"]
CMD ["--help"]
