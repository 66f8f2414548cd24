from .call import link_frames
from .config import ScalpelMoeConfig
from .families import sam_input
from .layer import record_router
from .model import ScalpelMoeModel

__all__ = ["ScalpelMoeConfig", "ScalpelMoeModel", "link_frames", "record_router", "sam_input"]
