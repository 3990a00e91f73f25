# galvatronc. Targets:
#   all        build/galvatronc and build/gvprof (default)
#   demo       train a small GPT on real English text: installs what is missing, builds, trains, samples
#   check      the tests, at most 12 minutes on 2 cores; check-all: everything
#   asan hard  the compiler under address and undefined-behaviour sanitizers; with every limit made hostile
#   bench-host tokens per second against PyTorch on the same cores
#   bench-ranks two ranks with one thread against one rank with two
#   bench-search planning times of whole processes, with the bodies lowered for them
#   bench-solve microseconds of the solver; DATA=FOLDER: of that folder's tables too, by its check.py
#   bench-hosts plans change with the network between two network namespaces (root)
#   bench-predict predicted against measured step times of plans on this machine, after gvprof
#   bench-a100 predicts Megatron's measured steps on A100: DATA=FOLDER OUT=pred.csv, a time (ms) a row; fit-a100 fits its constants
#   format     clang-format the sources (check fails if it would change one)
#   clean      removes build/
# V=1 shows the commands.
BUILD  ?= build
CC     ?= gcc
OPT    ?= -O2 -g
WARN   := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla
EXTRA  ?=
CFLAGS += -std=c11 -D_GNU_SOURCE -ffp-contract=off $(OPT) $(WARN) $(EXTRA) -I. -I$(BUILD) -MMD -MP
LDLIBS += -ljansson -lm
Q      := $(if $(V),,@)

