"""The name under which this package is installed, which differs from its import name.

The distribution called `sensitivity` on the package index is somebody else's. Both install into a
folder called `sensitivity`, so one overwrites the other if both are installed.
"""

from __future__ import annotations

import os
import warnings

DISTRIBUTION = "layer-sensitivity"
"""The distribution to install; the import name and the command are `sensitivity`."""


def install_line(extra: str = "") -> str:
    """Return the command that installs this package with one of its extras.

    >>> install_line("openvino")
    "pip install 'layer-sensitivity[openvino]'"
    """
    return f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install {DISTRIBUTION}"


def warn_if_overwritten(folder: str) -> None:
    """Warn if the other distribution is installed into the same folder as this one.

    folder: where the package folder is, for example site-packages.

    Only file names are read, because this runs at each start of the command line. An editable
    install of a checkout shares its folder with no other package.
    """
    names = os.listdir(folder)
    if any(name.startswith("sensitivity-") and name.endswith(".dist-info") for name in names):
        warnings.warn(
            f"The distribution 'sensitivity' is installed beside {DISTRIBUTION!r}, and both write "
            f"into the folder {os.path.join(folder, 'sensitivity')}. Run: pip uninstall "
            f"sensitivity, and then: pip install --force-reinstall --no-deps {DISTRIBUTION}.",
            stacklevel=2,
        )
