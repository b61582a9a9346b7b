"""From a file to pixels by one declared recipe. Knows no model and no benchmark."""

from mirror_pl.images.augment import AugmentSpec, augment
from mirror_pl.images.condition import Condition, condition_of
from mirror_pl.images.crop_cache import CropCache, identity
from mirror_pl.images.crops import CROPS, Crop, cut, plan_crops
from mirror_pl.images.decode import IMAGE_SUFFIXES, DecodedImage, UndecodableImageError, decode
from mirror_pl.images.limits import Limits
from mirror_pl.images.pictures import Picture, PreparedPicture, prepare, prepare_each
from mirror_pl.images.preprocess import preprocess
from mirror_pl.images.spec import PreprocessSpec

__all__ = [
    "CROPS",
    "IMAGE_SUFFIXES",
    "AugmentSpec",
    "Condition",
    "Crop",
    "CropCache",
    "DecodedImage",
    "Limits",
    "Picture",
    "PreparedPicture",
    "PreprocessSpec",
    "UndecodableImageError",
    "augment",
    "condition_of",
    "cut",
    "decode",
    "identity",
    "plan_crops",
    "prepare",
    "prepare_each",
    "preprocess",
]
