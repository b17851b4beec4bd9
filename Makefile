# order_idempotency: build, installation, tests, demo.  "make help" lists what
# there is.  This file must parse, and setup, test and demo must work, where
# PostgreSQL is not yet installed.

# the version; "make checkver" compares what else names it
EXTVERSION = 1.1

# the major version that setup installs, and that test and demo run on
PG_MAJOR ?= 15

EXTENSION = order_idempotency
MODULE_big = order_idempotency

ifneq (,$(wildcard /usr/lib/postgresql/$(PG_MAJOR)/bin/pg_config))
PG_CONFIG ?= /usr/lib/postgresql/$(PG_MAJOR)/bin/pg_config
else
PG_CONFIG ?= pg_config
endif

# the directory of this file: builds outside of it (make -f) work too
top := $(patsubst %/,%,$(dir $(abspath $(firstword $(MAKEFILE_LIST)))))

# what PGXS builds, installs and checks
in_top = $(patsubst $(top)/%,%,$(sort $(wildcard $(top)/$(1))))
OBJS := $(patsubst %.c,%.o,$(call in_top,src/*.c))
DATA := $(call in_top,$(EXTENSION)--*.sql)
HEADERS := $(call in_top,src/order_sink.h)
REGRESS := $(notdir $(basename $(call in_top,sql/*.sql)))
ISOLATION := $(notdir $(basename $(call in_top,test/isolation/specs/*.spec)))
TAP_TESTS := $(if $(call in_top,test/t/*.pl),1)
PROVE_TESTS := $(call in_top,test/t/*.pl)
REGRESS_OPTS = --load-extension=$(EXTENSION)
ISOLATION_OPTS = --load-extension=$(EXTENSION) --inputdir=$(top)/test/isolation

# Warnings are errors, those of the server's headers left out.  Callbacks have
# the server's signatures, so not all of their parameters are used.
PG_CFLAGS = -Wall -Wextra -Werror -Wno-unused-parameter \
	-isystem $(shell $(PG_CONFIG) --includedir-server)

# Only what the server looks up by name is visible outside.
SHLIB_EXPORTS = exports.txt
EXTRA_CLEAN = exports.txt results regression.diffs regression.out tmp_check

# no bitcode: none of this is worth inlining into a query
override with_llvm = no

pgxs := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)

ifneq (,$(pgxs))
export PG_CONFIG
PGXS := $(pgxs)
include $(PGXS)

PROVE_FLAGS += -I $(top)/test/lib

print-includedir:
	@echo $(includedir_server)
.PHONY: print-includedir

exports.txt: $(addprefix $(top)/,$(DATA)) $(wildcard $(top)/src/*.[ch]) $(top)/scripts/exports
	$(top)/scripts/exports $(top) >$@.tmp
	mv $@.tmp $@

# one directory in the build tree for each in the source tree
$(OBJS): $(wildcard $(top)/src/*.h) $(top)/Makefile | $(CURDIR)/src
$(CURDIR)/src:
	mkdir -p $@

sinks = mkdir -p src/sinks && $(MAKE) -C src/sinks -f $(top)/src/sinks/Makefile

all: all-sinks
all-sinks: all-lib
	+$(sinks) all
install: install-sinks
install-sinks: all-sinks installdirs
	+$(sinks) install
uninstall: uninstall-sinks
uninstall-sinks:
	+$(sinks) uninstall
clean: clean-sinks
clean-sinks:
	+$(sinks) clean
.PHONY: all-sinks install-sinks uninstall-sinks clean-sinks

else
all install installcheck:
	@echo "$(PG_CONFIG) not found: run \"make setup\", or name it with PG_CONFIG=..." >&2
	@exit 1
.PHONY: all install installcheck
endif

# How test and demo are run; see scripts/private.
export PG_MAJOR PGDG KIND TESTS FUZZ_CALLS FUZZ_SECONDS FUZZ_SESSIONS SEED

help:
	@sed -n 's/^## //p' $(top)/Makefile

## make                 build with the pg_config that is found, or PG_CONFIG=...
## make install         install into that server
## make installcheck    run the tests against that server, as it runs
## make setup           install the packages that are missing (root, or sudo); PGDG=yes
##                      adds the PostgreSQL project's sources where the machine's lack it
setup:
	@$(top)/scripts/setup

## make test            build and run every test on servers of its own, in build/
##                      KIND="regress pgtap isolation tap examples torture" and TESTS="name ..."
##                      choose some of them
test:
	@$(top)/scripts/private test scripts/run-tests

## make test-matrix     the same with PostgreSQL of other major versions, which are fetched:
##                      VERSIONS="17 18", KIND and TESTS as above
test-matrix:
	@$(top)/scripts/test-matrix $(or $(VERSIONS),17 18)

## make coverage        run the tests, as KIND and TESTS choose them, and show which lines of
##                      the C sources they ran; runs add up
coverage:
	@OI_COVERAGE=yes OI_COMMIT=$$(git -C $(top) describe --always 2>/dev/null) $(top)/scripts/private coverage scripts/coverage
.PHONY: test-matrix coverage

## make fuzz            random and hostile arguments to every SQL function, sqlsmith, and libFuzzer:
##                      FUZZ_CALLS=1000000, FUZZ_SECONDS=60, FUZZ_SESSIONS=4, SEED=1
fuzz:
	@$(top)/scripts/setup fuzz
	@$(top)/scripts/private fuzz scripts/run-fuzz
.PHONY: fuzz

## make torture         32 clients, every sink, a primary and its standby, and faults of many
##                      kinds; then a checker. SEED=, FAULTS=100, SECONDS=, SINKS="file http ..."
torture:
	@$(top)/scripts/private torture test/torture/run $(torture_options)

torture_options = $(if $(SEED),--seed "$(SEED)") $(if $(FAULTS),--faults "$(FAULTS)") \
	$(if $(filter-out 0,$(SECONDS)),--seconds "$(SECONDS)") $(if $(SINKS),--sinks "$(SINKS)") \
	--commit "$$(git -C $(top) describe --always --dirty 2>/dev/null || echo unknown)"

## make torture-mutants bugs are planted one by one, and the torture has to catch each;
##                      results in test/torture/README.md. MUTANTS="name ...", FAULTS=40 a run
torture-mutants:
	+@status=0; $(top)/scripts/private torture test/torture/mutate $(mutants_options) || status=$$?; \
		$(top)/test/torture/mutate --publish $(top)/build/torture/work/mutants.json \
			$(top)/test/torture/README.md; exit $$status

mutants_options = $(if $(FAULTS),--faults "$(FAULTS)") $(if $(SEED),--seed "$(SEED)") \
	--commit "$$(git -C $(top) describe --always --dirty 2>/dev/null || echo unknown)" $(MUTANTS)

## make sanitized       the tests, as KIND and TESTS choose them, on a server that is built from Debian's
##                      source package with assertions, AddressSanitizer and UndefinedBehaviorSanitizer;
##                      KIND=torture FAULTS=100: the torture, with SEED, SECONDS and SINKS as above
## make valgrind        KIND="regress pgtap isolation" on such a server, with each process under valgrind
sanitized valgrind:
	@OI_CHECKED=$@ $(top)/scripts/private $@$(checked_torture:%=-torture) \
		$(if $(checked_torture),test/torture/run $(torture_options),scripts/run-tests)

checked_torture = $(if $(FAULTS),$(filter torture,$(KIND)))
valgrind: KIND := $(or $(KIND),regress pgtap isolation)
.PHONY: sanitized valgrind

## make demo            play ten thousand order requests, with crashes; leaves its server up
demo:
	@$(top)/scripts/private demo examples/demo/run

## make demo-stop       stop the demo's server
demo-stop:
	@$(top)/scripts/private --stop demo

## make bench           measure beside INSERT, PL/pgSQL, Redis, PgQ and others; results in
##                      bench/README.md.  ONLY="create replay ..." chooses sections,
##                      BENCH_ROUNDS=5, BENCH_SECONDS=5, BENCH_EVENTS=1000000 (to be
##                      drained), GROWTH="1 10 50" (millions)
bench:
	@$(top)/scripts/setup bench
	@$(top)/scripts/private bench bench/run $(bench_options)
	@$(top)/bench/publish $(top)/build/bench/work/results $(top)/bench/README.md

any_bench_options = $(if $(BENCH_ROUNDS),--rounds "$(BENCH_ROUNDS)") \
	$(if $(BENCH_EVENTS),--events "$(BENCH_EVENTS)") \
	$(if $(ONLY),--only "$(ONLY)") \
	--commit "$$(git -C $(top) describe --always --dirty 2>/dev/null || echo unknown)"
bench_options = $(any_bench_options) $(if $(BENCH_SECONDS),--seconds "$(BENCH_SECONDS)") \
	$(if $(GROWTH),--growth "$(GROWTH)")

## make bench-sinks     measure each sink beside its client library alone, with real brokers.
##                      ONLY="kafka kafka_acks rabbitmq redis nats http file" chooses,
##                      BENCH_ROUNDS=5, BENCH_EVENTS=150000
bench-sinks:
	@$(top)/scripts/setup bench
	@$(top)/scripts/private bench-sinks bench/run-sinks $(any_bench_options)
	@$(top)/bench/publish $(top)/build/bench-sinks/work/results $(top)/bench/README.md

## make check-static    format, cppcheck, shellcheck, symbols, versions, schedules
check-static:
	@$(top)/scripts/private static scripts/check-static

## make indent          format the C sources in place
indent:
	@$(top)/scripts/setup
	@$(top)/scripts/indent

## make checkver        does everything name the same version?
checkver:
	@$(top)/scripts/checkver $(EXTVERSION)

## make deb             build Debian packages, for each PostgreSQL that can be built
##                      with here, into build/deb; VERSIONS="17 18" builds for these in the
##                      Debian that has them, into build/deb-17 and so on, and tries them
##                      there (root, or sudo)
deb:
	@$(top)/scripts/setup $(if $(VERSIONS),deb)
	@$(if $(VERSIONS),set -e; for version in $(VERSIONS); do $(top)/scripts/deb-other "$$version"; done,$(top)/scripts/deb)

## make dist            make the archive for PGXN of what is committed, in build/
dist:
	@$(top)/scripts/dist

## make distclean       remove build/ too, after stopping what runs there
distclean: clean-private
clean-private:
	@$(top)/scripts/private --clean

.PHONY: torture-mutants help setup bench bench-sinks test torture demo demo-stop check-static indent checkver deb dist clean-private
ifeq (,$(pgxs))
.PHONY: clean distclean
endif
