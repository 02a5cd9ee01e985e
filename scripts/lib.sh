# Shared by the recipes (sourced): options, stages that are done once, trainings, scores.
#
# A recipe sets the defaults of its options, calls parse_options "$@", and then goes through its stages with `stage`,
# `train_all` and `score_all`. With --dry-run every command is printed, as it could be typed, and none is run.

# A Transformer that a CPU can train: 128 wide, 2+2 layers, tied embeddings.
SMALL_TRANSFORMER=(
  --arch transformer_iwslt_de_en --encoder-layers 2 --decoder-layers 2 --share-all-embeddings
  --encoder-embed-dim 128 --decoder-embed-dim 128 --encoder-ffn-embed-dim 256 --decoder-ffn-embed-dim 256
  --encoder-attention-heads 4 --decoder-attention-heads 4
  --criterion label_smoothed_cross_entropy --label-smoothing 0.1
  --optimizer adam --adam-betas '(0.9,0.98)' --lr 2e-3 --lr-scheduler inverse_sqrt --clip-norm 1.0
)

COMMON_USAGE="\
  --out DIR         where everything goes
  --teacher NAMES   one training each, same seed and updates
  --seeds N,N,...   of the trainings: one of each teacher for every seed (default: 1)
  --updates N       student updates
  --average N       translate with the mean of the last N checkpoints; 1: with the last one
  --workers N       processes that prepare the data (default: 1)
  --torchrun N      train with N workers of this machine through torchrun (fairseq alone takes every GPU it sees)
  --slurm PORT      train through srun, inside an allocation with one task a node (fairseq starts a worker for each GPU);
                    PORT is fairseq's --distributed-port
  --dry-run         print every command and run none

Safe to repeat, after a kill as well: a stage that is done is not done again, an interrupted one goes on or begins anew.
The scripts set up their environment (scripts/setup.sh); with L2RW_SKIP_SETUP=1 the commands on PATH are used instead."

say() { printf '\n== %s\n' "$*"; }

fail() {
  echo "$(basename "$0"): error: $*" >&2
  exit 2
}

# ---- options ----------------------------------------------------------------

RAW="" OUT="" TEACHERS=deep,uniform SEEDS=1 UPDATES="" AVERAGE=1 WORKERS=1 TORCHRUN="" SLURM="" DRY="" EXTRA=() DEVICE=()

# parse_options "$@": sets the variables above. A recipe's own options go to own_option, which sets OWN_WORDS to the number
# of words that it took, or fails. What follows -- is for fairseq-train (EXTRA).
parse_options() {
  while [[ $# -gt 0 ]]; do
    case "$1" in
      -h | --help) usage && exit 0 ;;
      --dry-run) DRY=1 && shift && continue ;;
      --) shift && EXTRA=("$@") && break ;;
    esac
    OWN_WORDS=2
    case "$1" in
      --raw) value "$@" && RAW="$(absolute "$VALUE")" ;;
      --out) value "$@" && OUT="$(absolute "$VALUE")" ;;
      --teacher) value "$@" && TEACHERS="$VALUE" ;;
      --seeds | --seed) value "$@" && SEEDS="$VALUE" ;;
      --updates) value "$@" && UPDATES="$VALUE" ;;
      --average) value "$@" && AVERAGE="$VALUE" ;;
      --workers) value "$@" && WORKERS="$VALUE" ;;
      --torchrun) value "$@" && TORCHRUN="$VALUE" ;;
      --slurm) value "$@" && SLURM="$VALUE" ;;
      *) own_option "$@" || fail "unknown option $1 (see --help)" ;;
    esac
    shift "$OWN_WORDS"
  done
  [[ "$UPDATES$AVERAGE$WORKERS$TORCHRUN$SLURM" =~ ^[0-9]+$ ]] || fail "--updates, --average, --workers, --torchrun and --slurm take whole numbers"
  [[ "$SEEDS" =~ ^[0-9]+(,[0-9]+)*$ ]] || fail "--seeds $SEEDS: give numbers, as 1,2,3"
  [[ -z "$TORCHRUN" || -z "$SLURM" ]] || fail "--torchrun and --slurm: give one of the two"
  [[ -z "$SLURM" || "${SLURM_NTASKS:-1}" == "${SLURM_NNODES:-1}" ]] ||
    fail "--slurm: $SLURM_NTASKS tasks on $SLURM_NNODES nodes, which fairseq would take for as many trainings; allocate --ntasks-per-node 1"
  [[ -z "$RAW" || -d "$RAW" ]] || fail "--raw $RAW: no such folder"
}

