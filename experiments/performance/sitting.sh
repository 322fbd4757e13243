#!/usr/bin/env bash
# What a machine with a GPU is asked, stage by stage, where it is free for some minutes only and has torch but no network:
#
#   make wheels                                               # before, where there is a network
#   experiments/performance/sitting.sh versions tests ends    # there, with wheels/ and imagenette160.zip copied beside the checkout
#
# The stage `dense` needs nuclei256.zip beside the checkout too (objects and maps of nuclei, as `data=coco` and `data=maps` lay them
# out) and wheels/dense, average precision for the machine's Python:
#
#   make wheels GPU_PYTHON=3.12
#   DEVICE=cpu OUT=back DENSE_SECONDS=400 BENCH='--scale atto --image-size 64 --batch-size 2 --recipe dense_short --steps gelu --seconds 0.01 --rounds 1' \
#       RUN='scale=atto data.image_size=64 recipe.updates=2 recipe.warmup_epochs=0' experiments/performance/sitting.sh dense
#
# Each stage has a limit of its own, so that one that hangs costs no other; what it printed is in $OUT/logs.tar, and what it
# wrote under experiments/ in $OUT/results.tar, both packed anew after each stage. BENCH and DEVICE are for a rehearsal on a CPU:
#
#   DEVICE=cpu BENCH='--scale atto --image-size 32 --batch-size 4 --classes 10 --seconds 0.01 --rounds 1' \
#       OUT=back experiments/performance/sitting.sh versions ends
set -uo pipefail
cd "$(dirname "$0")/../.."
out=${OUT:-back}
mkdir -p "$out"
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site/packages" wheels/*.whl
if [ -d wheels/dense ]; then # for another Python they cost their own tests and runs only
  python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site/packages" wheels/dense/*.whl ||
    echo "wheels/dense is not for this Python: no average precision"
fi
export PYTHONPATH="$site/packages:$PWD" PYTHONUNBUFFERED=1
mkdir "$site/logs"
touch "$site/began"
device=${DEVICE:-cuda}
here=experiments/performance
card=${CARD:-$(nvidia-smi --query-gpu=name --format=csv,noheader 2> /dev/null | grep -o '[A-Z][0-9]*00' | head -n 1 | tr '[:upper:]' '[:lower:]')}
card=${card:-$device} # in the names of folders; roadmap.bench --resume refuses the rows of another card

run() { # SECONDS STAGE COMMAND...
  local limit=$1 stage=$2 began=$SECONDS status=0
  shift 2
  timeout --signal=TERM --kill-after=10 "$limit" "$@" > "$site/logs/$stage.txt" 2>&1 || status=$?
  echo "== $stage: exit code $status, $((SECONDS - began)) s"
  tail -n 30 "$site/logs/$stage.txt" | cut -c -180
}

bench() { # SECONDS STAGE ARGUMENTS...
  local limit=$1 stage=$2
  shift 2
  # shellcheck disable=SC2086 # several words
  run "$limit" "$stage" python3 -m roadmap.bench --device "$device" "$@" ${BENCH:-}
}

versions() { # and the two ceilings: bytes a second of a large copy, operations a second of a large product
  run 60 versions python3 - << 'END'
import sys, time, numpy, pandas, timm, torch, torchvision
print(sys.version.split()[0], *(f"{m.__name__} {m.__version__}" for m in (torch, torchvision, timm, numpy, pandas)))
if torch.cuda.is_available():
    print(torch.cuda.get_device_name(0), "cuDNN", torch.backends.cudnn.version(), "NCCL", torch.cuda.nccl.version())
    x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    y = torch.empty(2**30, device="cuda", dtype=torch.float32)
    z = torch.empty_like(y)
    for what, action, amount in (("product, TFLOP/s", lambda: x @ x, 2 * 8192**3 / 1e12), ("copy, TB/s", lambda: z.copy_(y), 8 * 2**30 / 1e12)):
        seconds = []
        for _ in range(8):
            torch.cuda.synchronize()
            began = time.perf_counter()
            action()
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
        print(what, round(amount / sorted(seconds)[4], 2))
END
}

tests() { run "${TEST_SECONDS:-170}" tests python3 -m pytest -m gpu tests -vv -n 8 --dist worksteal -rA -W default --durations=12 -p no:cacheprovider; }

failed() { # once more, alone: the tests that failed beside other work
  local names
  names=$(sed -n 's/^\(FAILED\|ERROR\) \([^ ]*\).*/\2/p' "$site/logs/tests.txt" | sort -u)
  # shellcheck disable=SC2086 # several words
  [ -z "$names" ] || run 90 failed python3 -m pytest -m gpu $names -rA -W default -p no:cacheprovider
}

nccl() { # whether two processes may share a GPU
  run 60 nccl python3 -m torch.distributed.run --nproc-per-node 2 $here/nccl_on_one_gpu.py
}

