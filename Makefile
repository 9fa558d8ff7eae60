# Every target first brings .venv up to date: `make demo` and `make test` work in a fresh clone. For the shell:
# `. .venv/bin/activate` puts `lewm` and the nodes on the PATH.
#
#   make demo GOALS=10 SEED=0 RATE=20    variables are passed on where given; the program has the defaults

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
RTX := $(CURDIR)/.venv-rtx
option = $(if $($(1)),--$(2) $($(1)))

# The ROS 2 wheels in .venv, not a ROS installation that the shell has sourced.
unexport PYTHONPATH PYTHONHOME LD_LIBRARY_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE
export AMENT_PREFIX_PATH := $(VENV)
export RMW_IMPLEMENTATION := rmw_fastrtps_cpp
export FASTRTPS_DEFAULT_PROFILES_FILE := $(CURDIR)/config/fastdds.xml
export FASTDDS_DEFAULT_PROFILES_FILE := $(CURDIR)/config/fastdds.xml
# One thread a process unless it asks for more: two busy pools on few cores are slower than one.
export OMP_NUM_THREADS ?= 1
export LP_NUM_THREADS ?= 0
export MUJOCO_GL ?= egl

.PHONY: $(shell sed -nE 's/^([a-z-]+):.*/\1/p' Makefile) adapt-demo

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 20

setup: $(VENV)/.everything  ## everything of a checkout in .venv, about 2.5 GB (targets do it by themselves): TORCH, PYTHON

run: $(VENV)/.run  ## what the demo and the nodes need, about 0.7 GB: no torch

setup-size:  ## makes the demo's environment anew and measures its size and time, into out/setup
	@$(if $(PYTHON),,$(error $(no_python)))$(PYTHON) environment.py size

demo: run  ## simulated arm, camera node and planner node reach goal pictures: GOALS of each kind, SEED, RATE (Hz), MODEL, LIGHT=changing
	$(BIN)/python -m lewm_ros.demo $(call option,GOALS,goals) $(call option,SEED,seed) $(call option,RATE,rate) \
	    $(call option,MODEL,model) $(call option,LIGHT,light)

demo-push: run  ## the same nodes push an object to where goal pictures show it: GOALS, SEED, RATE, MODEL, LIGHT=changing
	$(BIN)/python -m lewm_ros.demo --task push $(call option,GOALS,goals) $(call option,SEED,seed) $(call option,RATE,rate) \
	    $(call option,MODEL,model) $(call option,LIGHT,light)

demo-arm: setup $(VENV)/.arms  ## an arm of config/scenes does the same in three dimensions: ROBOT, TASK, GOALS, SEED, RATE, MODEL, SCENE (yours)
	$(BIN)/python -m lewm_ros.demo --task $(or $(TASK),reach)_$(or $(ROBOT),so101) $(call option,GOALS,goals) \
	    $(call option,SEED,seed) $(call option,RATE,rate) $(call option,MODEL,model) $(call option,SCENE,scene)

test: setup $(VENV)/.arms $(VENV)/.tasks  ## the test suite
	$(BIN)/python -m pytest

test-time: setup $(VENV)/.arms $(VENV)/.tasks  ## the test suite with its processor time, into out/tests
	$(BIN)/python -m validation.test_time

lint: setup  ## ruff (rules and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

gazebo-demo: setup  ## the demo's goals in Gazebo, which has to be installed, into out/gazebo: GOALS, SEED, ONLY (plain, shadow or table), TASK (reach_so101 after make .venv/.arms)
	$(BIN)/python -m validation.gazebo $(call option,GOALS,goals) $(call option,SEED,seed) $(call option,ONLY,only) \
	    $(call option,TASK,task)

engine-check: setup $(RTX)/.dependencies  ## parse and build the graphs with NVIDIA's TensorRT-RTX, on a CPU: SIZE (small, reference or push)
	$(BIN)/python -m validation.engine_check --python $(RTX)/bin/python $(call option,SIZE,size)

train-demo: setup  ## record, train and evaluate the demo's model from scratch, into out/train-demo: SEED, GOALS
	$(BIN)/python -m recipes.train_demo $(call option,SEED,seed) $(call option,GOALS,goals)

bench: setup  ## speed and success of the planner, compared with the authors' own: PARTS, GOALS
	$(BIN)/python -m benchmarks.planner $(call option,PARTS,parts) $(call option,GOALS,goals)

