"""``fairseq-hydra-train`` with the example that comes with the package."""

from integration.commands import ERROR, PACKAGE, checkpoint, run

# An option that the example does not name is added with a plus: hydra does not know it.
SMALL = (
    "model.encoder.layers=1 model.decoder.layers=1 model.encoder.embed_dim=32 model.decoder.embed_dim=32 "
    "model.encoder.ffn_embed_dim=64 model.decoder.ffn_embed_dim=64 dataset.max_tokens=1000 dataset.num_workers=0 "
    "+task.teacher_replay=2 common.cpu=true common.log_interval=1 common.log_format=json common.reset_logging=true"
).split()


def hydra_train(data, cwd, *overrides, status=0):
    words = ["--config-dir", PACKAGE / "config", "--config-name", "toy_de_en", f"common.user_dir={PACKAGE}"]
    return run("-m", "fairseq_cli.hydra_train", *words, f"task.data='{data}'", *SMALL, *overrides, cwd=cwd, status=status)


def test_the_example_trains(data, tmp_path):
    result = hydra_train(data, tmp_path, "optimization.max_update=5", "task.meta_start=2")
    log = result.stdout + result.stderr
    entries = [line for line in log.splitlines() if "| train_inner |" in line]
    assert len(entries) == 5 and all("meta_loss" in line for line in entries[2:]), result
    saved = checkpoint(tmp_path / "checkpoints" / "checkpoint_last.pt")
    assert saved["cfg"]["task"]["teacher_replay"] == 2 and saved["cfg"]["task"]["meta_objective"] == "contrastive"
    assert "L2RWTranslationTask" in saved["extra_state"]


def test_bad_input(data, tmp_path):
    result = hydra_train(data, tmp_path, "task.meta_interval=0", status=2)
    assert result.stderr.splitlines()[-1] == f"{ERROR}--meta-interval 0: give 1 or more", result
    assert "Traceback" not in result.stdout + result.stderr, result
    assert list((tmp_path / "checkpoints").iterdir()) == []