warm() { # the compiler's cache for what follows: nothing here is timed but the compiling, cold, on a busy machine
  local step
  for step in resnet separate_downsampling; do
    bench 240 "warm-$step" --steps $step --rounds 1 --seconds 0.01 --against timm_best --output "$site/warm-$step" > "$site/$step.log" &
  done
  bench 240 warm-graphs --steps separate_downsampling --rounds 1 --seconds 0.01 --against none --image-size 128 --batch-size 128 \
    --compile graphs --output "$site/warm-graphs" > "$site/graphs.log" &
}

choice() { # the learning rate of the Imagenette study at both ends, on held-out training images
  local step rate
  for step in resnet separate_downsampling; do
    for rate in 5e-4 1e-3 2e-3; do
      OMP_NUM_THREADS=2 run "${CHOICE_SECONDS:-200}" "choice-$step-$rate" python3 -m roadmap.run +study=imagenette \
        study.name=imagenette_choice "+step=$step" data.path=imagenette160.zip data.held_out=0.1 "recipe.lr=$rate" \
        runtime.keep_weights=false runtime.progress=false runtime.threads=2 ${RUN:-} > "$site/choice-$step-$rate.log" &
    done
  done
}

tests_and_warm() {
  warm
  tests
  wait
}

study() { # the Imagenette study, seed by seed, from where the runs in records.tar.gz left it
  [ ! -f experiments/imagenette/records.tar.gz ] || tar -xmf experiments/imagenette/records.tar.gz
  # shellcheck disable=SC2086 # several words
  run "${STUDY_SECONDS:-500}" study python3 -m roadmap.sweep study=imagenette data.path=imagenette160.zip "runtime.device=$device" \
    runtime.keep_weights=false runtime.evaluate_every=5 runtime.progress=false ${STUDY:-engine.gpus=0.1 engine.cpus=2}
}

study_and_tests() { # a run waits for the host half of its time, so ten share the card, and the tests and the compiler with them
  study > "$site/study.log" &
  sleep "${STUDY_HEAD_START:-20}" # its images are examined, and its runs have begun
  tests
  warm
  wait
  cat "$site"/*.log | grep -A 4 ==
  failed
}

side_by_side() { # what nobody times
  choice
  tests_and_warm
  cat "$site"/*.log | grep -A 4 ==
}

depthwise() { run 90 depthwise python3 $here/depthwise.py; }

augmentation() { run 60 augmentation python3 $here/augmentation.py; }

ends() { bench 200 ends --steps resnet,separate_downsampling --rounds 3 --profile --output "$here/$card-tiny-224px"; }


dense() { # one run of each head on real pictures, from random weights, then its speed at the published size
  local head study
  for head in mask_rcnn cascade_mask_rcnn upernet; do
    study=nuclei
    [ $head != upernet ] || study=nuclei_segmentation
    # shellcheck disable=SC2086 # several words
    run "${DENSE_SECONDS:-90}" "dense-$head" python3 -m roadmap.run "+study=$study" "study.name=$card-dense" \
      +step=separate_downsampling head=$head scale=tiny data.image_size=256 data.path=nuclei256.zip "runtime.device=$device" \
      runtime.threads=null runtime.progress=false runtime.evaluate_every=100 ${RUN:-}
    bench "${DENSE_SECONDS:-90}" "bench-$head" --task $head --steps resnet,separate_downsampling --rounds 3 --output "$here/$card-$head"
  done
}

last() { # with what the first sitting's profile asked for
  bench 90 last --steps separate_downsampling --rounds 3 --against timm_best --profile --output $here/$card-depthwise
}

eager() {
  bench 100 eager --steps resnet,separate_downsampling --rounds 3 --compile none --output $here/$card-eager
}

photographs() { # end to end: pictures kept on the device, or read and decoded beside it
  local pipeline
  for pipeline in ${PIPELINES:-device stream}; do
    bench 60 "photographs-$pipeline" --steps separate_downsampling --rounds 3 --seconds 0.5 --image-size 128 --batch-size 128 \
      --compile none --against none --data imagenette160.zip --pipeline "$pipeline" \
      --output "$here/$card-photographs-$pipeline"
  done
}

graphs() { # small pictures: an update waits for the host
  bench 80 graphs --steps separate_downsampling --rounds 3 --seconds 0.5 --against none --image-size 128 --batch-size 128 \
    --compile graphs --output $here/$card-graphs
}

all() { bench 500 all --rounds 3 --resume --output "$here/$card-tiny-224px"; }

[ "$device" = cpu ] || nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
for stage in "$@"; do
  "$stage"
  tar -C "$site" -cf "$out/logs.tar" logs
  find experiments -type f -newer "$site/began" -size -4096k -print0 | tar --null -T - -cf "$out/results.tar"
done
