#!/usr/bin/env bash
# WMT14 English-German, Transformer base or big: from the official archives to sacrebleu on newstest2014.
usage() {
  cat <<TEXT
usage: bash scripts/wmt14_en_de.sh [options] [-- fairseq-train options]

  --raw DIR         folder with the official files, unpacked or in their archives: training-parallel-europarl-v7.tgz,
                    training-parallel-commoncrawl.tgz, training-parallel-nc-v9.tgz, dev.tgz, test-full.tgz; without it
                    they are downloaded (1.7 GB)
  --big             Transformer big (default: base)
$COMMON_USAGE

Defaults: --out runs/wmt14_en_de (with --big: runs/wmt14_en_de_big), --teacher deep,uniform (one after the other), --updates
100000 (--big: 300000), --average 5. newstest2012 is the teacher's dev set, newstest2013 validates, newstest2014 (sacrebleu's
wmt14/full) tests. A batch is about 25,000 tokens on each side: --update-freq 8 with one worker, 8/N with --torchrun N; with
--slurm, or where fairseq itself spreads over several GPUs, give -- --update-freq K.
TEXT
}
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
AVERAGE=5 BIG=""
own_option() {
  [[ "$1" == --big ]] && BIG=1 OWN_WORDS=1
}
parse_options "$@"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT="${OUT:-runs/wmt14_en_de${BIG:+_big}}"
if [[ -n "$BIG" ]]; then
  UPDATES="${UPDATES:-300000}" MODEL=(--arch transformer_vaswani_wmt_en_de_big --dropout 0.3 --lr 5e-4)
else
  UPDATES="${UPDATES:-100000}" MODEL=(--arch transformer_wmt_en_de --dropout 0.1 --lr 7e-4)
fi

set_up
if [[ -z "$RAW" ]]; then
  say "raw files in $OUT/raw"
  RAW="$OUT/raw"
  download "$RAW" https://www.statmt.org/wmt13/training-parallel-europarl-v7.tgz \
    https://www.statmt.org/wmt13/training-parallel-commoncrawl.tgz https://www.statmt.org/wmt14/training-parallel-nc-v9.tgz \
    https://www.statmt.org/wmt14/dev.tgz https://www.statmt.org/wmt14/test-full.tgz
fi
say "text in $OUT/text"
stage text python -m fairseq_l2rw.corpus.official wmt14-en-de "$RAW" "$OUT/text"
say "binarised data in $OUT/data"
stage data fairseq-l2rw prepare --src en --tgt de --train "$OUT/text/train" --valid "$OUT/text/valid" \
  --test "$OUT/text/test" --meta "$OUT/text/meta" --vocab-size 32000 --workers "$WORKERS" --out "$OUT/data"
say "training (logs: $OUT/seed*/*/train.log)"
train_all "$OUT/data" "${MODEL[@]}" --share-all-embeddings --criterion label_smoothed_cross_entropy --label-smoothing 0.1 \
  --optimizer adam --adam-betas '(0.9,0.98)' --clip-norm 0.0 --lr-scheduler inverse_sqrt --warmup-updates 4000 \
  --warmup-init-lr 1e-7 --weight-decay 0.0 --max-tokens 3200 --update-freq $((${TORCHRUN:-1} < 8 ? 8 / ${TORCHRUN:-1} : 1)) \
  --meta-start 10000 --log-interval 100
say "translating newstest2014 (beam 4, length penalty 0.6)"
score_all "$OUT/data" --beam 4 --lenpen 0.6 --compound-split
