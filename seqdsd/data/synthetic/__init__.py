"""The embedded corpora: spoken sentences, drawn scenes and shapes, made on the spot, with no download."""

from seqdsd.data.synthetic.cache import default_cache_dir
from seqdsd.data.synthetic.content import SPLITS
from seqdsd.data.synthetic.scenes import SyntheticScenes, synthetic_scenes
from seqdsd.data.synthetic.shapes import SyntheticShapes, synthetic_shapes
from seqdsd.data.synthetic.speech import SAMPLE_RATE_HZ, VOICES, SyntheticSpeech, synthetic_speech

__all__ = [
    "SAMPLE_RATE_HZ",
    "SPLITS",
    "VOICES",
    "SyntheticScenes",
    "SyntheticShapes",
    "SyntheticSpeech",
    "default_cache_dir",
    "synthetic_scenes",
    "synthetic_shapes",
    "synthetic_speech",
]
