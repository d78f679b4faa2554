# Everything a newcomer needs: `make train` and `make test` set up a virtual environment by themselves.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

STAGE = $(BIN)/python train.py fit --config configs/$(1)/openmoji.yaml --run_dir runs/dalle/$(1)/seed0 \
	$(if $(wildcard runs/dalle/$(1)/seed0/checkpoints/last.ckpt),--ckpt_path last)

.PHONY: setup train dalle test trials lint bench gpu-check gpu-records reproduce readme

setup: $(STAMP)

$(STAMP): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

train: setup  ## a VAE on emoji, a few minutes on a laptop
	$(BIN)/python train.py fit --config configs/vae/openmoji.yaml

dalle: setup  ## a DALL-E that draws emoji from words, an hour; run again, it goes on where it was interrupted
	$(call STAGE,dvae)
	$(call STAGE,clip)
	$(call STAGE,dalle)
	$(BIN)/python sample.py runs/dalle/dalle/seed0/checkpoints/last.ckpt --prompt - --ranker runs/dalle/clip/seed0/checkpoints/best.ckpt \
		--num 16 --keep 4 --out runs/dalle/pictures < configs/dalle/prompts.txt

test: setup  ## everything that is fast
	$(BIN)/python -m pytest

trials: setup  ## what takes longer: killed runs, trained models
	$(BIN)/python -m pytest tests/trials

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup  ## side by side with plain PyTorch, and with peers where they are installed
	$(BIN)/python benchmarks/vae.py
	$(BIN)/python benchmarks/gan.py
	$(BIN)/python benchmarks/translation.py
	$(BIN)/python benchmarks/language.py
	$(BIN)/python benchmarks/seq2seq.py
	$(BIN)/python benchmarks/dalle.py

gpu-check: setup  ## checks on a GPU, 8 minutes; DEVICE=cpu TINY=1 tests the script
	$(BIN)/python benchmarks/gpu_check.py $(if $(DEVICE),--device $(DEVICE)) $(if $(TINY),--tiny)

gpu-records: setup  ## published numbers that a GPU reaches in minutes
	$(BIN)/python benchmarks/gpu_records.py

reproduce: setup  ## make reproduce ID=vae-mnist-nll
	$(BIN)/python reproduce.py $(if $(ID),run $(ID),list)

readme: setup  ## rewrite the table of systems in README.md
	$(BIN)/python readme.py
