"""The recipes: from a tiny corpus laid out as the official one to scores; killed at every command; dry runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import official

ROOT = Path(__file__).parents[2]
TINY = (
    "--encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 32 --decoder-embed-dim 32 --encoder-ffn-embed-dim 64 "
    "--decoder-ffn-embed-dim 64 --encoder-attention-heads 2 --decoder-attention-heads 2 --max-tokens 1000 --update-freq 1 "
    "--meta-start 1 --meta-interval 1 --meta-max-tokens 300 --num-workers 0 --log-interval 1"
).split()


def write_command(path, *lines):
    path.write_text("\n".join(["#!/usr/bin/env bash", *lines, ""]))
    path.chmod(0o755)


@pytest.fixture
def commands(tmp_path):
    """A folder with the commands that the recipes need, of this checkout and this Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    write_command(folder / "python", f'exec "{sys.executable}" "$@"')
    write_command(folder / "fairseq-train", f'exec "{sys.executable}" -m fairseq_cli.train "$@"')
    write_command(folder / "fairseq-l2rw", f'exec "{sys.executable}" -m fairseq_l2rw.cli.main "$@"')
    return folder


def recipe(name, *options, commands, cwd, status=0, **environment):
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / f"{name}.sh"), *map(str, options)], cwd=cwd, capture_output=True, text=True, timeout=900,
        env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "L2RW_SKIP_SETUP": "1",
             "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    assert done.returncode == status, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def scores(out, *teachers):
    return [json.loads((out / "seed1" / teacher / "eval" / "test.json").read_text()) for teacher in teachers]


# ---- from end to end --------------------------------------------------------


def test_wmt14(commands, tmp_path):
    official.wmt14(tmp_path / "raw", train=150, dev=30, test=8)
    options = ["--raw", "raw", "--out", "out", "--updates", 3, "--average", 2, "--teacher", "deep", "--", *TINY]
    done = recipe("wmt14_en_de", *options, commands=commands, cwd=tmp_path)
    (result,) = scores(tmp_path / "out", "deep")
    assert result["n"] == 10 and "tok:13a" in result["BLEU"]["signature"]
    assert "compound hyphens" in result["BLEU_compound"]["signature"]
    assert re.search(r"^deep seed 1 +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+$", done.stdout, re.MULTILINE)
    data = json.loads((tmp_path / "out" / "data" / "prepare.json").read_text())
    assert data["lines"] == {
        "train": 450,
        "valid": 30,
        "test": 10,
        "meta": 30,
    }  # 2012 for the teacher, 2013 to validate
    assert (tmp_path / "out" / "seed1" / "deep" / "average.pt").exists()
    log = (tmp_path / "out" / "seed1" / "deep" / "train.log").read_text()
    assert "dev batches from 'meta' (30 pairs)" in log and "meta_loss=" in log  # the teacher was at work


def test_iwslt14(commands, tmp_path):
    pytest.importorskip("sacremoses")
    official.iwslt14(tmp_path / "raw")
    options = ["--raw", "raw", "--out", "out", "--updates", 2, "--average", 1, "--teacher", "deep", "--meta-size", 8]
    recipe("iwslt14_de_en", *options, "--", *TINY, "--share-all-embeddings", commands=commands, cwd=tmp_path)
    (result,) = scores(tmp_path / "out", "deep")
    assert result["n"] == 27 and "case:lc" in result["BLEU"]["signature"]
    assert set(result) >= {"BLEU", "chrF", "TER", "BLEU_fairseq"}


def test_multi30k_with_noise(commands, tmp_path):
    official.multi30k(tmp_path / "raw", train=200)
    options = [
        "--raw",
        "raw",
        "--out",
        "out",
        "--updates",
        2,
        "--teacher",
        "deep",
        "--noise",
        "misaligned:0.5",
        "--meta-size",
        20,
    ]
    recipe("multi30k_de_en", *options, "--", *TINY, "--meta-max-tokens", 200, commands=commands, cwd=tmp_path)
    assert scores(tmp_path / "out", "deep")[0]["n"] == 16
    assert "Do the weights separate?" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert set(json.loads((tmp_path / "out" / "seed1" / "deep" / "weights.json").read_text())["kinds"]) == {
        "clean",
        "misaligned",
    }


# ---- killed -----------------------------------------------------------------

