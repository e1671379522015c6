"""The name under which this package is installed, which is not the name under which it is imported.

The distribution called `sensitivity` on the package index is somebody else's. Both put their files
into a folder called `sensitivity`, so that one overwrites the other where both are installed.
"""

from __future__ import annotations

import os
import warnings

DISTRIBUTION = "layer-sensitivity"
"""The distribution to install; the import name and the command are `sensitivity`."""


def install_line(extra: str = "") -> str:
    """The command that installs this package, with what one extra of it needs.

    >>> install_line("openvino")
    "pip install 'layer-sensitivity[openvino]'"
    """
    return f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install {DISTRIBUTION}"


def warn_if_overwritten(folder: str) -> None:
    """Warn where the other distribution is installed into the same folder as this one.

    folder: where the package folder lies, for example site-packages.

    Only names are looked at, because this runs at each start of the command line. A checkout that
    is installed as editable shares its folder with nobody.
    """
    names = os.listdir(folder)
    if any(name.startswith("sensitivity-") and name.endswith(".dist-info") for name in names):
        warnings.warn(
            f"The distribution 'sensitivity' is installed beside {DISTRIBUTION!r}, and both write "
            f"into the folder {os.path.join(folder, 'sensitivity')}. Run: pip uninstall "
            f"sensitivity, and then: pip install --force-reinstall --no-deps {DISTRIBUTION}.",
            stacklevel=2,
        )
