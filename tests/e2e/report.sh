#!/bin/bash
# What is said about plans: pages are well formed, small, the same twice, and replace only their own kind; --explain says the
# numbers of --emit=cost; diff adds up.
. tests/lib.sh
page=$BUILD/tests/unit/explain
M=models/clusters/h100.hw

# plan NAME RANKS MICROBATCHES STAGES LAYERS MESH [rest of the layers line]: equal stages
plan() {
	local name=$1 ranks=$2 mb=$3 stages=$4 layers=$5 mesh=$6 i
	shift 6
	{
		printf 'plan 1\nranks %d microbatches %d schedule 1f1b\nmesh m1 = %s\n' "$ranks" "$mb" "$mesh"
		for ((i = 0; i < stages; i++)); do
			echo "stage $i layers $((i * layers / stages))-$(((i + 1) * layers / stages - 1)) ranks $((i * ranks / stages))-$(((i + 1) * ranks / stages - 1))"
		done
		echo "layers 0-$((layers - 1)) mesh m1 $*"
	} >"$T/$name.plan"
}
plan gpt2 8 8 4 14 tp:2 recompute none
plan wide 8 4 2 14 'dp:2 tp:2' zero 1 recompute selective megatron_sp
plan llama 64 32 4 34 'dp:2 tp:8' zero 1 recompute selective megatron_sp
plan gpt3 1024 192 16 98 'dp:8 tp:8' zero 1 recompute full megatron_sp

made() { # NAME FILE [options]
	local name=$1
	shift
	"$GV" "$@" --plan "$T/$name.plan" --report "$T/$name.html" --explain >"$T/$name.why" || fail "$name: no page"
	"$GV" "$@" --plan "$T/$name.plan" --report "$T/$name.2.html" || fail "$name: no second page"
	cmp "$T/$name.html" "$T/$name.2.html" || fail "$name: two pages differ"
	"$GV" "$@" --plan "$T/$name.plan" --emit=cost >"$T/$name.cost" || fail "$name: no cost"
	# the step, to three digits
	local ns
	ns=$(sed -n 's/^step_ns //p' "$T/$name.cost")
	awk -v ns="$ns" '/^step / { x = $2; u = $3; x *= u == "s" ? 1e9 : u == "ms" ? 1e6 : u == "us" ? 1e3 : 1
		d = x - ns; if (d < 0) d = -d; ok = d <= 0.006 * ns } END { exit !ok }' "$T/$name.why" || fail "$name: --explain says $(head -1 "$T/$name.why"), --emit=cost $ns ns"
	grep -q "^binds " "$T/$name.why" || fail "$name: --explain does not say what binds"
}
made gpt2 models/gpt2.gdl --set batch=32
made llama models/llama3.gdl --set batch=512 --cluster $M
made gpt3 models/gpt2.gdl --set layers=96 --set embed=12288 --set heads=96 --set seq=2048 --set batch=1536 --cluster $M
"$page" "$T/gpt2.html" "$T/llama.html" "$T/gpt3.html" || fail "pages"
grep -q 'id=timeline' "$T/gpt3.html" && grep -q 'class=gap' "$T/gpt3.html" || fail "a long step is drawn whole"
! grep -q 'class=gap' "$T/gpt2.html" || fail "a short step is not drawn whole"

# What a layer would cost otherwise is what the plan costs with it changed.
"$GV" models/gpt2.gdl --set batch=32 --plan "$T/gpt2.plan" --explain=block.4:recompute=full >"$T/if" || fail "--explain=LAYER:STRATEGY"
sed 's/^layers 0-13 .*/layers 0-4 mesh m1 recompute none\nlayers 5 mesh m1 recompute full\nlayers 6-13 mesh m1 recompute none/' "$T/gpt2.plan" >"$T/if.plan"
"$GV" models/gpt2.gdl --set batch=32 --plan "$T/if.plan" --emit=cost >"$T/if.cost" || fail "the plan with that layer changed"
step() { sed -n 's/^step_ns //p' "$T/$1.cost"; }
awk -v ns="$(($(step if) - $(step gpt2)))" '/ a step / { for (i = 1; i < NF; i++) if ($(i + 2) == "a" && $(i + 3) == "step") { x = $i; u = $(i + 1) }
	x *= u == "s" ? 1e9 : u == "ms" ? 1e6 : u == "us" ? 1e3 : 1; d = x - ns; if (d < 0) d = -d
	ok = d <= 0.006 * (ns < 0 ? -ns : ns) } END { exit !ok }' "$T/if" || fail "$(cat "$T/if"), but it is $(($(step if) - $(step gpt2))) ns"
"$GV" models/gpt2.gdl --set batch=32 --plan "$T/gpt2.plan" --explain=5 >"$T/others" || fail "--explain=LAYER"
[ "$(wc -l <"$T/others")" -ge 4 ] || fail "no other strategies: $(cat "$T/others")"
"$GV" models/gpt2.gdl --set batch=32 --plan "$T/gpt2.plan" --explain=5:tp=3 | grep -q "cannot be: " || fail "a degree that is no divisor"
if "$GV" models/gpt2.gdl --set batch=32 --plan "$T/gpt2.plan" --explain=nothing 2>"$T/err"; then fail "a layer that is not there"; fi
grep -q "there is no such layer" "$T/err" || fail "it does not say that there is no such layer"

# Where a page may be written.
echo mine >"$T/mine"
if "$GV" models/gpt2.gdl --set batch=32 --plan "$T/gpt2.plan" --report "$T/mine" 2>"$T/err"; then fail "a file was replaced"; fi
grep -q "there is a file that is no report" "$T/err" || fail "it does not say why"
[ "$(cat "$T/mine")" = mine ] || fail "a file was changed"

# From one plan to another: the differences add up, and back again is the negative.
"$GV" diff models/gpt2.gdl "$T/gpt2.plan" "$T/gpt2.plan" --set batch=32 >"$T/same" || fail "diff with itself"
grep -q "nothing differs" "$T/same" && [ "$(wc -l <"$T/same")" = 3 ] || fail "a plan differs from itself"
"$GV" diff models/gpt2.gdl "$T/gpt2.plan" "$T/wide.plan" --set batch=32 >"$T/there" || fail "diff"
for what in 'microbatches: 8 -> 4' 'stages: 4 of' 'zero 0 -> 1' 'recompute none -> selective' 'in all'; do
	grep -q -- "$what" "$T/there" || fail "diff does not say '$what'"
done
# found by what the plan says
"$GV" models/gpt2.gdl --set batch=32 --plan "$T/gpt2.plan" --emit=plan >"$T/said.plan"
cp models/gpt2.gdl "$T"
"$GV" diff "$T/said.plan" "$T/wide.plan" --set batch=32 | tail -n +3 | sed '$!d' >"$T/found" || fail "the model is not found"
grep -q "in all" "$T/found" || fail "the model beside the plan is not found"
rm "$T/gpt2.gdl"
if "$GV" diff "$T/said.plan" "$T/wide.plan" 2>"$T/err"; then fail "a model that is not there"; fi
grep -q "give its file first" "$T/err" || fail "it does not say how"
