#!/bin/sh
# A batch on a Dask cluster of two workers on this machine, one of which is killed midway.
#
#   walk.sh DIR
#
# PYTHON names the interpreter that has geosiam[cluster]; python3 by default.
set -eu

python=${PYTHON:-python3}
mkdir -p "$1" && cd "$1"

echo "Making four pairs of scenes"
"$python" - <<'PY'
from pathlib import Path
from geosiam.synthesis.pairs import SyntheticConfig, write_pair_tiles
rows = ["name,before,after"]
for seed in range(4):
    write_pair_tiles(SyntheticConfig(height=512, width=512, seed=seed, objects=8), Path(f"site-{seed}"))
    rows.append(f"site-{seed},site-{seed}/before.tif,site-{seed}/after.tif")
Path("pairs.csv").write_text("\n".join(rows) + "\n")
PY

echo "Starting a scheduler and two workers"
port=$("$python" -c "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])")
"$python" -m dask scheduler --host 127.0.0.1 --port "$port" --no-dashboard --no-show >scheduler.log 2>&1 &
scheduler=$!
"$python" -m dask worker "tcp://127.0.0.1:$port" --nthreads 1 --no-nanny --no-dashboard >worker-1.log 2>&1 &
first=$!
"$python" -m dask worker "tcp://127.0.0.1:$port" --nthreads 1 --no-nanny --no-dashboard >worker-2.log 2>&1 &
second=$!
trap 'kill $first $second $scheduler 2>/dev/null || true' EXIT
"$python" -c "
from distributed import Client
with Client('tcp://127.0.0.1:$port', timeout=60) as client:
    client.wait_for_workers(2, timeout=120)"

echo "Running the batch; the second worker is killed when the first pair is done"
"$python" -m geosiam_cli batch pairs.csv -o survey --scheduler "tcp://127.0.0.1:$port" --json-log log.jsonl &
batch=$!
until grep -q '"event": "done"' log.jsonl 2>/dev/null || ! kill -0 $batch 2>/dev/null; do sleep 0.2; done
kill -9 $second
wait $batch

echo "Again, without the cluster: all pairs are up to date"
"$python" -m geosiam_cli batch pairs.csv -o survey
