"""`python -m tests.reference DIR [CASE]...`: compare the implementation with a folder of reference tensors.

One line a case: the quantity that comes nearest to its limit (or exceeds it most), its error, its limit. Exit code 1 if any
is over its limit, or cannot be run.
"""

import argparse
from pathlib import Path

from tests.reference.kinds import KINDS
from tests.reference.manifest import Reference


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reference", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("folder", type=Path, help="with a manifest.json")
    parser.add_argument("names", nargs="*", metavar="CASE", help="default: all")
    arguments = parser.parse_args()
    reference = Reference(arguments.folder)
    known = [case["name"] for case in reference.cases]
    for name in arguments.names:
        if name not in known:
            parser.error(f"{name!r} is not a case of {arguments.folder}")
    failed = 0
    for case in reference.cases:
        if arguments.names and case["name"] not in arguments.names:
            continue
        label = f"{case['name']} ({case['kind']})"
        if case["kind"] not in KINDS:
            failed += 1
            print(f"FAILED {label}: nothing compares this kind, there are {', '.join(KINDS)}", flush=True)
            continue
        try:
            checks = KINDS[case["kind"]](case, reference)
            worst = max(checks, key=lambda check: check.severity)
        except Exception as error:  # one case must not hide the others
            failed += 1
            print(f"FAILED {label}: {type(error).__name__}: {error}", flush=True)
            continue
        failed += not worst.passed
        verdict = "ok    " if worst.passed else "FAILED"
        print(
            f"{verdict} {label}: error {worst.error:.2e}, limit {worst.limit:.0e} ({worst.what}; {len(checks)} compared)",
            flush=True,
        )
    print(f"{failed} failed" if failed else "all within their limits")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
