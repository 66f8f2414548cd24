from .config import ScalpelMoeConfig
from .layer import record_router
from .link import link_frames
from .model import ScalpelMoeModel

__all__ = ["ScalpelMoeConfig", "ScalpelMoeModel", "link_frames", "record_router"]
