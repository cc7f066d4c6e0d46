# Everything that is done with this book from a command line; "make" alone lists it.

PYTHON  ?= python3
PROFILE ?= quick
CAP     ?= 180
SEEDS   ?= 1
CORES   ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

PROFILES  := $(basename $(notdir $(wildcard kclib/book/profiles/*.yaml)))
NOTEBOOKS := $(basename $(notdir $(wildcard notebooks/*.ipynb)))

# One thread a process, one process a core: faster than sharing threads, and the same numbers
# whatever the number of cores.
export OMP_NUM_THREADS := 1
# Large tensors in large pages, where Linux has them: it clears memory faster than in small ones.
export THP_MEM_ALLOC_ENABLE := 1
# Compiled once and kept: compiling torch anew takes each process five seconds.
unexport PYTHONDONTWRITEBYTECODE

WITH_VENV := PATH="$(CURDIR)/.venv/bin:$$PATH"
# One run a folder, and none that a killed run keeps from beginning.
ALONE     := python notebooks/alone.py
SNAKEMAKE  = $(ALONE) snakemake --nolock $(if $(CLUSTER),$(ON_CLUSTER),--cores $(CORES)) $(STORED) \
             --rerun-incomplete
ON_CLUSTER = --profile cluster/$(CLUSTER) $(if $(filter smoke,$(PROFILE)),--workflow-profile cluster/short) \
             $(ON_$(CLUSTER))
# Without a data base of accounts, sacct never says that a job has ended; squeue does.
ON_slurm   = --slurm-status-command $(shell sacct -n -X -j 1 >/dev/null 2>&1 && echo sacct || echo squeue) \
             $(if $(ACCOUNT),,--slurm-no-account) $(if $(ACCOUNT)$(PARTITION),--default-resources \
             $(if $(ACCOUNT),slurm_account=$(call quoted,$(ACCOUNT))) \
             $(if $(PARTITION),slurm_partition=$(call quoted,$(PARTITION))))
ON_kubernetes = --container-image $(call quoted,$(IMAGE)) \
             $(if $(NAMESPACE),--kubernetes-namespace $(call quoted,$(NAMESPACE))) \
             $(if $(VOLUMES),--kubernetes-persistent-volumes $(foreach v,$(VOLUMES),$(call quoted,$(v))))
STORED     = $(if $(STORAGE),--default-storage-provider s3 --default-storage-prefix $(call quoted,$(STORAGE)))
# Within a budget, one job that fails does not keep the others from beginning.
RECORD     = $(if $(BUDGET),python notebooks/budget.py $(BUDGET)) $(SNAKEMAKE) \
             $(if $(BUDGET),--keep-going)
PYTEST     = $(WITH_VENV) pytest -n $(CORES) --dist loadfile

# What is given, as one word of the shell, whatever is in it.
quoted     = '$(subst ','\'',$(1))'
# The value of a variable if it has a form, else nothing.
in_form    = $(shell printf %s $(call quoted,$($(1))) | grep -Ex $(2))
a_number   = $(if $(call in_form,$(1),'[1-9][0-9]*'),,\
             $(error $(1) is "$($(1))"; write a whole number above 0))

.DEFAULT_GOAL := help
.PHONY: help book data compare notebook record test test-oldest bench faults cluster-test course lint clean \
        clean-store

# Requests that cannot be met are refused before anything is installed or computed.
ifneq ($(filter book data notebook record bench,$(MAKECMDGOALS)),)
  ifeq ($(filter $(PROFILE),$(PROFILES)),)
    $(error there is no profile "$(PROFILE)"; PROFILE may be one of: $(PROFILES))
  endif
endif
$(call a_number,CORES)
ifneq ($(CLUSTER),)
  ifeq ($(filter $(CLUSTER),slurm kubernetes),)
    $(error there is no cluster "$(CLUSTER)"; CLUSTER may be: slurm, kubernetes)
  endif
  ifeq ($(CLUSTER),kubernetes)
    $(if $(STORAGE),,$(error jobs on Kubernetes share no folder; say where they keep what they make: STORAGE=s3://bucket/prefix))
    $(if $(IMAGE),,$(error which image do the jobs run in? Say IMAGE=..., made from cluster/kubernetes/Dockerfile))
  endif
endif
ifneq ($(STORAGE),)
  ifeq ($(call in_form,STORAGE,'s3://[a-z0-9][a-z0-9.-]*(/[A-Za-z0-9_.-]+)+'),)
    $(error STORAGE is "$(STORAGE)"; write s3://bucket/prefix)
  endif
endif
ifneq ($(CLUSTER)$(STORAGE),)
  ifeq ($(filter book record,$(MAKECMDGOALS)),)
    $(error CLUSTER and STORAGE are for make book and make record; other targets run here)
  endif
endif
ifneq ($(filter bench,$(MAKECMDGOALS)),)
  $(foreach name,CAP SEEDS,$(call a_number,$(name)))
endif
ifneq ($(BUDGET),)
  ifeq ($(filter record,$(MAKECMDGOALS)),)
    $(error BUDGET is for make record; other targets run to their end)
  endif
  ifeq ($(call in_form,BUDGET,'([0-9]+\.?[0-9]*|\.[0-9]+)[smh]?'),)
    $(error BUDGET is "$(BUDGET)"; write a time such as 90s, 20m or 1.5h)
  endif
endif
ifneq ($(filter notebook,$(MAKECMDGOALS)),)
  ifeq ($(NAME),)
    $(error which notebook? Say make notebook NAME=..., one of: $(NOTEBOOKS))
  endif
  ifeq ($(filter $(NAME),$(NOTEBOOKS)),)
    $(error there is no notebook "$(NAME)"; NAME may be one of: $(NOTEBOOKS))
  endif
  $(foreach p,$(PARAMS),$(if $(findstring =,$(p)),,\
    $(error PARAMS: "$(p)" gives no value; write PARAMS="seed=3 order=1", without spaces around =)))
endif

help: ## list these targets
	@echo "make TARGET [VARIABLE=value ...]"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "Variables, with the values they have now:"
	@echo "  PROFILE=$(PROFILE)     data, networks and effort, one of: $(PROFILES)"
	@echo "  CORES=$(CORES)           processes at a time, each of one thread"
	@echo "  CLUSTER=           book and record: send jobs to slurm (PARTITION=... ACCOUNT=...) or to kubernetes"
	@echo "                     (IMAGE=... STORAGE=..., NAMESPACE=... VOLUMES=claim:/data)"
	@echo "  STORAGE=           book and record: keep what jobs make in a store of objects, s3://bucket/prefix"
	@echo "  BUDGET=            record: time after which it stops, e.g. 90s, 20m or 1.5h; call again to go on"
	@echo "  CAP=$(CAP)           bench: seconds that a run of the authors' recipe may take"
	@echo "  SEEDS=$(SEEDS)           bench: with how many seeds it runs"
	@echo "  PYTHON=$(PYTHON)    the Python, 3.11.4 or newer, that .venv is made with"

book: .venv/.installed $(if $(CLUSTER)$(STORAGE),.venv/.cluster) ## run all notebooks in PROFILE and build the book from them
	$(WITH_VENV) $(SNAKEMAKE) --config profile=$(PROFILE)
	@echo "Done: open $(CURDIR)/book/_build/html/index.html in a browser."

data: .venv/.installed ## fetch the photographs that PROFILE needs into the folder that KC_DATA names
	@$(WITH_VENV) python -m kclib data --profile $(PROFILE)

compare: .venv/.installed ## compare two networks of yours: A=... B=... IMAGES=folder OUT=report OPTIONS="--size 64"
	@$(WITH_VENV) kclib compare $(if $(A),$(call quoted,$(A))) $(if $(B),$(call quoted,$(B))) \
	    $(if $(IMAGES),--images $(call quoted,$(IMAGES))) \
	    --out $(call quoted,$(or $(OUT),report)) $(OPTIONS)

# Its files stay apart from the book's, which are those of the parameters' defaults.
notebook: .venv/.installed ## run one notebook, e.g. NAME=table1_instability PARAMS="seed=3 order=1"
	@mkdir -p book/_build/runs
	$(WITH_VENV) KC_RESULTS="$(CURDIR)/book/_build/runs/results" python notebooks/run.py $(NAME) \
	    --profile $(PROFILE) --output book/_build/runs/$(NAME).ipynb \
	    $(foreach p,$(PARAMS),-p $(subst =,' ',$(call quoted,$(p))))
	@echo "Done: open $(CURDIR)/book/_build/runs/$(NAME).ipynb in Jupyter."

record: .venv/.installed $(if $(CLUSTER)$(STORAGE),.venv/.cluster) ## run all notebooks in PROFILE and write results/PROFILE (BUDGET=20m: what fits)
	$(WITH_VENV) $(RECORD) --config profile=$(PROFILE) record=true

# The tests have their own store, so that they start from what they make themselves. Paths are
# absolute because a notebook's kernel works in the notebook's folder. The book comes before nbval:
# it trains the networks that the notebooks share, in parallel. A run that it would meet there is
# met first. In the browser, one file's tests, page by page, take nearly all of the time.
test: export KC_STORE := $(CURDIR)/book/_build/test/store
test: export KC_PROFILE := smoke
test: export KC_DEVICE := cpu
test: lint ## check style, code, the book (profile smoke), its numbers and pages, the notebooks' outputs
	@$(WITH_VENV) $(ALONE) true
	$(PYTEST) tests kclib --ignore tests/numbers --ignore tests/browser
	$(WITH_VENV) $(SNAKEMAKE) --config profile=smoke
	$(PYTEST) --dist worksteal tests/numbers tests/browser
	KC_RESULTS="$(CURDIR)/book/_build/test/results" KC_PROGRESS=/dev/null $(PYTEST) --timeout=0 \
	    --nbval --nbval-current-env --nbval-cell-timeout=600 --nbval-sanitize-with notebooks/nbval.cfg \
	    notebooks/*.ipynb

# The method needs no more than its own packages: tests that need the book's are left out.
OF_THE_BOOK := kclib.book|kclib.report|made_up|notebooks|snakemake|nbformat|yaml
test-oldest: .venv-oldest/.installed ## check the method with the oldest versions that pyproject.toml allows
	PATH="$(CURDIR)/.venv-oldest/bin:$$PATH" pytest --ignore kclib/book --ignore kclib/report --doctest-modules kclib \
	    $$(grep -LE "$(OF_THE_BOOK)" tests/test_*.py)

# One process, so that what is compared runs under the same conditions.
bench: .venv/.installed ## time the solver and the matrix of layers against others' code, into results/bench
	$(WITH_VENV) KC_RESULTS="$(CURDIR)/results/bench" python bench/solver.py --profile $(PROFILE) \
	    --cap $(CAP) --seeds $(SEEDS) $(if $(PAIRS),--pairs $(foreach p,$(PAIRS),$(call quoted,$(p))))
	$(if $(PAIRS),,$(WITH_VENV) KC_RESULTS="$(CURDIR)/results/bench" python bench/layers.py)
	$(if $(GROWTH),$(WITH_VENV) KC_RESULTS="$(CURDIR)/results/bench" python bench/growth.py)

faults: .venv/.installed ## kill runs, damage what they made, and see that they go on (SHORT=1: five kills)
	$(WITH_VENV) python faults/run.py --cores $(CORES) $(if $(SHORT),--short)

cluster-test: .venv/.cluster-test ## run the smoke book through clusters of its own, and disturb it (SHORT=1: a part)
	@$(WITH_VENV) python faults/cluster.py $(if $(SHORT),--short)

course: .venv/.installed ## write the course's notebooks: course/student.zip and course/teacher.zip
	$(WITH_VENV) python course/build.py

lint: .venv/.installed ## check style, docstrings and types of code and notebooks
	$(WITH_VENV) ruff check .
	$(WITH_VENV) ruff format --check .
	$(WITH_VENV) mypy

clean: ## remove what was built (not .kc-store and .venv)
	rm -rf book/_build book/_generated .snakemake build kclib.egg-info \
	    .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . \( -path ./.venv -o -path ./.kc-store -o -path ./.git \) -prune -o \
	    -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
	@echo "Kept: .kc-store with its trained networks (make clean-store removes it), and .venv."

clean-store: ## remove .kc-store: trained networks and features, which take the time
	rm -rf .kc-store

.venv-oldest/.installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --no-compile -c constraints-oldest.txt -e . \
	    pytest pytest-timeout hypothesis packaging
	@touch $@

.venv/.cluster: .venv/.installed
.venv/.cluster-test: .venv/.cluster # both: the test's copy of the repository must find it made
.venv/.cluster .venv/.cluster-test: .venv/.%:
	.venv/bin/python -m pip install --quiet --no-compile -c constraints.txt -e ".[$*]"
	@touch $@

# Made anew whenever the dependencies change, so that it never holds what the two files do not say.
# Python compiles what it imports; compiling everything here (no --no-compile) doubles the time.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' || { \
	    echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
	        "Python 3.11.4 or newer is needed: make ... PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --no-compile -c constraints.txt -e ".[book,test,bench,hubs]"
	@touch $@
