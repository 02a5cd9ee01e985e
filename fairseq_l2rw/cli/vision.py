"""``fairseq-l2rw vision``: trains an image classifier, with clean or noisy labels."""

import argparse
import dataclasses
import json

NAME = "vision"
HELP = "train an image classifier whose images a teacher weighs (works without fairseq)"
EXAMPLE = (
    "fairseq-l2rw vision --data digits --noise uniform:0.4 --compare\n"
    "fairseq-l2rw vision --data cifar10 --root DIR --noise flip2:0.4 --model resnet32 --save-dir run\n"
    "torchrun --nproc-per-node 2 --no-python fairseq-l2rw vision --data cifar10 --root DIR --model wrn-28-10 --schedule wrn"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from fairseq_l2rw.vision.config import VisionConfig

    types = {"int": int, "float": float, "str": str, "bool": bool}
    for field in dataclasses.fields(VisionConfig):
        option, how = "--" + field.name.replace("_", "-"), dict(field.metadata)
        kind = types[field.type.split(" ")[0]]
        if kind is bool:
            parser.add_argument(option, action="store_true", help=how["help"])
            continue
        if field.default is not None:
            how["help"] += " (default: %(default)s)"
        if how.get("choices"):
            how["metavar"] = "{" + ",".join(how["choices"]) + "}"
        how["help"] = how["help"].replace("% ", "%% ")
        parser.add_argument(option, type=kind, default=field.default, **how)


def run(args: argparse.Namespace) -> None:
    from fairseq_l2rw.vision.config import VisionConfig
    from fairseq_l2rw.vision.run import run

    config = VisionConfig(**{f.name: getattr(args, f.name) for f in dataclasses.fields(VisionConfig)})
    results, first = run(config)
    if first:
        print(json.dumps({"results": results}, indent=2))
