#!/usr/bin/env bash
# One sitting on a lent machine that has a GPU, torch, timm and pandas, and no network. It ends after so many minutes; what is
# done by then comes along to the next sitting, which goes on.
#
#   make wheels                                             # before, where there is a network: the packages it lacks, in wheels/
#   OUT=back experiments/imagenette/sitting.sh 9 python -m roadmap.sweep study=imagenette data.path=imagenette160.zip
#   cp back/records.tar .                                   # after: the next sitting reads it
#
# What travels there: the checkout, wheels/, the images, records.tar. What comes back: records.tar and log.txt in $OUT.
# Exit code 0: all is done. 143: time is up, another sitting is needed. Else: the command's own.
set -euo pipefail
cd "$(dirname "$0")/../.."
minutes=$1
shift
out=${OUT:?where the records go, a folder}
mkdir -p "$out"

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$site/packages" wheels/*.whl
export PYTHONPATH="$site/packages:$PWD" PYTHONUNBUFFERED=1
touch "$site/began"
if [ -f records.tar ]; then tar -xmf records.tar; fi # -m: as new as this sitting, so that they travel on with what it makes

status=0
timeout --signal=TERM --kill-after=40 "${minutes}m" "$@" > "$out/log.txt" 2>&1 || status=$?
tail -n 40 "$out/log.txt"
if [ "$status" = 124 ] || [ "$status" = 137 ]; then status=143; fi
# Small files only: a run that was cut short begins again, which costs less than its checkpoints are heavy.
find experiments -type f -newer "$site/began" -size -4096k ! -name '*.pt' ! -name claim -print0 |
  tar --null --ignore-failed-read -T - -cf "$out/records.tar" || echo "records.tar: not everything could be packed"
echo "exit code $status; $(tar -tf "$out/records.tar" | grep -c '/result.json$' || true) runs of these sittings are done"
exit "$status"
