#!/usr/bin/env bash
# Multi30k (image captions, German to English): from the raw files to a sacrebleu score on test_2016_flickr.
usage() {
  cat <<'TEXT'
usage: bash scripts/multi30k_de_en.sh [options] [-- fairseq-train options]

  --raw DIR         folder with train, val, test_2016_flickr .de and .en (plain or .gz), as in the raw part of task 1 of
                    the multi30k/dataset repository; without it they are downloaded from there (2 MB)
  --out DIR         where everything goes (default: runs/multi30k_de_en)
  --teacher NAMES   one training each, side by side, same seed and updates (default: deep,uniform)
  --updates N       student updates (default: 2500)
  --noise KIND:RATE,...   spoil a part of the training pairs, as 'fairseq-l2rw corrupt' does (default: none)
  --seed N          of the training and of the noise (default: 1)
  --dry-run         print the commands and run none

Safe to repeat: what is there is not made again, an interrupted training resumes.
TEXT
}
set -euo pipefail
RAW="" OUT="" TEACHERS=deep,uniform UPDATES=2500 NOISE="" SEED=1 DRY=""
while [[ $# -gt 0 ]]; do
  case "$1" in
    --raw) RAW="${2:?--raw needs a folder}" && shift 2 ;;
    --out) OUT="${2:?--out needs a folder}" && shift 2 ;;
    --teacher) TEACHERS="${2:?--teacher needs names}" && shift 2 ;;
    --updates) UPDATES="${2:?--updates needs a number}" && shift 2 ;;
    --noise) NOISE="${2:?--noise needs KIND:RATE}" && shift 2 ;;
    --seed) SEED="${2:?--seed needs a number}" && shift 2 ;;
    --dry-run) DRY=1 && shift ;;
    -h | --help) usage && exit 0 ;;
    --) shift && break ;;
    *) echo "multi30k_de_en.sh: error: unknown option $1 (see --help)" >&2 && exit 2 ;;
  esac
done
WHERE="$PWD"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh
[[ -z "$RAW" || "$RAW" == /* ]] || RAW="$WHERE/$RAW"
OUT="${OUT:-runs/multi30k_de_en}"
SPLITS=(train val test_2016_flickr)

# Says which raw file is missing, before anything else is done.
check_raw() {
  local split lang
  for split in "${SPLITS[@]}"; do
    for lang in de en; do
      [[ -f "$RAW/$split.$lang" || -f "$RAW/$split.$lang.gz" ]] ||
        fail "--raw $RAW: no $split.$lang and no $split.$lang.gz in it; it is in data/task1/raw of the multi30k/dataset repository"
    done
  done
}

download_raw() {
  local split lang file
  RAW="$OUT/raw"
  mkdir -p "$RAW"
  for split in "${SPLITS[@]}"; do
    for lang in de en; do
      file="$split.$lang.gz"
      [[ -f "$RAW/$file" ]] && continue
      echo "downloading $file"
      curl --fail --silent --show-error --location --output "$RAW/$file.part" \
        "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/$file" ||
        fail "could not download $file; fetch the raw files of task 1 of the multi30k/dataset repository by hand and give --raw DIR"
      mv "$RAW/$file.part" "$RAW/$file"
    done
  done
}

run() {
  if [[ -n "$DRY" ]]; then echo "+ $*"; else "$@"; fi
}

[[ -z "$RAW" ]] || check_raw
if [[ -z "$DRY" ]]; then
  source scripts/setup.sh
  choose_device
  [[ -n "$RAW" ]] || download_raw
else
  DEVICE=()
  RAW="${RAW:-$OUT/raw}"
fi
find_raw() { if [[ -f "$RAW/train.$1" ]]; then echo "$RAW/train.$1"; else echo "$RAW/train.$1.gz"; fi; }

TRAIN="$RAW/train"
if [[ -n "$NOISE" ]]; then
  say "noise: $NOISE"
  TRAIN="$OUT/noisy/train"
  [[ -n "$DRY" ]] || mkdir -p "$OUT/noisy"
  if [[ ! -f "$OUT/noisy/train.labels.tsv" ]]; then
    run fairseq-l2rw corrupt --src "$(find_raw de)" --tgt "$(find_raw en)" --out-src "$TRAIN.de" --out-tgt "$TRAIN.en" \
      --labels "$TRAIN.labels.tsv" --noise "$NOISE" --seed "$SEED"
  fi
fi
say "binarised data in $OUT/data"
run fairseq-l2rw prepare --src de --tgt en --train "$TRAIN" --valid "$RAW/val" --test "$RAW/test_2016_flickr" \
  --meta-size 800 --vocab-size 6000 --out "$OUT/data"
say "training (logs: $OUT/*/train.log)"
run train_side_by_side "$OUT/data" "$OUT" "$TEACHERS" --dropout 0.15 --warmup-updates 300 --max-tokens 3000 \
  --max-update "$UPDATES" --log-interval 50 --seed "$SEED" --meta-start 1000 --meta-interval 2 --meta-max-tokens 1500 "$@"
say "translating test_2016_flickr (beam 5, last checkpoint)"
run score "$OUT/data" "$OUT" "$TEACHERS"
[[ -z "$DRY" ]] || exit 0
for teacher in ${TEACHERS//,/ }; do
  if [[ "$teacher" != uniform ]]; then
    labels=()
    [[ -z "$NOISE" ]] || labels=(--labels "$TRAIN.labels.tsv")
    fairseq-l2rw weights "$OUT/data" --path "$OUT/$teacher/checkpoint_last.pt" --out "$OUT/$teacher/weights.tsv" \
      "${labels[@]}" "${DEVICE[@]}" | tee "$OUT/$teacher/weights.json"
  fi
done
for teacher in ${TEACHERS//,/ }; do
  echo "--teacher $teacher ($OUT/$teacher/eval/test.hyp)"
  sed 's/^/  /' "$OUT/$teacher/scores.txt"
done
