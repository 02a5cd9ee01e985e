#!/usr/bin/env bash
# From nothing to a translation model trained on noisy data, in a quarter of an hour on two CPU cores.
#
#   bash scripts/quickstart.sh [FOLDER]      (default: quickstart)
#
# Sets up, writes a toy corpus of which a quarter is misaligned and a quarter untranslated, trains a student with the
# deep teacher and, beside it, one with uniform weights, scores both, and shows what the teacher thinks of the pairs.
# Safe to repeat: what is there is not made again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
source scripts/lib.sh
OUT="${1:-quickstart}"
NOISE=misaligned:0.25,untranslated:0.25
choose_device
SECONDS=0

say "1/5 toy corpus in $OUT/corpus (noise: $NOISE)"
if [[ ! -f "$OUT/corpus/train.labels.tsv" ]]; then
  fairseq-l2rw toy "$OUT/corpus" --noise "$NOISE" >/dev/null
fi
paste -d '\n' <(head -n 2 "$OUT/corpus/valid.de" | sed 's/^/  de  /') <(head -n 2 "$OUT/corpus/valid.en" | sed 's/^/  en  /')

say "2/5 sentencepiece and binarised data in $OUT/data"
fairseq-l2rw prepare --src de --tgt en --train "$OUT/corpus/train" --valid "$OUT/corpus/valid" --test "$OUT/corpus/test" \
  --meta-size 500 --vocab-size 2000 --out "$OUT/data" >/dev/null

say "3/5 training with the deep teacher and, beside it, with uniform weights (logs: $OUT/runs/*/train.log)"
train_side_by_side "$OUT/data" "$OUT/runs" deep,uniform "${SMALL_TRANSFORMER[@]}" \
  --dropout 0.1 --warmup-updates 200 --max-tokens 3000 --max-update 1000 --log-interval 50 \
  --meta-start 400 --meta-interval 2 --meta-max-tokens 1000 --seed 1

say "4/5 translating the test set (beam 5) and scoring it with sacrebleu"
score "$OUT/data" "$OUT/runs" deep,uniform

say "5/5 the teacher's weight of every training pair"
fairseq-l2rw weights "$OUT/data" --path "$OUT/runs/deep/checkpoint_last.pt" --labels "$OUT/corpus/train.labels.tsv" \
  --out "$OUT/runs/deep/weights.tsv" "${DEVICE[@]}" >"$OUT/runs/deep/weights.json"
fairseq-l2rw report "$OUT/runs/deep" "$OUT/runs/uniform" --labels "$OUT/corpus/train.labels.tsv" --out "$OUT/report.html" >/dev/null
python scripts/show_quickstart.py "$OUT" "$SECONDS"
