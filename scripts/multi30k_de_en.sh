#!/usr/bin/env bash
# Multi30k (image captions, German to English): from the raw files to a sacrebleu score on test_2016_flickr.
usage() {
  cat <<TEXT
usage: bash scripts/multi30k_de_en.sh [options] [-- fairseq-train options]

  --raw DIR         folder with train, val, test_2016_flickr .de and .en (plain or .gz), as in the raw part of task 1 of
                    the multi30k/dataset repository; without it they are downloaded from there (2 MB)
  --noise KIND:RATE,...   spoil a part of the training pairs, as 'fairseq-l2rw corrupt' does (default: none)
  --noise-seed N    which ones (default: 1)
  --meta-size N     pairs of val that are the teacher's dev set instead (default: 800)
$COMMON_USAGE

Defaults: --out runs/multi30k_de_en, --teacher deep,uniform (side by side), --updates 2500, --average 1.
TEXT
}
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
UPDATES=2500 NOISE="" NOISE_SEED=1 META_SIZE=800 TOGETHER=1
own_option() {
  case "$1" in
    --noise) value "$@" && NOISE="$VALUE" ;;
    --noise-seed) value "$@" && NOISE_SEED="$VALUE" ;;
    --meta-size) value "$@" && META_SIZE="$VALUE" ;;
    *) return 1 ;;
  esac
}
parse_options "$@"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
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
find_raw() { if [[ -f "$RAW/train.$1" ]]; then echo "$RAW/train.$1"; else echo "$RAW/train.$1.gz"; fi; }

[[ -z "$RAW" ]] || check_raw
set_up
if [[ -z "$RAW" ]]; then
  say "raw files in $OUT/raw"
  RAW="$OUT/raw"
  URLS=()
  for split in "${SPLITS[@]}"; do
    URLS+=("https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/$split."{de,en}.gz)
  done
  download "$RAW" "${URLS[@]}"
fi
TRAIN="$RAW/train"
if [[ -n "$NOISE" ]]; then
  say "noise: $NOISE"
  TRAIN="$OUT/noisy/train"
  stage noise fairseq-l2rw corrupt --src "$(find_raw de)" --tgt "$(find_raw en)" --out-src "$TRAIN.de" \
    --out-tgt "$TRAIN.en" --labels "$TRAIN.labels.tsv" --noise "$NOISE" --seed "$NOISE_SEED"
fi
say "binarised data in $OUT/data"
# The same pairs with noise and without it, so neither duplicates nor pairs of unequal length are cleaned away.
stage data fairseq-l2rw prepare --src de --tgt en --train "$TRAIN" --valid "$RAW/val" --test "$RAW/test_2016_flickr" \
  --meta-size "$META_SIZE" --vocab-size 6000 --max-ratio 0 --duplicates keep \
  --workers "$WORKERS" --out "$OUT/data"
say "training (logs: $OUT/seed*/*/train.log)"
train_all "$OUT/data" "${SMALL_TRANSFORMER[@]}" --dropout 0.15 --warmup-updates 300 --max-tokens 3000 --log-interval 50 \
  --meta-start 500
say "weights of the training pairs"
labels=()
[[ -z "$NOISE" ]] || labels=(--labels "$TRAIN.labels.tsv")
for seed in ${SEEDS//,/ }; do
  for teacher in ${TEACHERS//,/ }; do
    [[ "$teacher" != uniform ]] || continue
    dir="$OUT/seed$seed/$teacher"
    [[ -z "$DRY" && "$dir/weights.json" -nt "$dir/done" ]] ||
      run_into "$dir/weights.json" fairseq-l2rw weights "$OUT/data" --path "$dir/checkpoint_last.pt" \
        --out "$dir/weights.tsv" "${labels[@]}" "${DEVICE[@]}"
    [[ -n "$DRY" ]] || cat "$dir/weights.json"
  done
done
say "translating test_2016_flickr (beam 5)"
score_all "$OUT/data"
