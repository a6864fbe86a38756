"""Hardware targets: what a machine can do, read from one TOML file per machine."""

from ridgepoint.hardware.arch import STEPS, Arch, Fit, Transfer, decode_arch, encode_arch
from ridgepoint.hardware.arch_files import arch_names, load_arch, save_arch
from ridgepoint.hardware.catalogue import HOST, data_folder, load_target, save_target, target_names
from ridgepoint.hardware.figure import FIGURES, Fact, Figure
from ridgepoint.hardware.law import AttentionLaw, LaunchLaw, LinearLaw, PointwiseLaw, ResidencyLaw, ScalingLaw
from ridgepoint.hardware.node import NODE_FIGURES, Node, decode_node
from ridgepoint.hardware.node_files import load_node, node_names, node_of
from ridgepoint.hardware.target import Correction, Level, Peak, Target, decode_target, encode_target

__all__ = [
    "FIGURES",
    "HOST",
    "NODE_FIGURES",
    "STEPS",
    "Arch",
    "AttentionLaw",
    "Correction",
    "Fact",
    "Figure",
    "Fit",
    "LaunchLaw",
    "Level",
    "LinearLaw",
    "Node",
    "Peak",
    "PointwiseLaw",
    "ResidencyLaw",
    "ScalingLaw",
    "Target",
    "Transfer",
    "arch_names",
    "data_folder",
    "decode_arch",
    "decode_node",
    "decode_target",
    "encode_arch",
    "encode_target",
    "load_arch",
    "load_node",
    "load_target",
    "node_names",
    "node_of",
    "save_arch",
    "save_target",
    "target_names",
]
