from .config import ScalpelMoeConfig
from .layer import link_frames, record_router
from .model import ScalpelMoeModel

__all__ = ["ScalpelMoeConfig", "ScalpelMoeModel", "link_frames", "record_router"]
