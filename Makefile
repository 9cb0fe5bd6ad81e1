# make demo   set everything up and run the main job: a real model with a 4-bit KV cache, beside the same with an exact one
# make test   set everything up and pass the checks and tests
# Both make .venv once. They need Python ≥ 3.11 with venv, and gcc; the tests also compile for CUDA when nvcc is found.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
# Long enough that most of it is held as codes: the newest 128 to 192 tokens and the first 4 stay exact.
PROMPT_FILE ?= models/demo_prompt.txt
NEW_TOKENS ?= 128
PYTEST_ARGS ?= -n 2 --dist loadfile

BIN := $(VENV)/bin
MODEL := demo/smollm2/model.onnx

.PHONY: demo test borders clean
.DELETE_ON_ERROR:

demo: demo/smollm2-tq4.tqc demo/smollm2-fp32.tqc
	$(BIN)/tqc generate demo/smollm2-tq4.tqc --compare demo/smollm2-fp32.tqc --chat --max-new-tokens $(NEW_TOKENS) \
		--prompt "$$(cat $(PROMPT_FILE))"

$(MODEL): | $(VENV)/export.done
	$(BIN)/tqc export smollm2 -o demo/smollm2 --force

demo/smollm2-%.tqc: $(MODEL) | $(VENV)/export.done
	$(BIN)/tqc compile $(MODEL) -o $@ --kv $* --force

test: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --no-print-directory borders
	$(BIN)/pytest $(PYTEST_ARGS)

# import-linter reads packages from where they lie; the folders that install as subpackages have to lie inside tqc for it.
borders: $(VENV)/dev.done
	rm -rf $(VENV)/borders && mkdir $(VENV)/borders
	cp -r tqc passes schedules models tune_logs $(VENV)/borders/
	cd $(VENV)/borders && mv passes schedules models tune_logs tqc/
	cd $(VENV)/borders && PYTHONPATH=. $(abspath $(BIN))/lint-imports --config $(abspath pyproject.toml)

# torch first and by itself, so that nothing else decides which build of it is installed.
$(VENV)/export.done: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[export]"
	touch $@

$(VENV)/dev.done: $(VENV)/export.done
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[export,dev]"
	touch $@

clean:
	rm -rf demo $(VENV)