#: Stands for every command of the recipe. On the first call of each it does half of its work and kills the script; later
#: it does it all.
STUB = r"""
say="{name} $*"
[[ "{name}" != python || "$1" != -c ]] || exit 1
case "$say" in
  "python -m fairseq_l2rw.corpus.official"*) out="$5" files="train.en train.de" ;;
  "fairseq-l2rw prepare"*) out="${{*: -1}}" files="prepare.json" ;;
  "fairseq-train"*) out="$(sed 's/.*--save-dir \([^ ]*\).*/\1/' <<<"$*")" files="checkpoint_last.pt checkpoint_1_1.pt checkpoint_1_2.pt" ;;
  "fairseq-l2rw average"*) out="$(dirname "${{*: -1}}")" files="average.pt" ;; # appears as a whole
  "fairseq-l2rw evaluate"*) out="$(sed 's/.*--out \([^ ]*\).*/\1/' <<<"$*")" files="test.json" ;;
  "fairseq-l2rw report"*) exit 0 ;; # made anew each time
  *) exec "{python}" "$@" ;;
esac
echo "$say" >>"$STUB_LOG"
mkdir -p "$out"
score='{{"BLEU": {{"score": 30.0, "signature": "x"}}}}'
case "$(grep -cxF -- "$say" "$STUB_LOG")" in
  1) [[ "$files" == average.pt ]] || for file in $files; do echo half >"$out/$file"; break; done; kill -9 "$PPID"; exit 1 ;;
  *) for file in $files; do echo "$score" >"$out/$file"; done; echo "$score" ;;
esac
"""


def test_killed_at_every_command_in_turn(tmp_path):
    """Each kill costs one command; what was done before is not done again, and the end is reached."""
    (tmp_path / "bin").mkdir()
    for name in ("python", "fairseq-train", "fairseq-l2rw"):
        write_command(tmp_path / "bin" / name, STUB.format(name=name, python=sys.executable))
    official.wmt14(tmp_path / "raw", train=3, dev=2, test=1)
    log = tmp_path / "calls"
    log.touch()
    options = ["--raw", "raw", "--out", "out", "--updates", "4", "--seeds", "1,2", "--teacher", "deep,uniform"]
    how = {"commands": tmp_path / "bin", "cwd": tmp_path, "STUB_LOG": str(log)}
    stages = 2 + 4 + 4 + 4  # text, data; a training, an average and an evaluation for each teacher and seed
    for killed in range(stages):
        done = recipe("wmt14_en_de", *options, status=-9, **how)
        assert "seed 1" not in done.stdout and len(log.read_text().splitlines()) == 1 + 2 * killed
    done = recipe("wmt14_en_de", *options, **how)
    assert re.findall(r"^(\w+) +mean +([\d.]+) ± 0.00$", done.stdout, re.MULTILINE) == [
        ("deep", "30.00"),
        ("uniform", "30.00"),
    ]
    calls = log.read_text().splitlines()
    assert len(set(calls)) == stages
    counts = {call: calls.count(call) for call in calls}
    assert set(counts.values()) == {2}, counts  # the killed one and the one that went through
    recipe("wmt14_en_de", *options, **how)
    assert log.read_text().splitlines() == calls  # all is done
    # more updates: the trainings go on, and what hangs on them is done again
    recipe(
        "wmt14_en_de",
        "--raw",
        "raw",
        "--out",
        "out",
        "--updates",
        "5",
        "--seeds",
        "1",
        "--teacher",
        "deep",
        status=-9,
        **how,
    )
    assert "--max-update 5" in log.read_text().splitlines()[-1]
    assert not (tmp_path / "out" / "seed1" / "deep" / "eval").exists()


def test_a_training_that_outlived_its_script_is_not_disturbed(tmp_path):
    (tmp_path / "bin").mkdir()
    save = tmp_path / "out" / "seed1" / "deep"
    save.mkdir(parents=True)
    for name in ("python", "fairseq-train", "fairseq-l2rw"):
        write_command(
            tmp_path / "bin" / name, STUB.format(name=name, python=sys.executable).replace("  1) ", "  9) ")
        )
    official.wmt14(tmp_path / "raw", train=3, dev=2, test=1)
    options = ["--raw", "raw", "--out", "out", "--updates", "4", "--teacher", "deep"]
    how = {"commands": tmp_path / "bin", "cwd": tmp_path, "STUB_LOG": str(tmp_path / "calls")}
    (tmp_path / "calls").touch()
    with subprocess.Popen(["flock", "--no-fork", str(save / "lock"), "sleep", "60"]) as other:
        while subprocess.run(["flock", "--nonblock", str(save / "lock"), "true"]).returncode == 0:
            pass
        done = recipe("wmt14_en_de", *options, status=1, **how)
        other.kill()
    assert "a training left by a killed run is still at work there; wait for its end" in done.stderr


# ---- what is printed --------------------------------------------------------


