#!/usr/bin/env bash
# One attempt on a machine that is free for some minutes only, with a GPU, torch, timm and pandas, but no network. The command
# is stopped after that many minutes; its finished runs are packed into records.tar, from which the next attempt continues.
#
#   make wheels                                             # before, where there is a network: the packages that the machine lacks
#   experiments/imagenette/attempt.sh 9 python3 -m roadmap.sweep study=imagenette data.path=imagenette160.zip
#   cp back/records.tar .                                   # afterwards: the next attempt reads it
#
# Copy there: the checkout, wheels/, the images, records.tar. Copy back: records.tar and log.txt, which are in $OUT, or in back/
# where the machine sets no OUT.
# Exit code 0: everything is done. 143: the time was up, run it again. Otherwise: the command's own exit code.
set -euo pipefail
cd "$(dirname "$0")/../.."
minutes=$1
shift
out=${OUT:-back}
mkdir -p "$out"

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$site/packages" wheels/*.whl
export PYTHONPATH="$site/packages:$PWD" PYTHONUNBUFFERED=1
touch "$site/began"
if [ -f records.tar ]; then tar -xmf records.tar; fi # -m: as new as this attempt, so that they are packed again at its end

status=0
timeout --signal=TERM --kill-after=40 "${minutes}m" "$@" > "$out/log.txt" 2>&1 || status=$?
tail -n 40 "$out/log.txt"
if [ "$status" = 124 ] || [ "$status" = 137 ]; then status=143; fi
# Small files only: an interrupted run starts again, which costs less than its large checkpoints would.
find experiments -type f -newer "$site/began" -size -4096k ! -name '*.pt' ! -name claim -print0 |
  tar --null --ignore-failed-read -T - -cf "$out/records.tar" || echo "records.tar: some files could not be packed"
echo "exit code $status; $(tar -tf "$out/records.tar" | grep -c '/result.json$' || true) runs are done, over all attempts"
exit "$status"
