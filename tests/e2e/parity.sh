#!/bin/bash
# Parity with PyTorch (tests/torch/reference.py). The emitted float64 program's loss, every gradient, and the losses of 20 AdamW
# steps with clipping active, against the committed reference values tests/torch/MODEL.ref; float32 losses within 1e-5.
# Where PyTorch is installed (PYTHON names a Python that has it) the values are regenerated, compared with the committed
# ones, and every gradient is compared element by element. UPDATE=1 rewrites the references.
. tests/lib.sh
python=${PYTHON:-python3}
torch=no
"$python" -c 'import torch' 2>/dev/null && torch=yes
head -c 4000 tests/torch/text >"$T/text"
for model in gpt llama; do
	file=tests/models/$model.gdl
	dims=$(sed -n 's/^axis batch = \([0-9]*\), seq = \([0-9]*\),.*/--batch \1 --seq \2/p' $file)
	compile $model-f64 $file --precision=f64
	compile $model-f32 $file --precision=f32
	losses $model-f64 --steps 0 --checkpoint "$T/$model-init" >/dev/null
	losses $model-f64 --steps 20 --dump-grads "$T/$model.grads" >"$T/$model.f64"
	losses $model-f32 --steps 20 >"$T/$model.f32"
	"$BUILD/tests/torch/gradstat" "$T/$model.grads" >"$T/$model.stat"
	if [ $torch = yes ]; then
		init=$T/$model-init/step-0/model.safetensors
		sed 's/^step \([0-9]*\) \([^ ]*\) .*/step \1 \2/' "$T/$model.f64" >"$T/losses64"
		sed 's/^step \([0-9]*\) \([^ ]*\) .*/step \1 \2/' "$T/$model.f32" >"$T/losses32"
		"$python" tests/torch/reference.py $model --init "$init" --data "$T/text" $dims --grads "$T/$model.grads" \
			--losses "$T/losses64" >"$T/$model.ref" || fail "$model differs from PyTorch in float64"
		"$python" tests/torch/reference.py $model --init "$init" --data "$T/text" $dims \
			--losses "$T/losses32" --tolerance 1e-5 >/dev/null || fail "$model differs from PyTorch in float32"
		[ "$UPDATE" = 1 ] && cp "$T/$model.ref" "tests/torch/$model.ref"
	fi
	# against the committed values: loss 1e-12 on the first step, 1e-9 after; norms and probes of gradients 1e-9 of the larger of
	# the gradient's norm and a thousandth of all
	{ grep '^grad' "$T/$model.stat"; sed 's/^/ours /' "$T/$model.f64"; sed 's/^/single /' "$T/$model.f32"; } |
		awk -v ref="tests/torch/$model.ref" '
		BEGIN {
			while ((getline line < ref) > 0) {
				split(line, f, " ")
				if (f[1] == "grad") { norm[f[2]] = f[3]; probe[f[2]] = f[4]; all += f[3] * f[3]; n++ }
				if (f[1] == "step") loss[f[2]] = f[3]
			}
			all = sqrt(all)
			if (!n) { print "no reference in " ref; bad = 1 }
		}
		function abs(x) { return x < 0 ? -x : x }
		$1 == "grad" {
			bound = 1e-9 * (norm[$2] > 1e-3 * all ? norm[$2] : 1e-3 * all); seen++
			if (!($2 in norm) || !(abs($3 - norm[$2]) <= bound) || !(abs($4 - probe[$2]) <= 30 * bound)) { print "gradient: " $0 ", PyTorch " norm[$2] " " probe[$2]; bad = 1 }
		}
		$1 == "ours" { steps++; tol = $3 == 1 || $3 == 0 ? 1e-12 : 1e-9; k = $3 - base; if (steps == 1) { base = $3; k = 0 }
			if (!(abs($4 - loss[k]) <= tol * abs(loss[k]))) { print "float64 step " $3 ": " $4 ", PyTorch " loss[k]; bad = 1 } }
		$1 == "single" { k = $3 - base; if (!(abs($4 - loss[k]) <= 1e-5 * abs(loss[k]))) { print "float32 step " $3 ": " $4 ", PyTorch " loss[k]; bad = 1 } }
		END { if (seen != n || steps != 20) { print seen " gradients of " n ", " steps " steps of 20"; bad = 1 } exit bad }' ||
		fail "$model differs from tests/torch/$model.ref"
done
[ $torch = yes ] || echo "PyTorch is not installed: compared with the committed values only"
