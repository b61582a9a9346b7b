"""From a file to pixels by one declared recipe. Knows no model and no benchmark."""

from mirror_pl.images.augment import AugmentSpec, augment
from mirror_pl.images.crop_cache import CropCache, identity
from mirror_pl.images.crops import CROPS, Crop, cut, plan_crops
from mirror_pl.images.decode import IMAGE_SUFFIXES, DecodedImage, UndecodableImageError, decode
from mirror_pl.images.limits import Limits
from mirror_pl.images.pictures import Picture, PreparedPicture, prepare
from mirror_pl.images.preprocess import preprocess
from mirror_pl.images.spec import PreprocessSpec

__all__ = [
    "CROPS",
    "IMAGE_SUFFIXES",
    "AugmentSpec",
    "Crop",
    "CropCache",
    "DecodedImage",
    "Limits",
    "Picture",
    "PreparedPicture",
    "PreprocessSpec",
    "UndecodableImageError",
    "augment",
    "cut",
    "decode",
    "identity",
    "plan_crops",
    "prepare",
    "preprocess",
]
