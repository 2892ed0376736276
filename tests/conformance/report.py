"""Runs backend tests outside pytest and says why they fail.

python -m tests.conformance.report [REGEX] [--json OUT]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.conformance.cases import load_cases
from tests.conformance.runner import run_case


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pattern", nargs="?", default="")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--part", default="0/1", help="I/N: every N-th case from the I-th on")
    options = parser.parse_args()
    index, count = map(int, options.part.split("/"))
    cases = [case for case in load_cases() if re.search(options.pattern, case.id)][index::count]
    results: dict[str, str] = {}
    started = time.perf_counter()
    for case in cases:
        print(case.id, end=" ", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            try:
                run_case(case, Path(folder))
                results[case.id] = ""
                print("ok")
            except Exception as error:
                text = " ".join(f"{type(error).__name__}: {error}".split())
                results[case.id] = text.replace(folder + "/", "")[:300]
                print(results[case.id])
    passed = sum(not reason for reason in results.values())
    seconds = time.perf_counter() - started
    print(f"{passed} of {len(results)} pass, {seconds:.0f} s", file=sys.stderr)
    kinds = Counter(name.split("/")[0] for name, reason in results.items() if not reason)
    print(dict(kinds), file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
