#!/bin/bash
# make demo: trains models/demo.gdl on the texts of Debian's fortunes package, then prints what it writes.
# usage: tests/demo.sh [STEPS]      BUILD names the build folder
set -eu
cd "$(dirname "$0")/.."
BUILD=${BUILD:-build} steps=${1:-600}
dir=$BUILD/demo
mkdir -p "$dir"

# The texts, without their indices (.dat) and links (.u8), one after another.
find /usr/share/games/fortunes -type f ! -name '*.dat' ! -name '*.u8' | LC_ALL=C sort | xargs cat >"$dir/fortunes.txt"
bytes=$(wc -c <"$dir/fortunes.txt")
[ "$bytes" -ge 1000000 ] || { echo "demo: only $bytes bytes of text in /usr/share/games/fortunes" >&2; exit 1; }
# The last twentieth is held out for the validation loss.
head -c $((bytes / 20 * 19)) "$dir/fortunes.txt" >"$dir/train.txt"
tail -c $((bytes - bytes / 20 * 19)) "$dir/fortunes.txt" >"$dir/val.txt"
echo "demo: $bytes bytes of English text from the package fortunes"

echo "+ galvatronc models/demo.gdl --ranks=auto -o $dir/out"
"$BUILD/galvatronc" models/demo.gdl --ranks=auto -o "$dir/out"
echo "+ make -C $dir/out"
make -s -C "$dir/out"
echo "+ make -C $dir/out run ARGS='--data $dir/train.txt --val-data $dir/val.txt --steps $steps ...'"
top=$(pwd)
case $dir in /*) ;; *) dir=$top/$dir ;; esac
make -s -C "$dir/out" run ARGS="--data '$dir/train.txt' --val-data '$dir/val.txt' --steps $steps --log-every $((steps / 20)) \
	--eval-every $((steps / 4)) --checkpoint '$dir/checkpoints' --sample 300 --prompt 'The ' --temperature 0.8 --top-k 40"