train-push: setup  ## record, train and evaluate the push model from scratch, into out/train-push: SEED, GOALS
	$(BIN)/python -m recipes.train_push $(call option,SEED,seed) $(call option,GOALS,goals)

train-arm: setup $(VENV)/.arms  ## record, train and evaluate a model of any arm with a scene from scratch, into out/train-arm: ROBOT (so101), TASK (reach), SEED, GOALS
	$(BIN)/python -m recipes.train_arm $(call option,ROBOT,robot) $(call option,TASK,task) $(call option,SEED,seed) \
	    $(call option,GOALS,goals)

eval-arm: setup $(VENV)/.arms  ## how often that model holds its goals, compared with random motion, hold and the straight line, into out/arm: ROBOT, TASK, GOALS, SEED, BUNDLE
	$(BIN)/lewm eval $(or $(BUNDLE),models/$(or $(ROBOT),so101)-$(or $(TASK),reach)) \
	    --task $(or $(TASK),reach)_$(or $(ROBOT),so101) --out out/arm --seed $(or $(SEED),1) $(call option,GOALS,episodes)

adapt-demo: setup  ## another scene: the shipped model, adapted ones and one trained from scratch, into out/adapt-demo: GOALS
	$(BIN)/python -m recipes.adapt_demo $(call option,GOALS,goals)

robust: setup  ## how often goals are held when light, colours, sensor or camera change, into out/robust: MODEL, GOALS of a row, DECIDE (goals of the rows that decide, 200), SEED
	$(BIN)/lewm robust $(or $(MODEL),models/reach) $(call option,GOALS,goals) $(call option,SEED,seed) \
	    --decide $(or $(DECIDE),200) --jobs 2 \
	    $(if $(MODEL),,--frames test/data/gazebo_frames/plain --frames test/data/gazebo_frames/shadow) 

eval-push: setup  ## the push task: a model, random motion, hold and the scripted policy, into out/eval-push: GOALS, SEED, BUNDLE
	$(BIN)/lewm eval $(or $(BUNDLE),models/push) --task push --out out/eval-push --seed $(or $(SEED),1) $(call option,GOALS,episodes)

house: setup  ## architecture checks: which folder may import which, no import cycles, no task or robot named in general code
	$(BIN)/python -m validation.house

faults: setup  ## fault injection: each fault RUNS times while the arm moves: SEED, JOBS
	$(BIN)/python -m validation.faults $(call option,RUNS,runs) $(call option,SEED,seed) $(call option,JOBS,jobs)

soak: setup  ## run the loop for MINUTES with changing goals: memory, latency, missed commands: SEED, LOSS (% of commands)
	$(BIN)/python -m validation.soak $(call option,MINUTES,minutes) $(call option,SEED,seed) $(call option,LOSS,loss)

fuzz: setup  ## fuzzing: damaged and random messages and files for every reader: INPUTS, SEED
	$(BIN)/python -m validation.fuzz $(call option,INPUTS,inputs) $(call option,SEED,seed)

data-cases: setup  ## conversion of recordings with typical defects, wrong pairings noticed, speed, into out/data: PARTS
	$(BIN)/python -m validation.recordings $(call option,PARTS,parts)

bench-data: setup  ## speed of loading clips, compared with the reference's HDF5 reader, at 64 and 224 pixels: ROUNDS
	$(BIN)/python -m benchmarks.loading $(call option,ROUNDS,rounds)

train-memory: setup  ## memory that training on a sparse data set of GB gigabytes takes: STEPS
	$(BIN)/python -m benchmarks.memory $(call option,GB,gb) $(call option,STEPS,steps)

viewer: setup  ## how much the planner is slowed down by the viewer, in PAIRS of runs, with pictures: SEED
	$(BIN)/python -m validation.viewer $(call option,PAIRS,pairs) $(call option,SEED,seed)

panel-check: setup  ## the panel beside the nodes: time from STOP to the command that ends the motion, and its page in a browser: STOPS, SEED, ONLY (page)
	$(BIN)/python -m validation.panel $(call option,STOPS,stops) $(call option,SEED,seed) $(call option,ONLY,only)

eval: setup  ## evaluate the shipped model: success, probes, surprise, and whether the preflight tells good models from bad: EPISODES, SEED
	$(BIN)/python -m validation.evaluate --more $(call option,EPISODES,episodes) $(call option,SEED,seed)

