"""Other libraries' attacks behind advbench's own interface: one module a library, each found by its prefix."""

from advbench.methods.adapters.base import Adapter, Peer
from advbench.methods.adapters.proxy import Proxy
from advbench.methods.adapters.signature import OPTIONS, RESERVED

__all__ = ["OPTIONS", "RESERVED", "Adapter", "Peer", "Proxy"]