@pytest.mark.parametrize("name", ["wmt14_en_de", "iwslt14_de_en", "multi30k_de_en"])
def test_dry_run_prints_every_command_and_does_nothing(name, commands, tmp_path):
    done = recipe(
        name,
        "--dry-run",
        "--out",
        "out",
        "--seeds",
        "1,2,3",
        "--updates",
        7,
        "--",
        "--fp16",
        commands=commands,
        cwd=tmp_path,
    )
    trainings = re.findall(r"^\+ fairseq-train .*", done.stdout, re.MULTILINE)
    assert len(trainings) == 6
    for seed in "123":
        assert (
            sum(f"--seed {seed} " in line and "--max-update 7 " in line and "--fp16" in line for line in trainings) == 2
        )
    for word in ("+ curl ", "+ fairseq-l2rw prepare ", "+ fairseq-l2rw evaluate "):
        assert word in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_several_gpus_by_fairseq_s_own_ways(commands, tmp_path):
    how = {"commands": commands, "cwd": tmp_path}
    torchrun = recipe("wmt14_en_de", "--dry-run", "--torchrun", 4, "--big", **how).stdout
    assert re.search(
        r"^\+ torchrun --standalone --nproc_per_node 4 --no-python fairseq-train .*_big .*--update-freq 2 ",
        torchrun,
        re.M,
    )
    slurm = recipe("wmt14_en_de", "--dry-run", "--slurm", 29500, **how).stdout
    assert re.search(
        r"^\+ srun --kill-on-bad-exit fairseq-train .*--update-freq 8 .*--distributed-port 29500$", slurm, re.M
    )


def test_an_allocation_that_fairseq_would_misunderstand_is_refused(commands, tmp_path):
    """It starts a worker for each GPU of a node itself."""
    options = ["--dry-run", "--slurm", 29500, "--out", "out"]
    how = {"commands": commands, "cwd": tmp_path, "SLURM_NNODES": "1"}
    error = recipe("multi30k_de_en", *options, status=2, SLURM_NTASKS="8", **how).stderr
    assert "--slurm: 8 tasks on 1 nodes" in error and error.endswith("allocate --ntasks-per-node 1\n")
    recipe("multi30k_de_en", *options, SLURM_NTASKS="1", **how)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--bogus"], "unknown option --bogus (see --help)"),
        (["--raw"], "--raw needs a value (see --help)"),
        (["--seeds", "1,x"], "--seeds 1,x: give numbers, as 1,2,3"),
        (["--updates", "x"], "--updates, --average, --workers, --torchrun and --slurm take whole numbers"),
        (["--torchrun", "2", "--slurm", "1"], "--torchrun and --slurm: give one of the two"),
        (["--raw", "none"], "--raw {cwd}/none: no such folder"),
    ],
)
def test_bad_options(options, message, commands, tmp_path):
    done = recipe("wmt14_en_de", *options, status=2, commands=commands, cwd=tmp_path)
    assert done.stderr == f"wmt14_en_de.sh: error: {message.format(cwd=tmp_path)}\n"


def test_files_that_are_missing_are_named(commands, tmp_path):
    (tmp_path / "raw").mkdir()
    how = {"commands": commands, "cwd": tmp_path, "status": 2}
    missing = {
        "wmt14_en_de": "training-parallel-europarl-v7.tgz",
        "iwslt14_de_en": "de-en.tgz",
        "multi30k_de_en": "train.de",
    }
    for name, file in missing.items():
        error = recipe(name, "--raw", "raw", "--out", "out", **how).stderr
        assert len(error.splitlines()) == 1 and f"no {file}" in error, error


def test_a_download_is_gone_on_with(commands, tmp_path):
    """curl is a stub that knows the official names; the first time it breaks off."""
    official.wmt14(tmp_path / "official", train=3, dev=2, test=1)
    write_command(
        commands / "curl",
        'url="${@: -1}" file="${@: -2:1}"',
        '[[ "$file" != *test-full* || ! -f "$file" ]] || exit 22',  # nothing is left to fetch: HTTP 416
        f'[[ -f "{tmp_path}/official/${{url##*/}}" && "$url" == https://www.statmt.org/wmt1* ]] || exit 22',
        f'[[ "${{url##*/}}" != dev.tgz || -f {tmp_path}/second ]] || {{ head -c 100 {tmp_path}/official/dev.tgz >"$file"; exit 18; }}',
        f'cp "{tmp_path}/official/${{url##*/}}" "$file"; echo "${{url##*/}}" >>{tmp_path}/fetched',
    )
    write_command(commands / "fairseq-l2rw", "exit 3")  # the way ends after the text
    how = {"commands": commands, "cwd": tmp_path}
    done = recipe("wmt14_en_de", "--out", "out", "--updates", 1, status=2, **how)
    assert "could not download https://www.statmt.org/wmt14/dev.tgz; fetch it by hand" in done.stderr
    (tmp_path / "second").touch()
    (tmp_path / "out" / "raw" / "test-full.tgz.part").write_text("killed when it was whole, before it had its name")
    recipe("wmt14_en_de", "--out", "out", "--updates", 1, status=3, **how)
    fetched = (tmp_path / "fetched").read_text().splitlines()
    assert sorted(fetched) == sorted(official_names()) and (tmp_path / "out" / "text" / "train.de").exists()


def official_names():
    from fairseq_l2rw.corpus.official import WMT14

    return list(WMT14)
