"""What the user calls a data set, a model or a file goes in; a name that says nothing of this machine comes out."""

import os.path
from pathlib import PureWindowsPath


def is_local(given: str) -> bool:
    """Whether a name is a place on this machine rather than a Hub id.

    >>> is_local("/data/birds"), is_local("~/birds"), is_local("clip-benchmark/wds_flickr8k")
    (True, True, False)
    """
    drive = PureWindowsPath(given).drive != ""
    return given.startswith((".", "~", "/", "\\")) or drive or os.path.exists(given)


def public_name(given: str) -> str:
    """A Hub id as it is; of a place on this machine its last part, so that no path gets into what is published.

    >>> public_name("/home/ann/birds/"), public_name("clip-benchmark/wds_flickr8k"), public_name("digits")
    ('birds', 'clip-benchmark/wds_flickr8k', 'digits')
    """
    return PureWindowsPath(given).name if is_local(given) else given
