# Sourced by tests that run several ranks: skips where there is no mpirun. losses_of is losses (lib.sh) for $ranks ranks.
command -v mpirun >/dev/null || skip "mpirun is not installed"

# As root, and with more ranks than cores; no binding, since ranks share cores here.
mpi() {
	local n=$1
	shift
	OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 \
		timeout "${MPI_TIMEOUT:-120}" mpirun --bind-to none -np "$n" "$@"
}

losses_of() {
	local name=$1
	shift
	if [ "$ranks" = 1 ]; then losses "$name" "$@"; return; fi
	mpi "$ranks" "$T/$name"/stage_* --data "$T/text" --order sequential --json "$@" >"$T/$name.json" 2>"$T/$name.log" ||
		{ cat "$T/$name.log"; fail "$name $*"; }
	sed -n 's/.*"step": *\([0-9]*\), *"loss": *\([^,]*\), *"norm": *\([^,}]*\).*/step \1 \2 \3/p' "$T/$name.json"
}
