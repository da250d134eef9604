#!/usr/bin/env bash
# Everything that wants a GPU, in parts of under 9 minutes each, most worthy first; a short table comes last.
#   DATA=folder PY=python3 OUT=results-dir benchmarks/gpu.sh [speed] [search] [results] [notebook]
# speed     the benchmarks, and one training of 24 epochs (default)
# search    recipes compared on held-out training pictures   -> OUT/search.json
# results   the rows of make results, in the order of worth  -> OUT/ablation.json, and its two figures
# notebook  the notebook, from top to bottom                 -> OUT/notebook.tar.gz (without weights)
# One part a call where a call may take 9 minutes; the same call again goes on. search and results begin with what
# OUT, or else misc/, holds of them: copy what a lent machine sends back into misc/ before the next call.
# DATA      a folder with train/<class>/* and test/<class>/*, or a CIFAR-10 root (default: the sample; PNGs for `start`)
# PY        the interpreter (default: python3);  OUT  where results go (default: benchmarks/results)
# MINUTES   for the whole call (default: 9);  ROWS, SEEDS  of search and results;  LOADER, NOTEBOOK (folder)  of notebook
# TINY=1 tries every part in seconds, on the CPU as well; the numbers mean nothing.
# A piece that fails or takes too long does not cost the others; the exit status is then 1.
set -uo pipefail
PARTS=${*:-speed}
for part in $PARTS; do
  case $part in speed | search | results | notebook) ;; *) echo "part is '$part': choose among speed, search, results, notebook" >&2; exit 2 ;; esac
done
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
runs=$([ -n "$TINY" ] && echo "$work" || echo runs/gpu) # on a lent machine it stays as long as the machine is warm
"$PY" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA GPU")' \
  || exit 2

END=$((SECONDS + 60 * ${MINUTES:-9} - 20))
summary=() status=0
within() { # within SECONDS: so many, or what is left
  local left=$((END - SECONDS))
  echo $((left < $1 ? left : $1))
}
piece() { # piece NAME SECONDS COMMAND…: run it, but no longer than that, nor than what is left
  local name=$1 limit began=$SECONDS verdict=ok code
  limit=$(within "$2")
  shift 2
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
study() { # study NAME MODULE: runs that are kept one by one; it ends by itself before its time is up
  local json=$OUT/$2.json
  [ -e "$json" ] || [ -n "$TINY" ] || [ ! -e "misc/$2.json" ] || cp "misc/$2.json" "$json"
  piece "$1" 500 "$PY" -m "benchmarks.$2" --data "${DATA:-sample}" --out "$runs/$2" --json "$json" ${TINY:+--tiny} \
    ${ROWS:+--rows "$ROWS"} ${SEEDS:+--seeds "$SEEDS"} --minutes "$(awk "BEGIN { s = $(within 500) - 20; print (s > 6 ? s / 60 : 0.1) }")"
}
notebook() { # the parameters show in the notebook, so the pictures get a name without somebody's folders
  local out=${NOTEBOOK:-$runs/notebook} data=sample
  if [ -n "$DATA" ]; then
    data=data/$(basename "$DATA")
    mkdir -p data && { [ -e "$data" ] || ln -s "$DATA" "$data"; } || return
  fi
  "$PY" tests/run_notebook.py S10_model.ipynb "$out" -p data "$data" ${LOADER:+-p loader "$LOADER"} "$@" \
    && tar czf "$OUT/notebook.tar.gz" --exclude '*.pt' --exclude .lock -C "$out" .
}
export -f training notebook
export PY OUT work runs

speed() {
  local settings="--profile full"
  [ -n "$TINY" ] && settings="--profile quick --epochs 1 --limit 40 --batch-size 4"
  bench pipeline 120
  bench overhead 100
  bench course 90
  bench limit 50
  # shellcheck disable=SC2086
  piece training 120 bash -c 'training "$@"' training $settings
  bench growth 130
  bench start 120
}

for part in $PARTS; do
  case $part in
    speed) speed ;;
    search) study search search ;;
    results) study results ablation ;;
    notebook)
      settings="-p profile full -p epochs None -p limit None -p batch_size None"
      [ -n "$TINY" ] && settings="-p profile quick -p epochs 1 -p limit 20 -p batch_size 4 -p workers 0"
      # shellcheck disable=SC2086
      piece notebook 500 bash -c 'notebook "$@"' notebook $settings
      ;;
  esac
done

echo
case " $PARTS " in *" speed "*) "$PY" -m benchmarks.tables --print "$OUT" && echo ;; esac
printf '%s\n' "${summary[@]}" | while IFS='|' read -r name took verdict; do printf '%-10s %6s  %s\n' "$name" "$took" "$verdict"; done
exit $status
