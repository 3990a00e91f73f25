#!/bin/bash
# Every shipped model: its published parameter count in the header of a dump; its forward pass in the interpreter at tiny
# extents, the loss near that of a guess; print, parse and go on at every pass.
. tests/lib.sh
count() { "$GV" "models/$1.gdl" --emit=graph | grep -qx "# $2 parameters.*" || { "$GV" "models/$1.gdl" --emit=graph | head -3; fail "$1: not $2 parameters"; }; }
count gpt2 124,439,808
count llama3 8,030,261,248
count bert 109,514,298
count t5 222,903,552
count vit 86,567,656
count swin 28,288,354
count mixtral 46,702,792,704
tiny() { # model expected-loss options...
	local model=$1 want=$2
	shift 2
	"$GV" eval "models/$model.gdl" --stop-after=simplify --precision=f64 "$@" >"$T/$model" || fail "$model does not run"
	awk -v want="$want" -v m="$model" '{ d = $4 - want; if (d < 0) d = -d; if (!(d < 0.25 * want)) { print m ": loss " $4 ", expected about " want; exit 1 } }' "$T/$model" || fail "$model"
}
tiny gpt2 4.6 --set batch=2 --set seq=8 --set vocab=100 --set embed=24 --set heads=3 --set layers=2
tiny llama3 4.6 --set batch=2 --set seq=8 --set vocab=100 --set embed=24 --set kv=2 --set group=2 --set head=6 --set ffn=40 --set layers=2
tiny bert 4.6 --set batch=2 --set seq=8 --set vocab=100 --set embed=24 --set heads=3 --set layers=2 --set pick=3
tiny vit 2.3 --set batch=2 --set height=8 --set width=8 --set py=4 --set px=4 --set class=10 --set embed=24 --set heads=3 --set layers=2
tiny swin 2.3 --set batch=2 --set height=32 --set width=32 --set py=2 --set px=2 --set class=10 --set c1=8 --set n1=1 --set n2=2 --set n3=2 --set n4=4 --set window_size=2
tiny mixtral 4.6 --set batch=2 --set seq=6 --set vocab=100 --set embed=16 --set kv=2 --set group=2 --set head=4 --set ffn=24 --set expert=4 --set layers=2
tiny t5 5.5 --set batch=2 --set seq=6 --set source=7 --set vocab=100 --set embed=24 --set heads=3 --set head=8 --set ffn=40 --set bucket=8 --set layers=2
