"""Sockets that are files for the kernels that nbval starts, for the reason given in ``run.py``."""

from functools import partial
from tempfile import TemporaryDirectory, gettempdir

import nbval.kernel
from jupyter_client.manager import KernelManager

sockets = TemporaryDirectory(dir=None if len(gettempdir()) <= 70 else "/tmp")
nbval.kernel.KernelManager = partial(KernelManager, transport="ipc", ip=f"{sockets.name}/kernel")
