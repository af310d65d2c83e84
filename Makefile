# Two commands do everything on a fresh machine: `make night` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
RUN := .venv/.run
STAMP := .venv/.ready
DOCS := .venv/.docs
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: run setup night test verify docs
run: $(RUN)
setup: $(STAMP)

# What a clinic installs: no test tools, no OpenCV.
# torch goes first and alone: asked for by another package, pip may choose a build with several GB for GPUs.
$(RUN): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	$(PIP) -e .
	touch $(RUN)

# What developers need beside it. rt-utils (the second opinion of `recontour check --deep`) asks for an OpenCV that needs a
# screen's libraries; it goes without its own requirements, and the headless build is pinned beside it. nnU-Net's networks
# (dynamic-network-architectures) ask for a whole zoo of others, which their U-Nets do not need.
$(STAMP): $(RUN)
	$(PIP) -e '.[dev,models]'
	$(PIP) --no-deps rt-utils opencv-python-headless dynamic-network-architectures
	touch $(STAMP)

# The sample course as a clinic would see it: a night for the planning CT, then one for each fraction's image.
night: run
	[ -d night/sample ] || $(BIN)/recontour sample -o night/sample
	mkdir -p night/inbox/plan
	for come in plan/CT fraction_01 fraction_02 fraction_03; do \
		cp -R night/sample/$$come night/inbox/$$(dirname $$come); \
		$(BIN)/recontour nightly night/inbox -o night/outbox --settle-minutes 0; status=$$?; \
		[ $$status -eq 0 ] || [ $$status -eq 3 ] || exit $$status; \
		cp night/sample/plan/*.dcm night/inbox/plan; \
	done
	@echo "Open night/outbox/index.html"

test: setup
	$(BIN)/ruff check .
	$(BIN)/pyright --threads 2
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# The documentation as a site that opens without a server: site/index.html.
$(DOCS): $(RUN)
	$(PIP) -e '.[docs]'
	touch $(DOCS)

docs: $(DOCS)
	$(BIN)/mkdocs build --strict --quiet
	@echo "Open site/index.html"

# What trains, calibrates and ships a model is run by hand, on cases made from the patients; here the shipped one is measured.
BY_HAND := $(addprefix benchmarks/,headneck_cases.py train_headneck.py train_targets.py ship_headneck.py confidence.py networks.py)

verify: setup
	for figures in $(filter-out $(BY_HAND),$(wildcard benchmarks/*.py)); do $(BIN)/python $$figures || exit 1; done
	$(BIN)/python benchmarks/headneck_cases.py out/cases
	$(BIN)/python benchmarks/networks.py contour/models/headneck out/cases/validation
	$(BIN)/python benchmarks/networks.py contour/models/headneck_targets out/cases/validation --record targets
