"""Tables as CSV files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from sensitivity.files import write_whole


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write the table with a header and no index.

    Floats have all their digits, and missing values are empty cells. The same table gives the same
    bytes.

    Raises WriteError; what was at `path` before is then still there.
    """
    write_whole(path, table.to_csv(index=False, lineterminator="\n").encode())
