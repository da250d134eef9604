#!/usr/bin/env bash
# Everything that wants a GPU, in one go and in under 9 minutes, most worthy first; a short table comes last.
#   DATA=folder PY=python3 OUT=results-dir benchmarks/gpu.sh
# DATA  a folder with train/<class>/* and test/<class>/*, or a CIFAR-10 root (default: the sample; PNGs made for `start`)
# PY    the interpreter (default: python3);  OUT  where results go (default: benchmarks/results)
# TINY=1 tries every piece in seconds, on the CPU as well; the numbers mean nothing.
# A piece that fails or takes too long does not cost the others; the exit status is then 1.
set -uo pipefail
PY=${PY:-python3} TINY=${TINY:-}
case $PY in */*) PY=$(cd "$(dirname "$PY")" && pwd)/$(basename "$PY") ;; esac
if [ -n "${DATA:-}" ]; then
  DATA=$(cd "$DATA" && pwd) || { echo "DATA is '$DATA': give a folder that exists" >&2; exit 2; }
fi
OUT=${OUT:-$([ -n "$TINY" ] && echo runs/bench-tiny || echo "$(dirname "$0")/results")}
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd) || exit 2
cd "$(dirname "$0")/.." || exit 2
export DATA=${DATA:-} NO_ALBUMENTATIONS_UPDATE=1 PYTHONUNBUFFERED=1
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
"$PY" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA GPU")' \
  || exit 2

END=$((SECONDS + 520))
summary=() status=0
piece() { # piece NAME SECONDS COMMAND…: run it, but no longer than that, nor than what is left
  local name=$1 limit=$2 left=$((END - SECONDS)) began=$SECONDS verdict=ok code
  shift 2
  [ "$left" -lt "$limit" ] && limit=$left
  if [ "$limit" -le 5 ]; then summary+=("$name|-|no time was left"); status=1; return; fi
  echo "== $name (at most $limit s)"
  timeout --kill-after=5 "$limit" "$@"
  code=$?
  [ $code -eq 0 ] || { verdict="failed, exit status $code"; status=1; }
  [ $code -eq 124 ] || [ $code -eq 137 ] && verdict="stopped after $limit s"
  summary+=("$name|$((SECONDS - began)) s|$verdict")
}
bench() { piece "$1" "$2" "$PY" -m "benchmarks.$1" ${TINY:+--tiny} --out "$OUT"; }
training() { # the assignment's 24 epochs; only its numbers are kept
  "$PY" train.py --data "${DATA:-sample}" --loader device --out "$work/run" --no-resume "$@" \
    && cp "$work/run/results.json" "$OUT/training.json"
}
export -f training
export PY OUT work

bench pipeline 120
bench overhead 100
bench course 90
bench limit 50
if [ -n "$TINY" ]; then settings="--profile quick --epochs 1 --limit 40 --batch-size 4"; else settings="--profile full"; fi
# shellcheck disable=SC2086
piece training 120 bash -c 'training "$@"' training $settings
bench growth 130
bench start 120

echo
"$PY" -m benchmarks.tables --print "$OUT"
echo
printf '%s\n' "${summary[@]}" | while IFS='|' read -r name took verdict; do printf '%-10s %6s  %s\n' "$name" "$took" "$verdict"; done
exit $status
