"""``fairseq-l2rw doctor``: what is installed, what will not work, and the remedy."""

import argparse
import dataclasses
import json

NAME = "doctor"
HELP = "say what is installed, what will not work, and the remedy (exit status 1 if anything will not)"
EXAMPLE = "fairseq-l2rw doctor\nfairseq-l2rw doctor --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the sub-command."""
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the findings; 1 if there is a problem."""
    from fairseq_l2rw.doctor import examine

    findings = examine()
    problems = [finding for finding in findings if finding.problem]
    if args.json:
        print(json.dumps({"ok": not problems, "findings": [dataclasses.asdict(one) for one in findings]}, indent=2))
        return 1 if problems else 0

    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{finding.name:<{width}}  {finding.value}")
    print()
    for finding in problems:
        print(f"PROBLEM  {finding.name}: {finding.problem}\n REMEDY  {finding.remedy}")
    if not problems:
        print("All is well.")
    return 1 if problems else 0
