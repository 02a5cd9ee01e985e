# Shared by the recipes (sourced after setup.sh): options of a small Transformer, trainings side by side, what they show.

# A Transformer that a CPU can train: 128 wide, 2+2 layers, tied embeddings.
SMALL_TRANSFORMER=(
  --arch transformer_iwslt_de_en --encoder-layers 2 --decoder-layers 2 --share-all-embeddings
  --encoder-embed-dim 128 --decoder-embed-dim 128 --encoder-ffn-embed-dim 256 --decoder-ffn-embed-dim 256
  --encoder-attention-heads 4 --decoder-attention-heads 4
  --criterion label_smoothed_cross_entropy --label-smoothing 0.1
  --optimizer adam --adam-betas '(0.9,0.98)' --lr 2e-3 --lr-scheduler inverse_sqrt --clip-norm 1.0
)

say() { printf '\n== %s\n' "$*"; }

fail() {
  echo "$(basename "$0"): error: $*" >&2
  exit 2
}

# --cpu where torch sees no GPU; one thread a training, because two run side by side.
choose_device() {
  DEVICE=()
  if ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    DEVICE=(--cpu)
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
  fi
}

# progress NAME LOG PID: the progress lines of a training, shortened, until the process ends.
progress() {
  tail -n 0 -F --pid="$3" "$2" 2>/dev/null | grep --line-buffered -F '| train_inner |' | sed -u -E \
    -e 's/^.*\| epoch [^:]*: *[0-9]+ \/ [0-9]+ (loss=[^,]*), .*(wps=[^,]*),.*num_updates=([0-9]+)(.*)$/update \3, \1, \2\4/' \
    -e 's/, (lr|gnorm|clip|train_wall|wall|gb_free|loss_scale)=[^,]*//g' -e 's/=/ /g' -e "s/^/$(printf '%-8s' "$1")/" || true
}

# train_side_by_side DATA DIR TEACHERS [fairseq-train options]: one training a teacher (comma-separated), same seed and
# updates, in DIR/TEACHER. Safe to repeat: an interrupted training resumes, a finished one is left alone (fairseq itself
# would take one more update), unless the options have changed.
train_side_by_side() {
  local data="$1" dir="$2" teachers="${3//,/ }" teacher failed=0
  local -A pids=()
  local -a watchers=()
  shift 3
  for teacher in $teachers; do
    mkdir -p "$dir/$teacher"
    if [[ -f "$dir/$teacher/done" && "$(<"$dir/$teacher/done")" == "$data $*" ]]; then
      echo "$dir/$teacher: done before"
      continue
    fi
    touch "$dir/$teacher/train.log"
    fairseq-train "$data" --user-dir fairseq_l2rw --task l2rw_translation --teacher "$teacher" \
      --save-dir "$dir/$teacher" --no-epoch-checkpoints --no-progress-bar --log-format simple \
      "${DEVICE[@]}" "${SMALL_TRANSFORMER[@]}" "$@" >>"$dir/$teacher/train.log" 2>&1 &
    pids[$teacher]=$!
    progress "$teacher" "$dir/$teacher/train.log" "${pids[$teacher]}" &
    watchers+=($!)
  done
  trap 'kill "${pids[@]}" 2>/dev/null || true' INT TERM
  for teacher in "${!pids[@]}"; do
    if wait "${pids[$teacher]}"; then
      echo "$data $*" >"$dir/$teacher/done"
    else
      failed=1
      echo "--teacher $teacher failed; the end of $dir/$teacher/train.log:" >&2
      tail -n 5 "$dir/$teacher/train.log" >&2
    fi
  done
  [[ ${#watchers[@]} -eq 0 ]] || wait "${watchers[@]}" || true
  trap - INT TERM
  return $failed
}

# score DATA DIR TEACHERS: translates the test set with the last checkpoint of each, beam 5; scores in DIR/TEACHER/eval.
score() {
  local data="$1" dir="$2" teachers="${3//,/ }" teacher
  for teacher in $teachers; do
    fairseq-l2rw evaluate "$data" --path "$dir/$teacher/checkpoint_last.pt" --out "$dir/$teacher/eval" \
      "${DEVICE[@]}" >"$dir/$teacher/scores.txt"
  done
}
