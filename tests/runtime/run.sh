#!/bin/bash
# The runtime with programs written by hand (tests/runtime/toys): data formats, bad files and options, checkpoints, resuming
# after kill -9, signals, sampling, launching. Needs a C compiler only. T: a private folder (made here if unset).
set -u
cd "$(dirname "$0")/../.." || exit 1
repo=$PWD
if [ -z "${T:-}" ]; then
	T=$(mktemp -d)
	trap 'rm -rf "$T"' EXIT
fi
checks=0 failures=0
fail() { failures=$((failures + 1)); echo "FAILED: $*"; }
check() { checks=$((checks + 1)); "$@" >/dev/null 2>&1 || fail "$*"; }
# bad STATUS TEXT COMMAND...: exits with STATUS and says TEXT in one line of standard error
bad() {
	local want=$1 text=$2 status
	shift 2
	checks=$((checks + 1))
	"$@" >out 2>err
	status=$?
	[ $status = "$want" ] || fail "status $status, not $want: $*: $(head -1 err)"
	[ "$(wc -l <err)" = 1 ] || fail "not one line: $*: $(cat err)"
	grep -qF -- "$text" err || fail "no \"$text\" in: $(cat err)"
}

# ---- programs ----
sources=$(ls runtime/*.c | grep -v 'kernels\|attention')
flags="-std=gnu11 -O1 -g -Wall -Wextra -Werror -fopenmp -Iruntime"
build() { # name, toy, flags
	local out=$1 toy=$2
	shift 2
	${CC:-gcc} $flags "$@" -o "$T/$out" tests/runtime/toys/$toy.c $sources -lm || exit 1
}
build bigram bigram &
build bigram64 bigram -DGVRT_F64 &
build rows rows -fsanitize=address,undefined -fno-sanitize-recover=undefined &
build forward rows -DFORWARD -DGVRT_F64 &
build hardened bigram -fsanitize=address,undefined -fno-sanitize-recover=undefined &
${CC:-gcc} -std=gnu11 -O1 -fno-builtin -shared -fPIC -o "$T/count.so" tests/runtime/toys/count_malloc.c -ldl &
wait
cd "$T" || exit 1
export OMP_NUM_THREADS=2 ASAN_OPTIONS=detect_leaks=0
unset OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE PMIX_RANK PMI_RANK PMI_SIZE SLURM_PROCID SLURM_NTASKS SLURM_STEP_NUM_TASKS

# ---- data: one text in every format gives the same losses ----
for i in $(seq 400); do echo "line $((i * 7919 % 1000)) of a text that repeats, but not quite: $((i * i))"; done >text.txt
size=$(wc -c <text.txt)
le32() { printf "\\x$(printf %02x $(($1 & 255)))\\x$(printf %02x $(($1 >> 8 & 255)))\\x$(printf %02x $(($1 >> 16 & 255)))\\x$(printf %02x $(($1 >> 24 & 255)))"; }
widen() { # every byte of text.txt as a little-endian number of $1 bytes
	local zeros
	zeros=$(for _ in $(seq 2 "$1"); do printf '\\\\x00'; done)
	od -An -v -tx1 -w64 text.txt | sed "s/ \(..\)/\\\\x\1$zeros/g" | while read -r line; do printf "$line"; done
}
widen 2 >text.bin
{ le32 20240520; le32 1; le32 "$size"; head -c 1012 /dev/zero; cat text.bin; } >llmc.bin
{ le32 20240801; le32 7; le32 "$size"; head -c 1012 /dev/zero; widen 4; } >llama.bin
losses() { grep -o ',"loss":[^,]*' | tr '\n' ' '; }
./bigram --data text.txt --steps 9 --json | losses >want
[ "$(wc -w <want)" = 9 ] || fail "losses: $(cat want)"
for d in "text.bin" "llmc.bin" "llama.bin" "text.bin --data-format u16" "text.txt --data-format bytes" "*ext.txt"; do
	./bigram --data $d --steps 9 --json | losses >got
	check cmp want got
done
./bigram --data text.txt --steps 9 --json --order=sequential | losses >got
cmp -s want got && fail "--order sequential changes nothing"
mkdir shards && head -c 9000 text.txt >shards/a && tail -c +9001 text.txt >shards/b && cp shards/a shards/.hidden
./bigram --data shards --steps 9 --json | losses >one
./bigram --data 'shards/[ab]' --steps 9 --json | losses >two
check cmp one two

# ---- the same bits: threads, precision of prints, poison, sanitizers ----
./bigram --data text.txt --steps 60 --json --checkpoint ref --save-every 20 | losses >want
OMP_NUM_THREADS=1 ./bigram --data text.txt --steps 60 --json --checkpoint single | losses >got
check cmp want got
check cmp ref/step-60/model.safetensors single/step-60/model.safetensors
GVRT_POISON=1 ./bigram --data text.txt --steps 60 --json | losses >got
check cmp want got
./hardened --data text.txt --val-data text.txt --steps 60 --json --checkpoint hard --save-every 9 --sample 20 >log 2>&1 || fail "sanitizers: $(tail -20 log)"
check test "$(ls hard | tr '\n' ' ')" = "step-45 step-54 step-60 "

# ---- checkpoints: keep three, resume, never the same from another seed ----
check test "$(ls ref | tr '\n' ' ')" = "step-20 step-40 step-60 "
cp -r ref/step-20 old
./bigram --resume old --data text.txt --steps 60 --json --checkpoint three | losses >got
check test "$(cat got)" = "$(cut -d' ' -f21- want)"
check cmp ref/step-60/model.safetensors three/step-60/model.safetensors
check cmp ref/step-60/optimizer.safetensors three/step-60/optimizer.safetensors
mkdir -p ref/mine && ./bigram --resume ref --data text.txt --steps 80 --checkpoint ref --save-every 10 --quiet
check test "$(ls ref | tr '\n' ' ')" = "mine step-60 step-70 step-80 "
./bigram --steps 0 --checkpoint zero --quiet --seed 3
./bigram --init zero/step-0/model.safetensors --steps 20 --data text.txt --seed 3 --json | losses >one
./bigram --steps 20 --data text.txt --seed 3 --json | losses >two
check cmp one two
./bigram64 --data text.txt --steps 1 --quiet --dump-grads grads.safetensors && check grep -aq '"table":{"dtype":"F64","shape":\[256,256\]' grads.safetensors
check ./bigram --init grads.safetensors --steps 0 --quiet # float64 converts

# kill -9 anywhere, as often as it takes
./bigram --data text.txt --steps 80 --quiet --checkpoint whole
kills=0
for round in 1 2 3 4 5 6 7 8; do
	from=$([ -n "$(ls -d killed/step-[0-9] killed/step-[0-9][0-9] 2>/dev/null)" ] && echo "--resume killed")
	TOY_CRAWL=1 ./bigram --data text.txt --steps 80 --quiet --checkpoint killed --save-every 3 $from &
	pid=$!
	sleep 0.0$((RANDOM % 6 + 3))$((RANDOM % 10))
	kill -9 $pid 2>/dev/null && kills=$((kills + 1))
	wait $pid 2>/dev/null
done
from=$([ -n "$(ls -d killed/step-[0-9] killed/step-[0-9][0-9] 2>/dev/null)" ] && echo "--resume killed")
./bigram --data text.txt --steps 80 --quiet --checkpoint killed --save-every 3 $from || fail "the last run"
check test $kills -ge 2
check cmp whole/step-80/model.safetensors killed/step-80/model.safetensors
check cmp whole/step-80/optimizer.safetensors killed/step-80/optimizer.safetensors

# signals: a checkpoint first
soon() { for _ in $(seq 200); do "$@" && return; sleep 0.05; done; fail "never: $*"; }
begun() { ls "$1"/step-* >/dev/null 2>&1; }
for sig in TERM:0 INT:130; do
	rm -rf sig
	# a background job of a shell ignores SIGINT: back to the default
	TOY_CRAWL=1 env --default-signal=INT ./bigram --data text.txt --steps 1000000 --quiet --checkpoint sig --save-every 9 2>err &
	pid=$!
	soon begun sig
	kill -${sig%:*} $pid
	wait $pid
	check test $? = ${sig#*:}
	last=$(sed -n 's/.*after step \([0-9]*\).*/\1/p' err)
	check test -s "sig/step-$last/optimizer.safetensors"
done
TOY_CRAWL=1 ./bigram --data text.txt --steps 1000000 --json >log 2>err &
pid=$!
soon grep -q '"step":2,' log
kill -TERM $pid
wait $pid
check test $? = 143
check grep -q "without a checkpoint" err

# ---- nothing is allocated in a step, whatever it writes ----
counted() { COUNT_MALLOC=$1 GVRT_LAUNCH=0 LD_PRELOAD=$T/count.so ./bigram --data text.txt --val-data text.txt --eval-every 3 \
	--steps "$2" --checkpoint mem$1 --save-every 2 >/dev/null; }
counted few 4
counted many 64
check test -s few
check cmp few many

# ---- sampling and output ----
./bigram --resume whole --steps 0 --sample 60 --prompt "line " --quiet >one
OMP_NUM_THREADS=1 ./bigram --resume whole --steps 0 --sample 60 --prompt "line " --quiet >two
check cmp one two
check grep -q '^line ' one
./bigram --resume whole --steps 0 --sample 5 --prompt "line " --quiet --temperature 0 >one
./bigram --resume whole --steps 0 --sample 5 --prompt "line " --quiet --top-k 1 >two
check cmp one two
./bigram --resume whole --steps 0 --sample 5 --quiet --json >one
check grep -qE '^\{"event":"sample","tokens":\[[0-9]+(,[0-9]+){4}\]\}$' one
./bigram --data text.txt --val-data text.txt --eval-every 5 --steps 10 --json >one
check test "$(grep -c '"event":"eval"' one)" = 2
check test "$(wc -l <one)" = 13
check test "$(./bigram --data text.txt --steps 100 | grep -c '^step')" = 11
check test "$(./bigram --data text.txt --steps 5 --quiet | wc -c)" = 0
check grep -q -- --dump-grads <(./bigram --help)
check grep -q GVRT_POISON <(GVRT_HELP=1 ./bigram)

# ---- other inputs: safetensors ----
st() { # header, then data on standard input
	local h=$1
	le32 ${#h}; le32 0; printf %s "$h"; cat
}
ones() { for _ in $(seq "$1"); do printf '\0\0\200\77'; done; }
labels() { for i in $(seq "$1"); do le32 $((i % 3)); done; }
flags8() { printf '\1\1\0\1\1\1\0\1'; }
head8='"image":{"dtype":"F32","shape":[8,2,2],"data_offsets":[0,128]},"label":{"dtype":"I32","shape":[8],"data_offsets":[128,160]}'
{ ones 32; labels 8; flags8; } | st "{$head8,\"valid\":{\"dtype\":\"BOOL\",\"shape\":[8,1],\"data_offsets\":[160,168]}}" >rows.safetensors
./rows --data rows.safetensors --steps 12 --json --checkpoint rows1 | losses >one 2>&1
check test "$(wc -w <one)" = 12
./rows --data rows.safetensors --steps 5 --quiet --checkpoint rows2
./rows --data rows.safetensors --resume rows2 --steps 12 --quiet --checkpoint rows2
check cmp rows1/step-12/model.safetensors rows2/step-12/model.safetensors
check grep -q '"reports":{"loss":[0-9.e-]*,"hits"' <(./forward --data rows.safetensors --json)
bad 2 "has no training step" ./forward --data rows.safetensors --steps 3
{ ones 32; labels 8; } | st "{$head8}" >x.safetensors
bad 1 "no entry for the model's input valid" ./rows --data x.safetensors
{ ones 28; labels 8; flags8; } | st "{\"image\":{\"dtype\":\"F32\",\"shape\":[7,4],\"data_offsets\":[0,112]},\"label\":{\"dtype\":\"I32\",\"shape\":[8],\"data_offsets\":[112,144]},\"valid\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[144,152]}}" >x.safetensors
bad 1 "7 samples of image and 8 of label" ./rows --data x.safetensors
{ ones 32; for i in 1 2 3 4 5 6 7 8; do le32 3; done; flags8; } | st "{$head8,\"valid\":{\"dtype\":\"BOOL\",\"shape\":[8],\"data_offsets\":[160,168]}}" >x.safetensors
bad 1 "label 3 in sample" ./rows --data x.safetensors --quiet
bad 1 "give --data FILE.safetensors" ./rows --data text.txt
{ ones 32; ones 8; flags8; } | st "{${head8/I32/F32},\"valid\":{\"dtype\":\"BOOL\",\"shape\":[8],\"data_offsets\":[160,168]}}" >y.safetensors
bad 1 "is F32, and the model takes whole numbers" ./rows --data y.safetensors

# ---- bad files ----
: >empty
bad 1 "the file is empty" ./bigram --data empty
bad 1 "no such file" ./bigram --data nowhere.txt
mkdir -p none && bad 1 "no files in this directory" ./bigram --data none
head -c 100 text.txt >short
bad 1 "100 tokens make 6 samples of 16, and a step takes 8" ./bigram --data short
head -c 3000 llmc.bin >cut.bin
bad 1 "and 1976 bytes follow" ./bigram --data cut.bin
head -c 500 llmc.bin >cut.bin
bad 1 "cut off" ./bigram --data cut.bin
bad 1 "not a token shard" ./bigram --data text.bin --data-format llmc
{ cat text.bin; printf x; } >odd.bin
bad 1 "not a whole number of tokens" ./bigram --data odd.bin
{ cat text.bin; printf '\0\1'; } >big.bin
bad 1 "token 256 at position $size, and the model takes tokens below 256" ./bigram --data big.bin
printf abc >tiny
bad 1 "too few for a safetensors file" ./bigram --init tiny --data text.txt
bad 1 "not a safetensors file" ./bigram --init text.txt --data text.txt
bad 1 "no checkpoint to resume from" ./bigram --resume none --data text.txt
bad 1 "No such file" ./bigram --resume nowhere --data text.txt
bad 1 'no entry "table"' ./bigram --init rows1/step-12/model.safetensors --data text.txt
sed 's/\[256,256\]/[128,512]/' ref/step-80/model.safetensors >shape.safetensors
bad 1 'entry "table" has shape [128 512], and the program'"'"'s parameter has [256 256]' ./bigram --init shape.safetensors --data text.txt
bad 1 "goes on with the seed it began with" ./bigram --resume ref --seed 99 --data text.txt
bad 1 "training cannot go on" ./bigram --data text.txt --steps 50 --lr 1e30 --quiet
bad 1 "cannot make the directory" ./bigram --data text.txt --checkpoint text.txt/dir
# a checkpoint that is cut off is passed over
cp -r ref cutref && head -c 5000 ref/step-80/model.safetensors >cutref/step-80/model.safetensors
./bigram --resume cutref --data text.txt --steps 80 --checkpoint cutout --quiet 2>err || fail "cut checkpoint: $(cat err)"
check grep -q "passing over" err
check cmp ref/step-80/optimizer.safetensors cutout/step-80/optimizer.safetensors

# ---- bad options ----
bad 2 "no training data" ./bigram
bad 2 'unknown option "--frobnicate"' ./bigram --frobnicate
bad 2 "--steps takes a whole number" ./bigram --steps -3
bad 2 "--steps takes a whole number" ./bigram --steps=1e3
bad 2 "--steps takes a whole number" ./bigram --steps 99999999999999999999
bad 2 "--lr takes a number" ./bigram --lr nan
bad 2 "--lr needs a value" ./bigram --lr
bad 2 "--json takes no value" ./bigram --json=1
bad 2 "--data-format is one of auto|bytes" ./bigram --data-format csv
bad 2 "--order is one of shuffled|sequential" ./bigram --order random
bad 2 "unexpected argument" ./bigram text.txt
bad 2 "--save-every needs --checkpoint" ./bigram --data text.txt --save-every 3
bad 2 "--eval-every needs --val-data" ./bigram --data text.txt --eval-every 3
bad 2 "give one" ./bigram --data text.txt --resume a --init b
bad 2 "--sample needs a model that reports logits" ./rows --data rows.safetensors --sample 3
bad 2 "takes a PATH, not an empty one" ./bigram --data ""

# ---- launching ----
export GVRT_PEAK=0
bad 2 "bigram is compiled for 1 rank, and 4 were started; run: mpirun -n 1 ./stage_0" env OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=4 ./bigram --data text.txt
bad 2 "run: srun -n 1" env SLURM_PROCID=0 SLURM_NTASKS=2 ./bigram --data text.txt
bad 2 "a rank is below the number of ranks" env PMI_RANK=3 PMI_SIZE=1 ./bigram --data text.txt
check env PMI_RANK=0 PMI_SIZE=1 ./bigram --data text.txt --steps 1
cp bigram stage_0
check ./stage_0 ./stage_0 --data text.txt --steps 1
check ./stage_0 ./stage_10 ./stage_0 --data text.txt --steps 1
bad 2 "build all stages again" env GVRT_LAUNCHED=0000000000009999/0 ./stage_0 --data text.txt --steps 1
check grep -q '"threads":1,' <(./bigram --data text.txt --steps 0 --json --threads 1)
check grep -q '"threads":3,' <(OMP_NUM_THREADS=3 ./bigram --data text.txt --steps 0 --json)

cd "$repo" || exit 1
[ $failures = 0 ] || { echo "runtime: $failures of $checks checks failed"; exit 1; }
echo "runtime: $checks checks ok"