# value OPTION VALUE...: sets VALUE.
value() {
  [[ $# -ge 2 ]] || fail "$1 needs a value (see --help)"
  VALUE="$2"
}

# The recipes work from the repository root; names on the command line are meant from where it was typed.
absolute() { [[ "$1" == /* ]] && echo "$1" || echo "$PWD/$1"; }

own_option() { return 1; }

# set_up: the environment, the device and the folder of the run; nothing of it for a dry run.
set_up() {
  [[ -z "$DRY" ]] || return 0
  [[ -n "${L2RW_SKIP_SETUP:-}" ]] || source scripts/setup.sh
  choose_device
  mkdir -p "$OUT/.done"
}

# --cpu where torch sees no GPU; one thread a training, because two may run side by side.
choose_device() {
  DEVICE=()
  if ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    DEVICE=(--cpu)
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
  fi
}

# ---- stages -----------------------------------------------------------------

# run COMMAND...: runs it; with --dry-run prints it.
run() {
  if [[ -n "$DRY" ]]; then
    printf '+'
    printf ' %q' "$@"
    printf '\n'
  else
    "$@"
  fi
}

# run_into FILE COMMAND...: the same, with standard output in FILE, which appears when the command has ended well.
run_into() {
  local file="$1"
  shift
  if [[ -n "$DRY" ]]; then
    printf '%s > %q\n' "$(run "$@")" "$file"
  else
    "$@" >"$file.part" && mv "$file.part" "$file"
  fi
}

# stage NAME COMMAND...: runs the command once. The mark, OUT/.done/NAME, holds the command and is written last; a command
# that has changed is run again.
stage() {
  local mark="$OUT/.done/$1"
  shift
  if [[ -z "$DRY" && -f "$mark" && "$(<"$mark")" == "$*" ]]; then
    echo "done before"
    return
  fi
  run "$@"
  [[ -n "$DRY" ]] || { echo "$*" >"$mark.part" && mv "$mark.part" "$mark"; }
}

# download FOLDER URL...: fetches what is not there yet; an interrupted file is gone on with.
download() {
  local folder="$1" url file begun
  shift
  run mkdir -p "$folder"
  for url in "$@"; do
    file="$folder/${url##*/}"
    [[ ! -f "$file" || -n "$DRY" ]] || continue
    [[ -n "$DRY" ]] || echo "downloading ${url##*/}"
    begun=""
    [[ ! -f "$file.part" ]] || begun=1
    if ! fetch "$url" "$file.part"; then
      # what was begun may be whole already (a server refuses to go on with it), or of another version
      [[ -n "$begun" ]] && rm -f "$file.part" && fetch "$url" "$file.part" ||
        fail "could not download $url; fetch it by hand and give its folder with --raw DIR"
    fi
    run mv "$file.part" "$file"
  done
}

fetch() { run curl --fail --silent --show-error --location --continue-at - --output "$2" "$1"; }

# ---- trainings --------------------------------------------------------------

# progress NAME LOG PID: the progress lines of a training, shortened, until the process ends.
progress() {
  tail -n 0 -F --pid="$3" "$2" 2>/dev/null | grep --line-buffered -F '| train_inner |' | sed -u -E \
    -e 's/^.*\| epoch [^:]*: *[0-9]+ \/ [0-9]+ (loss=[^,]*), .*(wps=[^,]*),.*num_updates=([0-9]+)(.*)$/update \3, \1, \2\4/' \
    -e 's/, (lr|gnorm|clip|train_wall|wall|gb_free|loss_scale)=[^,]*//g' -e 's/=/ /g' -e "s/^/$(printf '%-8s' "$1")/" || true
}

# Sets LAUNCH and LAUNCH_OPTIONS: how fairseq-train is started.
choose_launcher() {
  LAUNCH=(fairseq-train) LAUNCH_OPTIONS=()
  if [[ -n "$TORCHRUN" ]]; then
    LAUNCH=(torchrun --standalone --nproc_per_node "$TORCHRUN" --no-python fairseq-train)
  elif [[ -n "$SLURM" ]]; then
    LAUNCH=(srun --kill-on-bad-exit fairseq-train) LAUNCH_OPTIONS=(--distributed-port "$SLURM")
  fi
}

# train_side_by_side DATA DIR TEACHERS [fairseq-train options]: one training a teacher (comma-separated), same seed and
# updates, in DIR/TEACHER. Safe to repeat: an interrupted training resumes, a finished one is left alone (fairseq itself
# would take one more update), unless the options have changed.
train_side_by_side() {
  local data="$1" dir="$2" teachers="${3//,/ }" teacher failed=0
  local -A pids=()
  local -a watchers=() command
  shift 3
  choose_launcher
  for teacher in $teachers; do
    if [[ -z "$DRY" && -f "$dir/$teacher/done" && "$(<"$dir/$teacher/done")" == "$data $*" ]]; then
      echo "$dir/$teacher: done before"
      continue
    fi
    command=("${LAUNCH[@]}" "$data" --user-dir fairseq_l2rw --task l2rw_translation --teacher "$teacher"
      --save-dir "$dir/$teacher" --no-epoch-checkpoints --no-progress-bar --log-format simple
      "${DEVICE[@]}" "$@" "${LAUNCH_OPTIONS[@]}")
    if [[ -n "$DRY" ]]; then
      run "${command[@]}"
      continue
    fi
    mkdir -p "$dir/$teacher"
    rm -rf "$dir/$teacher/done" "$dir/$teacher/eval" # of a training with fewer updates, say
    touch "$dir/$teacher/train.log"
    # The lock goes with the training, not with this script: after a kill of the script alone, nobody trains beside it.
    flock --no-fork --nonblock --conflict-exit-code 75 "$dir/$teacher/lock" "${command[@]}" >>"$dir/$teacher/train.log" 2>&1 &
    pids[$teacher]=$!
    progress "$teacher" "$dir/$teacher/train.log" "${pids[$teacher]}" &
    watchers+=($!)
  done
  trap 'kill "${pids[@]}" 2>/dev/null || true' INT TERM
  for teacher in "${!pids[@]}"; do
    local status=0
    wait "${pids[$teacher]}" || status=$?
    if [[ $status -eq 0 ]]; then
      echo "$data $*" >"$dir/$teacher/done.part" && mv "$dir/$teacher/done.part" "$dir/$teacher/done"
    elif [[ $status -eq 75 ]]; then
      failed=1
      echo "$dir/$teacher: a training left by a killed run is still at work there; wait for its end, then run this again" >&2
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

# train_all DATA [fairseq-train options]: all teachers with all seeds, one after the other, in OUT/seedN/TEACHER; with
# TOGETHER set, the teachers of one seed side by side.
train_all() {
  local data="$1" seed teacher
  local -a saves=()
  shift
  # For the mean of the last checkpoints: fifty saves in the course of a training, the last few kept.
  [[ "$AVERAGE" -le 1 ]] || saves=(--save-interval-updates $((UPDATES < 50 ? 1 : UPDATES / 50)) --keep-interval-updates "$AVERAGE")
  for seed in ${SEEDS//,/ }; do
    if [[ -n "${TOGETHER:-}" ]]; then
      train_side_by_side "$data" "$OUT/seed$seed" "$TEACHERS" "$@" --seed "$seed" --max-update "$UPDATES" "${saves[@]}" "${EXTRA[@]}"
      continue
    fi
    for teacher in ${TEACHERS//,/ }; do
      train_side_by_side "$data" "$OUT/seed$seed" "$teacher" "$@" --seed "$seed" --max-update "$UPDATES" "${saves[@]}" "${EXTRA[@]}"
    done
  done
}

# ---- scores -----------------------------------------------------------------

# score DATA DIR TEACHERS [evaluate options]: translates the test set with the last checkpoint of each, or the mean of the
# last ones, beam 5; scores in DIR/TEACHER/eval.
score() {
  local data="$1" dir="$2" teachers="${3//,/ }" teacher checkpoint count
  shift 3
  for teacher in $teachers; do
    if [[ -z "$DRY" && -f "$dir/$teacher/eval/scores.txt" ]]; then
      echo "$dir/$teacher: done before"
      continue
    fi
    checkpoint="$dir/$teacher/checkpoint_last.pt"
    # fairseq writes none where a save falls on the end of an epoch, so a short training has fewer
    count="$AVERAGE"
    [[ -n "$DRY" ]] || count="$(find "$dir/$teacher" -maxdepth 1 -name 'checkpoint_*_*.pt' | wc -l)"
    if [[ "$AVERAGE" -gt 1 && "$count" -gt 0 ]]; then
      checkpoint="$dir/$teacher/average.pt"
      # it appears as a whole, so a file that is newer than the end of the training is the mark
      [[ -z "$DRY" && "$checkpoint" -nt "$dir/$teacher/done" ]] || run fairseq-l2rw average "$dir/$teacher" --last $((AVERAGE < count ? AVERAGE : count)) --by update --out "$checkpoint"
    fi
    [[ -n "$DRY" ]] || mkdir -p "$dir/$teacher/eval"
    run_into "$dir/$teacher/eval/scores.txt" fairseq-l2rw evaluate "$data" --path "$checkpoint" --out "$dir/$teacher/eval" "${DEVICE[@]}" "$@"
  done
}

# score_all DATA [evaluate options]: the same for all seeds, then the report and a table.
score_all() {
  local data="$1" seed teacher
  local -a dirs=()
  shift
  for seed in ${SEEDS//,/ }; do
    score "$data" "$OUT/seed$seed" "$TEACHERS" "$@"
    for teacher in ${TEACHERS//,/ }; do dirs+=("$OUT/seed$seed/$teacher"); done
  done
  run fairseq-l2rw report "${dirs[@]}" --out "$OUT/report.html"
  run python scripts/show_scores.py "$OUT" "$TEACHERS" "$SEEDS"
}
