#!/bin/bash
# Runs the tests and prints one line each: PASS, FAIL (with its output) or SKIP (with the reason), then the totals.
#
# usage: tests/run.sh [-u] [-j N] [PATTERN]      (make check builds what this needs; BUILD names the build folder)
#   -u        rewrite golden files instead of comparing
#   PATTERN   only tests whose name contains it
#
# A test is a command. Exit status 0: pass; 77: skipped, its last line says why; anything else: fail.
#   unit/NAME  props/NAME   compiled programs from tests/unit and tests/props
#   runtime/NAME            the same against the runtime, float and double
#   golden/NAME             FILE.gdl or FILE.gir or FILE.cmd with FILE.err: the exact diagnostics, and exit status 1 or 2
#   e2e/NAME                scripts in tests/e2e (private folder in $T, compiler in $GV)
#   fuzz/NAME               fuzzers of the readers, FUZZ_SECONDS each (default 10)
set -u
cd "$(dirname "$0")/.." || exit 1
BUILD=$(realpath "${BUILD:-build}")
export BUILD GV="$BUILD/galvatronc" FUZZ_SECONDS=${FUZZ_SECONDS:-10} UPDATE=0
jobs=2 pattern=
while [ $# -gt 0 ]; do
	case "$1" in
	-u) UPDATE=1 ;;
	-j) jobs=$2; shift ;;
	*) pattern=$1 ;;
	esac
	shift
done
work=$(mktemp -d)
chmod 711 "$work" # tests that run programs as another user
trap 'rm -rf "$work"' EXIT

list() {
	local f n
	for f in tests/e2e/*.sh; do
		[ -e "$f" ] && n=${f#tests/e2e/} && echo "e2e/${n%.sh} bash $f"
	done
	for f in tests/unit/*.c tests/props/*.c; do
		[ -e "$f" ] && n=${f#tests/} && echo "${n%.c} $BUILD/tests/${n%.c}"
	done
	for f in tests/runtime/*.sh; do
		[ -e "$f" ] && n=${f#tests/runtime/} && echo "runtime/${n%.sh} bash $f"
	done
	for f in "$BUILD"/tests/runtime/*; do
		[ -x "$f" ] && echo "runtime/$(basename "$f") $f"
	done
	for f in $(find tests/frontend tests/ir tests/cli -name '*.err' 2>/dev/null | sort); do
		n=${f#tests/}
		echo "golden/${n%.err} bash tests/golden.sh ${f%.err}"
	done
	for f in "$BUILD"/tests/fuzz/*; do
		[ -x "$f" ] && echo "fuzz/$(basename "$f") bash tests/fuzz/run.sh $f"
	done
	echo "style/format bash tests/style.sh format"
	echo "style/deps bash tests/style.sh deps"
	echo "style/man bash tests/style.sh man"
}

one() { # name command...
	local name=$1 out start status took
	shift
	out=$work/$(echo "$name" | tr / _)
	mkdir -p "$out.d"
	start=$(date +%s.%N)
	T=$out.d timeout "${TEST_TIMEOUT:-600}" "$@" >"$out.out" 2>&1 </dev/null
	status=$?
	took=$(awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
	case $status in
	0) echo "PASS $name (${took}s)" ;;
	77) echo "SKIP $name: $(tail -1 "$out.out")" ;;
	*) { echo "FAIL $name (status $status, ${took}s)"; sed 's/^/    /' "$out.out" | tail -60; } ;;
	esac | tee "$out.res"
	rm -rf "$out.d"
}
export -f one
export work

list | { if [ -n "$pattern" ]; then grep -F -- "$pattern"; else cat; fi; } |
	xargs -P "$jobs" -d '\n' -I{} bash -c 'one $1' _ {}

passed=$(cat "$work"/*.res 2>/dev/null | grep -c '^PASS')
failed=$(cat "$work"/*.res 2>/dev/null | grep -c '^FAIL')
skipped=$(cat "$work"/*.res 2>/dev/null | grep -c '^SKIP')
grep -h '^FAIL' "$work"/*.res 2>/dev/null
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