SRC    := $(sort $(wildcard ir/*.c passes/*.c codegen/*.c) $(filter-out frontend/main.c,$(wildcard frontend/*.c)))
GEN    := $(BUILD)/frontend/parser.c $(BUILD)/frontend/lexer.c $(BUILD)/frontend/prelude.c
OBJ    := $(SRC:%.c=$(BUILD)/%.o) $(GEN:%.c=%.o)
MAIN   := $(BUILD)/frontend/main.o
UNIT   := $(sort $(wildcard tests/unit/*.c tests/props/*.c))

all: $(BUILD)/galvatronc $(BUILD)/gvprof

$(BUILD)/galvatronc: $(MAIN) $(BUILD)/libgv.a
	@echo "  LD    $@"
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# The profiler includes nothing of the compiler; rig.c is built by it, not into it.
GVPROF := $(patsubst %.c,$(BUILD)/%.o,$(filter-out runtime/gvprof/rig.c,$(sort $(wildcard runtime/gvprof/*.c))))
$(GVPROF): CFLAGS += -DRUNTIME_DIR='"$(abspath runtime)"'

$(BUILD)/gvprof: $(GVPROF)
	@echo "  LD    $@"
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/libgv.a: $(OBJ)
	@echo "  AR    $@"
	$(Q)rm -f $@ && ar rcs $@ $^

$(BUILD)/%.o: %.c | $(BUILD)/frontend/parser.h
	@echo "  CC    $<"
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS) -c -o $@ $<

# The one path the compiler knows: where the sources are that its programs link.
$(BUILD)/codegen/makefile.o: CFLAGS += -DGV_RUNTIME_DIR='"$(abspath runtime)"'

$(BUILD)/%.o: $(BUILD)/%.c
	@echo "  CC    $<"
	$(Q)$(CC) $(CFLAGS) -Wno-error -w -c -o $@ $<

$(BUILD)/frontend/parser.c $(BUILD)/frontend/parser.h &: frontend/parser.y
	@echo "  BISON $<"
	$(Q)mkdir -p $(@D) && bison -Wall -Wcounterexamples -Werror --defines=$(BUILD)/frontend/parser.h -o $(BUILD)/frontend/parser.c $<

$(BUILD)/frontend/lexer.c $(BUILD)/frontend/lexer.h &: frontend/lexer.l
	@echo "  FLEX  $<"
	$(Q)mkdir -p $(@D) && flex --header-file=$(BUILD)/frontend/lexer.h -o $(BUILD)/frontend/lexer.c $<

$(BUILD)/frontend/lexer.o: $(BUILD)/frontend/parser.h
$(BUILD)/frontend/%.o: $(BUILD)/frontend/lexer.h

# The prelude is a GDL file compiled into the compiler.
$(BUILD)/frontend/prelude.c: models/prelude.gdl
	$(Q)mkdir -p $(@D) && { echo 'extern const char fe_prelude[];'; echo 'const char fe_prelude[] ='; \
	  sed 's/\\/\\\\/g; s/"/\\"/g; s/^/"/; s/$$/\\n"/' $<; echo ';'; } > $@

$(BUILD)/tests/%: tests/%.c $(BUILD)/libgv.a
	@echo "  TEST  $@"
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< $(BUILD)/libgv.a $(LDLIBS)

# ---- tests ----
RT_SRC   := $(sort $(wildcard runtime/*.c))
RT_FLAGS := -std=gnu11 -O2 -g -march=native -fopenmp -fno-math-errno -fno-trapping-math -Wall -Wextra -Werror -Wno-unused-function -Iruntime -I.
RT_TEST  := $(patsubst tests/runtime/%.c,$(BUILD)/tests/runtime/%,$(wildcard tests/runtime/*.c))

$(BUILD)/tests/runtime/%: tests/runtime/%.c $(RT_SRC) $(wildcard runtime/*.h)
	@echo "  TEST  $@"
	$(Q)mkdir -p $(@D) && $(CC) $(RT_FLAGS) -o $@ $< $(RT_SRC) -lopenblas -lm
	$(Q)$(CC) $(RT_FLAGS) -DGVRT_F64 -o $@_f64 $< $(RT_SRC) -lopenblas -lm

# What parity.sh reads gradients with.
$(BUILD)/tests/torch/gradstat: tests/torch/gradstat.c $(RT_SRC) $(wildcard runtime/*.h)
	@echo "  TEST  $@"
	$(Q)mkdir -p $(@D) && $(CC) $(RT_FLAGS) -DGVRT_F64 -o $@ $< $(RT_SRC) -lopenblas -lm

# What e2e/plans.sh compares checkpoints with.
$(BUILD)/tests/plans/compare: tests/plans/compare.c $(RT_SRC) $(wildcard runtime/*.h)
	@echo "  TEST  $@"
	$(Q)mkdir -p $(@D) && $(CC) $(RT_FLAGS) -DGVRT_F64 -o $@ $< $(RT_SRC) -lopenblas -lm

# Fuzzers are built by clang with the compiler's own sources: libFuzzer, address and undefined-behaviour sanitizers.
FUZZ_CC := clang-14
FUZZ    := $(patsubst tests/fuzz/%.c,$(BUILD)/tests/fuzz/%,$(sort $(wildcard tests/fuzz/*.c)))
FUZZ_FLAGS := -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined

$(BUILD)/tests/fuzz/%: tests/fuzz/%.c $(BUILD)/fuzz/libgv.a
	@echo "  FUZZ  $@"
	$(Q)mkdir -p $(@D) && $(FUZZ_CC) $(CFLAGS) -Wno-missing-field-initializers -O1 $(FUZZ_FLAGS) -Iruntime -o $@ $< $(BUILD)/fuzz/libgv.a $(LDLIBS)

$(BUILD)/fuzz/libgv.a: $(SRC) $(wildcard frontend/*.[ly])
	$(Q)$(MAKE) --no-print-directory BUILD=$(BUILD)/fuzz CC=$(FUZZ_CC) EXTRA=-Wno-missing-field-initializers OPT='-O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined' $@

setup-%:
	@tests/setup.sh $*

unit: $(UNIT:%.c=$(BUILD)/%)
	$(Q)for t in $^; do $$t || exit 1; done

programs: all $(UNIT:%.c=$(BUILD)/%) $(RT_TEST) $(FUZZ) $(BUILD)/tests/torch/gradstat $(BUILD)/tests/plans/compare

check: setup-check
	$(Q)$(MAKE) --no-print-directory -j2 programs
	$(Q)BUILD=$(BUILD) tests/run.sh

check-all: setup-check
	$(Q)$(MAKE) --no-print-directory -j2 programs
	$(Q)BUILD=$(BUILD) FUZZ_SECONDS=600 CHECK_ALL=1 TEST_TIMEOUT=3600 tests/run.sh

asan:
	$(Q)$(MAKE) --no-print-directory BUILD=$(BUILD)/asan OPT='-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined' all unit

hard:
	$(Q)$(MAKE) --no-print-directory BUILD=$(BUILD)/hard OPT='-O1 -g -DGV_HARD -fsanitize=address,undefined -fno-sanitize-recover=undefined' all unit

# ---- the demo and the benchmarks ----
demo: setup-demo
	$(Q)$(MAKE) --no-print-directory -j2 all
	$(Q)BUILD=$(BUILD) tests/demo.sh

PYTHON ?= python3
$(BUILD)/ceiling: tests/bench/ceiling.c
	$(Q)mkdir -p $(@D) && $(CC) -O3 -march=native -fopenmp -o $@ $< -lopenblas

# Needs PyTorch 2.13.0: PYTHON=... names a Python that has it.
bench-host: all $(BUILD)/ceiling
	$(Q)$(PYTHON) tests/bench/host.py $(BUILD)/galvatronc $(BUILD)/bench $(BUILD)/ceiling

# Two ranks against one; needs mpirun.
bench-ranks: all
	$(Q)tests/bench/ranks.sh $(abspath $(BUILD)/galvatronc) $(abspath $(BUILD)/bench-ranks)

# Predicted against measured step times; needs mpirun and a quiet machine, takes under ten minutes.
bench-predict: all
	$(Q)tests/bench/predict.sh $(abspath $(BUILD)/galvatronc) $(abspath $(BUILD)/bench-predict)

# tests/bench/a100/README.md. SVG=FILE draws the scatter plot.
bench-a100: all
	$(Q)$(if $(and $(DATA),$(OUT)),,$(error make bench-a100 DATA=FOLDER OUT=pred.csv))python3 tests/bench/a100/bench.py $(BUILD)/galvatronc $(DATA) $(OUT) $(SVG)

fit-a100: all
	$(Q)$(if $(DATA),,$(error make fit-a100 DATA=FOLDER))python3 tests/bench/a100/fit.py $(BUILD)/galvatronc $(DATA) models/clusters/a100.hw

# Planning alone, by models and clusters.
bench-search: all
	$(Q)tests/bench/search.sh $(BUILD)/galvatronc

# check.py is the folder's own: it says what an answer must hold.
bench-solve: all $(BUILD)/tests/bench/solve
	$(Q)$(BUILD)/tests/bench/solve
	$(Q)if [ -e "$(DATA)/check.py" ]; then $(PYTHON) $(DATA)/check.py "$(BUILD)/galvatronc --solve"; fi

# Plans for a fast and a slow network between two network namespaces, run over the slow one; needs root.
bench-hosts: all
	$(Q)tests/bench/hosts.sh $(abspath $(BUILD)/galvatronc) $(abspath $(BUILD)/bench-hosts)

format:
	$(Q)clang-format -i $$(git ls-files '*.c' '*.h')

clean:
	rm -rf $(BUILD)

.PHONY: all unit programs format clean demo check check-all asan hard bench-host bench-ranks bench-search bench-solve bench-predict bench-hosts bench-a100 fit-a100
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
