# Shared by tests/e2e/*.sh (sourced). $T: private folder, $GV: the compiler; both are absolute.
set -eu
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}

fail() { echo "FAIL: $*"; exit 1; }
skip() { echo "$*"; exit 77; }

# Real English text of the repository itself: a few hundred KB would be too much, the models are tiny.
text() { cat models/*.gdl ir/README.md tests/models/*.gdl | tr -d '\200-\377' >"$T/text"; }

# compile NAME FILE [options]: emits and builds into $T/NAME. Programs with like Makefiles share the runtime's objects.
compile() {
	local name=$1 objects
	shift
	"$GV" "$@" -o "$T/$name" --quiet || fail "galvatronc $*"
	objects=$T/objects-$(grep -E '^(RUNTIME|FLAGS|COMMAND)' "$T/$name/Makefile" | cksum | cut -d' ' -f1)
	[ ! -d "$objects" ] || [ -d "$T/$name/obj" ] || cp -rp "$objects" "$T/$name/obj"
	make -s -C "$T/$name" >"$T/$name.make" 2>&1 || { cat "$T/$name.make"; fail "make of $*"; }
	[ ! -s "$T/$name.make" ] || { cat "$T/$name.make"; fail "warnings in what $* emitted"; }
	[ -d "$objects" ] || { cp -rp "$T/$name/obj" "$objects" && rm -f "$objects"/stage_*; }
}

# losses NAME [options]: "step K LOSS NORM" lines of a program on $T/text, in file order.
losses() {
	local name=$1
	shift
	"$T/$name/stage_0" --data "$T/text" --order sequential --json "$@" >"$T/$name.json" 2>"$T/$name.log" ||
		{ cat "$T/$name.log"; fail "$name/stage_0 $*"; }
	sed -n 's/.*"step": *\([0-9]*\), *"loss": *\([^,]*\), *"norm": *\([^,}]*\).*/step \1 \2 \3/p' "$T/$name.json"
}

# interpreted FILE [options]: the same lines from the interpreter.
interpreted() {
	"$GV" eval "$@" --data="$T/text" | sed 's/ loss / /; s/ norm / /' || fail "galvatronc eval $*"
}

# agree A B TOLERANCE [OTHER]: the same number of "step K LOSS NORM" lines, the loss within a relative tolerance, the norm within it or the other.
agree() {
	paste "$1" "$2" | awk -v tol="$3" -v other="${4:-$3}" -v a="$1" -v b="$2" '
		function off(x, y, tol) { d = x - y; if (d < 0) d = -d; m = y < 0 ? -y : y; return d > tol * m || x != x || d != d }
		NF != 8 || $1 != $5 { print "lines differ: " $0; bad = 1; next }
		off($3, $7, tol) || off($4, $8, other) { print a " and " b " differ: " $0; bad = 1 }
		END { if (NR == 0) { print "no lines in " a; bad = 1 } exit bad }' || fail "$1 and $2 differ by more than $3"
}
