"""What `check` says of the plain code of examples/: `python benchmarks/plain_code.py` writes examples/verdicts.csv.

It adds the rows that are missing. Names of files, such as numpy/arcface, are checked again.
"""

from __future__ import annotations

import csv
import sys

import jax

from support import plain_code


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    again = sys.argv[1:]
    known = {row[:3]: row for row in plain_code.recorded() if row.file not in again}
    rows = []
    for file, loss, dtype in plain_code.checks():
        key = (file, str(loss), dtype)
        if key not in known:
            known[key] = plain_code.row_of(file, loss, dtype)
            print(*known[key], flush=True)
        rows.append(known[key])
    with plain_code.TABLE.open("w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerows([plain_code.Row._fields, *rows])


if __name__ == "__main__":
    main()
