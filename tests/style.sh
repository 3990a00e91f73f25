#!/bin/bash
# House rules that a machine can check: tests/style.sh format|deps|man
set -u
cd "$(dirname "$0")/.." || exit 1
bad=0
complain() { echo "$*"; bad=1; }

case "$1" in
format) # clang-format would change nothing
	command -v clang-format-14 >/dev/null || { echo "clang-format-14 is not installed"; exit 77; }
	for f in $(git ls-files '*.c' '*.h'); do
		clang-format-14 "$f" | cmp -s - "$f" || complain "$f: run make format"
	done
	;;
deps) # who may include whom; who may allocate or exit
	for f in $(git ls-files '*.c' '*.h' '*.l' '*.y'); do
		dir=${f%%/*}
		case "$dir" in
		ir) allowed='ir' ;;
		frontend) allowed='frontend|ir' ;;
		passes) allowed='passes|ir' ;;
		codegen) allowed='codegen|ir' ;;
		*) continue ;;
		esac
		[ "$f" = frontend/main.c ] && allowed='frontend|ir|passes|codegen'
		grep -nE '^#include "(ir|frontend|passes|codegen|runtime)/' "$f" | grep -vE "\"($allowed)/" | sed "s|^|$f:|" |
			grep . && complain "$f: includes what it may not"
		[ "$f" = ir/arena.c ] ||
			{ grep -nE '\b(malloc|calloc|realloc|strdup|free)\(' "$f" | sed "s|^|$f:|" | grep . && complain "$f: allocates outside the arena"; }
		case "$f" in frontend/main.c | ir/arena.c) ;; *)
			grep -nE '\b_?exit\(' "$f" | sed "s|^|$f:|" | grep . && complain "$f: exits"
			;;
		esac
	done
	for f in $(git ls-files 'runtime/*.c' 'runtime/*.h'); do
		grep -nE '^#include "(ir|frontend|passes|codegen)/' "$f" | sed "s|^|$f:|" | grep . && complain "$f: includes the compiler"
	done
	;;
man) # the manual pages parse, and name every option that --help names
	command -v mandoc >/dev/null || { echo "mandoc is not installed"; exit 77; }
	man() { # PAGE PROGRAM
		mandoc -T lint -W error "$1" || bad=1
		for o in $("$2" --help | sed -n 's/^  \(--\{0,1\}[a-z-]*\).*/\1/p'); do
			mandoc -T ascii "$1" | sed 's/.\x08//g' | grep -qF -- "$o" || complain "$1 lacks $o"
		done
	}
	man frontend/galvatronc.1 "$GV"
	man runtime/gvprof/gvprof.1 "${GV%/*}/gvprof"
	;;
esac
exit $bad
