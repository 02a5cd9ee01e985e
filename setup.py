"""Packaging of fairseq_l2rw. ``scripts/setup.sh`` makes a development environment from it."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
README = ROOT / "README.md"

setup(
    name="fairseq_l2rw",
    version=runpy.run_path(str(ROOT / "fairseq_l2rw" / "version.py"))["__version__"],
    description="A fairseq plugin that trains translation models with learning to reweight with deep interactions",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["fairseq_l2rw", "fairseq_l2rw.*"]),
    package_data={"fairseq_l2rw": ["config/*.yaml", "config/**/*.yaml", "report/*.html"]},
    install_requires=[
        # Not `fairseq`: 0.12.2 neither imports on Python 3.11 nor restores the teacher, and what came after it reads
        # checkpoints with weights_only=False.
        "fairseq-fixed>=0.12.3.1,<0.12.4",
        "torch>=2.6",  # the allow-list of the safe loader
        "numpy",
        "sacrebleu>=2.0",
        "sentencepiece",
        "babel",
        "num2words",
        "scikit-learn",
        "matplotlib",
        "jinja2",
        "shtab",  # shell completion
        "tqdm",
    ],
    extras_require={
        "tensorboard": ["tensorboardX"],
        "vision": ["Pillow"],  # for `vision --data folder`; everything else of it needs nothing more
        "benchmarks": ["matplotlib", "higher"],
        "zst": ["zstandard"],  # prepare reads .zst
        "recipes": ["sacremoses", "defusedxml"],  # scripts/wmt14_en_de.sh, scripts/iwslt14_de_en.sh
        "test": [
            *("pytest", "pytest-cov", "pytest-xdist", "hypothesis", "tensorboardX", "ruff", "mypy"),
            *("zstandard", "sacremoses", "defusedxml", "matplotlib", "Pillow"),  # what the extras above bring
            "higher",  # an oracle
        ],
    },
    entry_points={"console_scripts": ["fairseq-l2rw = fairseq_l2rw.cli.main:main"]},
    zip_safe=False,
)