picture: setup  ## make the pictures of docs/ anew, from the demo and the viewer
	$(BIN)/python -m lewm_ros.demo --goals 3 --out out/picture
	$(BIN)/python -m validation.viewer --pairs 2 --out out/picture
	cp out/picture/demo.png docs/demo.png
	cp out/picture/debug_image_1.png docs/debug_image.png

equivalence: setup  ## numerical equivalence of network, loss and gradients with the authors' code: SIZE (reference or short)
	$(BIN)/python -m benchmarks.equivalence $(call option,SIZE,size)

bench-train: setup  ## speed of a training step, compared with the authors' code, same data, batch and precision: ROUNDS
	$(BIN)/python -m benchmarks.training $(call option,ROUNDS,rounds)

bench-gpu: setup  ## the same on an NVIDIA GPU: training steps, plans, decisions, TensorRT's engines: PARTS
	$(BIN)/python -m benchmarks.gpu $(call option,PARTS,parts)

bench-arm: setup $(VENV)/.arms  ## how fast arms with meshes are simulated and their plans checked, with pictures: ROUNDS
	$(BIN)/python -m benchmarks.arm $(call option,ROUNDS,rounds)

faults-train: setup  ## training killed RUNS times at a random moment, and a full disk: SEED
	$(BIN)/python -m validation.faults_train $(call option,RUNS,runs) $(call option,SEED,seed)

faults-bundle: setup  ## every command that changes a bundle, killed RUNS times: the bundle must load: SEED
	$(BIN)/python -m validation.faults_bundle $(call option,RUNS,runs) $(call option,SEED,seed)

compare-train: setup  ## a model trained by the authors' code and one by this trainer, same budget: STEPS, GOALS, SEED
	$(BIN)/python -m benchmarks.comparison $(call option,STEPS,steps) $(call option,GOALS,goals) $(call option,SEED,seed)

seed-task: setup $(VENV)/.tasks  ## LeWM's own tasks from nothing to the table, beside the authors' code: TASK (two_room reacher pusht cube), GOALS, EPISODES, STEPS, SEED, OURS=1 (without their code and planner, which take most of the time)
	$(BIN)/python -m benchmarks.seed_tasks $(call option,TASK,tasks) $(call option,GOALS,goals) \
	    $(call option,EPISODES,episodes) $(call option,STEPS,steps) $(call option,SEED,seed) $(if $(OURS),--ours)

clean:  ## remove .venv and what builds, tests and demos left behind
	rm -rf .venv .venv-rtx build install log out .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- set-up ----------------------------------------------------------------------------------------------------------

# environment.py checks what is needed before anything is downloaded, and says what to do. One .venv: `make demo` and
# other targets that train nothing need a quarter of it; training and tests install the rest.
PYTHON ?= $(shell for python in python3 python3.12 python3.11 python3.10; do \
	$$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2> /dev/null && echo $$python && break; done)

define no_python
No Python 3.10, 3.11 or 3.12 was found (the ROS 2 and torch wheels need one).
On Debian or Ubuntu: sudo apt-get install python3 python3-venv, or name one: make PYTHON=/path/to/python3.11
endef

OF_PACKAGE := environment.py package.xml setup.py setup.cfg validation/message_types.py constraints.txt

$(VENV)/.run: requirements-run.txt requirements-ros.txt $(OF_PACKAGE)
	@$(if $(PYTHON),,$(error $(no_python)))$(PYTHON) environment.py demo
	@touch $@

$(VENV)/.everything: requirements-run.txt requirements-ros.txt requirements.txt requirements-dev.txt requirements-reference.txt $(OF_PACKAGE)
	@$(if $(PYTHON),,$(error $(no_python)))TORCH=$(TORCH) $(PYTHON) environment.py all
	@touch $(VENV)/.run $@

$(RTX)/.dependencies: requirements-rtx.txt | $(VENV)/.everything
	test -x $(RTX)/bin/python || $(BIN)/python -m venv $(RTX)
	$(RTX)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-rtx.txt
	@touch $@

$(VENV)/.arms: requirements-arms.txt | $(VENV)/.everything
	@$(PYTHON) environment.py add requirements-arms.txt
	@touch $@

$(VENV)/.tasks: requirements-tasks.txt | $(VENV)/.everything
	@$(PYTHON) environment.py add requirements-tasks.txt
	@touch $@
