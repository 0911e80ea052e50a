# `make demo` and `make test` set everything up on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow test-gpu test-oldest test-sklearn test-triton lint fuzz audit bench bench-engines bench-smoke clean

demo: $(STAMP)
	$(BIN)/python examples/quickstart.py

# The files of tests are shared out among two processes; torch runs on one thread in each.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

# Tests that take minutes: a fault at every operation on a file, and 200 rounds of writers that race.
test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -m "slow and not gpu"

# On the CUDA device of this machine, or else on all emulated ones.
test-gpu: $(STAMP)
	$(BIN)/python -m pytest -q -m gpu

# The oldest releases that pyproject.toml allows. For Linux on x86 that torch comes with CUDA only, which is a few GB.
OLDEST := .venv-oldest
OLDEST_TESTS := tests/columns tests/test_sklearn_defaults.py tests/tuning tests/estimators/test_common.py \
	tests/estimators/test_sklearn_checks.py tests/estimators/test_column_names.py tests/estimators/test_skops_types.py \
	tests/estimators/test_classifier.py tests/saving/test_estimators.py tests/saving/test_values.py \
	tests/saving/test_plain_state.py tests/training/test_loop.py tests/training/test_steps.py tests/training/test_checkpointing.py \
	tests/training/test_damaged_checkpoints.py tests/saving/test_damaged_estimators.py \
	tests/text/test_tokenizer.py tests/text/test_windows.py tests/checkpoints/test_formats.py tests/checkpoints/test_hub.py \
	tests/checkpoints/test_cache.py tests/system tests/model/test_attention.py tests/model/test_int8.py tests/model/test_nf4.py
# pandas 2.0 calls a function that numpy 1.25 deprecated.
OLDEST_WARNINGS := -W "ignore:np.find_common_type:DeprecationWarning"

test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -q $(OLDEST_WARNINGS) $(OLDEST_TESTS)

$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet -c constraints-oldest.txt -e . pytest polars pyarrow skops
	touch $@

# The checks of scikit-learn in one of its older releases, with the newest releases of the rest that it works with.
SKLEARN ?= 1.8
SKLEARN_TESTS := tests/estimators/test_sklearn_checks.py tests/estimators/test_column_names.py tests/test_sklearn_defaults.py

test-sklearn: .venv-sklearn-$(SKLEARN)/.installed
	.venv-sklearn-$(SKLEARN)/bin/python -m pytest -q $(SKLEARN_TESTS)

.venv-sklearn-%/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-sklearn-$*
	grep -v '^scikit-learn==' constraints.txt > .venv-sklearn-$*/constraints.txt
	.venv-sklearn-$*/bin/python -m pip install --quiet -c .venv-sklearn-$*/constraints.txt torch==2.13.0
	.venv-sklearn-$*/bin/python -m pip install --quiet -c .venv-sklearn-$*/constraints.txt "scikit-learn==$*.*" "scipy<1.16" \
		-e . pytest polars pyarrow
	touch $@

# The Triton kernels of 8-bit weights: in Triton's interpreter, and compiled for GPUs. They need triton (200 MB), but no GPU.
test-triton: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[triton]"
	$(BIN)/python -m pytest -q tests/model/int8_triton
	$(BIN)/python benchmarks/triton_errors.py

# What each emulated GPU runs: operators of a layer, waits of the host and uploads, by storage of the weights.
.PHONY: gpu-counts
gpu-counts: $(STAMP)
	$(BIN)/python benchmarks/emulated_gpus.py

# Exports of ONNX and OpenVINO, whose libraries have 250 MB.
.PHONY: test-serving
test-serving: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[onnx,openvino]"
	$(BIN)/python -m pytest -q tests/saving/serving

# Ray: clusters on this machine whose processes are killed, each in a network of its own, where the system allows it.
.PHONY: test-scale test-engines
test-scale: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[scale]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m ray tests/scale

# Dask and Spark, which needs Java 17.
test-engines: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt "dask[dataframe]>=2026.1" "pyspark>=4"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m engines tests/scale

lint: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/numpydoc lint $$(git ls-files 'skxlmr/*.py')
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive skxlmr

# The documentation, in docs/_build/html: its examples run, and a warning is an error. SPHINXOPTS=-E builds it from the beginning.
SPHINXOPTS ?=
.PHONY: docs
docs: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	$(BIN)/python -m sphinx -W --keep-going -b html $(SPHINXOPTS) docs docs/_build/html
	$(BIN)/python docs/check.py docs/_build/html
	$(BIN)/codespell $$(git ls-files docs)

# Builds the source distribution and a wheel in dist/, and checks both; the tests of the first run against the second.
.PHONY: release-check
release-check: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[release]"
	$(BIN)/python tools/release_check.py

# Minutes of random files and texts, where `make test` has a few that are always the same.
fuzz: $(STAMP)
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -q tests/fuzzing

# Compares the releases of constraints.txt with the database of known vulnerabilities of PyPI, for which it needs the network.
# A release that is not in the database is an error (--strict), so that no audit passes without it.
audit: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[audit]"
	$(BIN)/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

# Compares this library with the alternatives; DEVICE=cuda on a machine with a GPU.
DEVICE ?= cpu
bench: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[bench]"
	$(BIN)/python benchmarks/bench.py --device $(DEVICE)

# Everything that needs a GPU, in under ten minutes; without network `python benchmarks/gpu.py` with what is installed.
GPU_OPTIONS ?=
.PHONY: gpu
gpu: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[bench]"
	$(BIN)/python benchmarks/gpu.py $(GPU_OPTIONS)

# Compares this library with OpenVINO, CTranslate2, ONNX Runtime and torchao; half an hour, mostly conversions, which are kept.
ENGINES_OPTIONS ?=
bench-engines: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[engines]"
	$(BIN)/python benchmarks/engines.py $(ENGINES_OPTIONS)

bench-smoke: $(STAMP)
	$(BIN)/python benchmarks/smoke.py
	$(BIN)/python benchmarks/engines.py --smoke

$(STAMP): pyproject.toml constraints.txt $(wildcard skxlmr/model/avx/*.[ch])
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test]"
	touch $@

clean:
	rm -rf .venv* build dist docs/_build docs/examples docs/reference/api docs/reference/backreferences *.egg-info skxlmr/model/avx/*.so
