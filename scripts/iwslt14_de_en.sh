#!/usr/bin/env bash
# IWSLT14 German-English by the recipe of the literature: from the official archive to fairseq's BLEU and sacrebleu -lc.
usage() {
  cat <<TEXT
usage: bash scripts/iwslt14_de_en.sh [options] [-- fairseq-train options]

  --raw DIR         folder with de-en.tgz, or with what is in it; without it the archive is downloaded (19 MB)
  --meta-size N     pairs of the validation set that are the teacher's dev set instead (default: 2000)
$COMMON_USAGE

Defaults: --out runs/iwslt14_de_en, --teacher deep,uniform (one after the other), --updates 50000, --average 5. Moses tokens,
lower case, every 23rd training pair to validate, five test sets joined.
BLEU, chrF and TER are of the detokenised text against the raw references, without case; BLEU_fairseq is of the tokens.
TEXT
}
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
UPDATES=50000 AVERAGE=5 META_SIZE=2000
own_option() {
  [[ "$1" == --meta-size ]] && value "$@" && META_SIZE="$VALUE"
}
parse_options "$@"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT="${OUT:-runs/iwslt14_de_en}"

set_up
if [[ -z "$RAW" ]]; then
  say "raw files in $OUT/raw"
  RAW="$OUT/raw"
  download "$RAW" https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz
fi
say "tokens in $OUT/text"
stage text python -m fairseq_l2rw.corpus.official iwslt14-de-en "$RAW" "$OUT/text"
say "binarised data in $OUT/data"
# The recipe has its own cleaning, done above, and keeps its duplicates.
stage data fairseq-l2rw prepare --src de --tgt en --train "$OUT/text/train" --valid "$OUT/text/valid" --test "$OUT/text/test" \
  --meta-size "$META_SIZE" --vocab-size 10000 --normalization identity --no-clean --workers "$WORKERS" --out "$OUT/data"
say "training (logs: $OUT/seed*/*/train.log)"
train_all "$OUT/data" --arch transformer_iwslt_de_en --share-decoder-input-output-embed \
  --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --optimizer adam --adam-betas '(0.9,0.98)' --clip-norm 0.0 \
  --lr 5e-4 --lr-scheduler inverse_sqrt --warmup-updates 4000 --dropout 0.3 --weight-decay 0.0001 --max-tokens 4096 \
  --meta-start 5000 --log-interval 100
say "translating the test sets (beam 5)"
score_all "$OUT/data" --detokenize --lowercase --references "$OUT/text/test.raw.en"
