"""Hardware targets: what a machine can do, read from one TOML file per machine."""

from ridgepoint.hardware.catalogue import HOST, data_folder, load_target, save_target, target_names
from ridgepoint.hardware.law import AttentionLaw, LaunchLaw, LinearLaw, PointwiseLaw, ResidencyLaw, ScalingLaw
from ridgepoint.hardware.target import Correction, Level, Peak, Target, decode_target, encode_target

__all__ = [
    "HOST", "AttentionLaw", "Correction", "LaunchLaw", "Level", "LinearLaw", "Peak", "PointwiseLaw", "ResidencyLaw",
    "ScalingLaw", "Target", "data_folder", "decode_target", "encode_target", "load_target", "save_target",
    "target_names",
]  # fmt: skip
