"""How is Open3D imported on a machine without the system's libusb?"""

import ctypes
import warnings
from functools import lru_cache


@lru_cache(maxsize=1)
def load_open3d():
    """The `open3d` module; PyPI's `libusb-package` lends it the shared library it links against."""
    import libusb_package

    library = libusb_package.get_library_path()
    if library is not None:
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import open3d
    open3d.utility.set_verbosity_level(open3d.utility.VerbosityLevel.Error)
    return open3d
