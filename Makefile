# `make train` and `make test` create the virtual environment .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

STAGE = $(BIN)/python train.py fit --config configs/$(1)/openmoji.yaml --run_dir runs/dalle/$(1)/seed0 \
	$(if $(wildcard runs/dalle/$(1)/seed0/checkpoints/last.ckpt),--ckpt_path last)

.PHONY: setup train preview dalle runs playground test trials lint bench bench-details gpu-check gpu-records reproduce readme docs gallery

setup: $(STAMP)  ## create .venv and install the requirements

$(STAMP): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing the packages of requirements.txt into .venv: minutes, with downloads of several GB on Linux"
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

train: setup  ## train a VAE on emoji, a few minutes on a laptop
	$(BIN)/python train.py fit --config configs/vae/openmoji.yaml

preview: setup  ## show the training data of a recipe; CONFIG=configs/vae/folder.yaml
	$(BIN)/python train.py preview --config $(or $(CONFIG),configs/vae/openmoji.yaml)

dalle: setup  ## train a DALL-E that generates emoji from text, 48 minutes on 2 cores; run again to resume
	$(call STAGE,dvae)
	$(call STAGE,clip)
	$(call STAGE,dalle)
	$(BIN)/python sample.py runs/dalle/dalle/seed0/checkpoints/last.ckpt --prompt - --ranker runs/dalle/clip/seed0/checkpoints/best.ckpt \
		--num 16 --keep 4 --out runs/dalle/pictures < configs/dalle/prompts.txt

runs: setup  ## list the runs with state, updates, best value, age and size
	$(BIN)/python train.py runs

playground: setup  ## play with the trained systems in the browser
	$(BIN)/python playground.py --open

test: setup  ## run the fast tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

trials: setup  ## run the slow tests: killed runs, trained models, the playground in a browser
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit; done; \
	$(BIN)/python -m playwright install --with-deps chromium || (apt-get update && apt-get install -y chromium)
	$(BIN)/python -m pytest tests/trials

lint: setup  ## check formatting, lint rules and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup $(if $(QUICK),,.venv-peers/.installed)  ## compare the speed with plain loops and other libraries; QUICK=1: 5 minutes
	$(BIN)/python benchmarks/systems.py $(if $(QUICK),--pairs 5 --out runs/bench) $(if $(QUICK),,|| failed=1; \
	.venv-peers/bin/python benchmarks/peers.py && test -z "$$failed")

.venv-peers/.installed: requirements.txt benchmarks/peers.txt
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --requirement requirements.txt --requirement benchmarks/peers.txt
	@touch $@

bench-details: setup  ## more speed measurements: other libraries, caches, variants of networks
	$(BIN)/python benchmarks/vae.py
	$(BIN)/python benchmarks/gan.py
	$(BIN)/python benchmarks/translation.py
	$(BIN)/python benchmarks/language.py
	$(BIN)/python benchmarks/seq2seq.py
	$(BIN)/python benchmarks/dalle.py

gpu-check: setup  ## check everything on a GPU, 8 minutes; DEVICE=cpu TINY=1 tests the script
	$(BIN)/python benchmarks/gpu_check.py $(if $(DEVICE),--device $(DEVICE)) $(if $(TINY),--tiny)

gpu-records: setup  ## reproduce the published results that take minutes on a GPU
	$(BIN)/python benchmarks/gpu_records.py

reproduce: setup  ## list the reproductions; ID=vae-mnist-nll runs one
	$(BIN)/python reproduce.py $(if $(ID),run $(ID),list)

readme: setup  ## rewrite the table of systems in README.md
	$(BIN)/python readme.py

docs: setup .venv-docs/.installed  ## build the documentation site, site/html/index.html
	$(BIN)/python pages.py site
	.venv-docs/bin/sphinx-build -q -W --keep-going -j auto -c docs site/pages site/html
	@echo open site/html/index.html

.venv-docs/.installed: docs/requirements.txt
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --requirement docs/requirements.txt
	touch $@

gallery: setup  ## make the images of docs/gallery.md anew from the runs on disk
	$(BIN)/python pages.py gallery
