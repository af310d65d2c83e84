"""Tiny real models of every kind, as their own software writes them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from monai.networks.nets.segresnet import SegResNet
from torch import nn

EXPORTED = """
name = "{name}"
version = "3"
licence = "CC-BY-4.0"
axes = "SPL"
spacing = [2.5, 1.5, 1.5]
patch = [8, 16, 16]
output = "{output}"
channels = {channels}
[[intensities]]
clip = [-1000.0, 1000.0]
to = [-1.0, 1.0]
[structures]
Bones = 1
"""


class Dense(nn.Module):
    """Channel 1 where the input is above 0.5, channel 0 elsewhere; logits."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(image), (image - 0.5) * 50.0], dim=1)


class ReadsFiles(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        stolen = torch.from_file("/etc/hostname", False, 1)
        return torch.cat([image, image + stolen.sum()], dim=1)


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def torchscript(folder: Path, network: nn.Module | None = None, *, channels: int = 2, output: str = "softmax") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "dense.pt"
    torch.jit.script(network or Dense()).save(str(path))
    path.with_suffix(".toml").write_text(EXPORTED.format(name="dense", channels=channels, output=output))
    return path


def onnx_file(folder: Path, *, channels: int = 2) -> Path:
    import onnx
    from onnx import TensorProto, helper

    folder.mkdir(parents=True, exist_ok=True)
    shape = [1, 1, "z", "y", "x"]
    constants = [
        helper.make_tensor(name, TensorProto.FLOAT, [], [v]) for name, v in (("half", 0.5), ("steep", 50.0), ("no", 0.0))
    ]
    nodes = [
        helper.make_node("Sub", ["image", "half"], ["above"]),
        helper.make_node("Mul", ["above", "steep"], ["inside"]),
        helper.make_node("Mul", ["image", "no"], ["outside"]),
        helper.make_node("Concat", ["outside", "inside"], ["logits"], axis=1),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2, "z", "y", "x"])
    graph = helper.make_graph(nodes, "dense", [image], [logits], constants)
    path = folder / "dense.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    path.with_suffix(".toml").write_text(EXPORTED.format(name="dense-onnx", channels=channels, output="softmax"))
    return path


ARGUMENTS = {
    "n_stages": 2,
    "features_per_stage": [4, 8],
    "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [2, 2, 2]],
    "n_conv_per_stage": [1, 1],
    "n_conv_per_stage_decoder": [1],
    "conv_bias": True,
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin_kwargs": {"inplace": True},
}
LAYERS = {"conv_op": nn.Conv3d, "norm_op": nn.InstanceNorm3d, "nonlin": nn.LeakyReLU}
NAMED = {"conv_op": "torch.nn.modules.conv.Conv3d", "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d"}
NAMED |= {"nonlin": "torch.nn.LeakyReLU", "dropout_op": None}


def nnunet_network(classes: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return PlainConvUNet(input_channels=1, num_classes=classes, deep_supervision=True, **ARGUMENTS, **LAYERS)


def nnunet_folder(
    root: Path,
    labels: dict,
    *,
    dataset: str = "Dataset900_Own",
    heads: int | None = None,
    folds: tuple[int, ...] = (0,),
    old: bool = False,
    trained: str = "3d_fullres",
    normalisation: str = "CTNormalization",
    weights: object = None,
    transpose: tuple[int, int, int] = (0, 1, 2),
) -> Path:
    """A results folder as nnU-Net v2 writes it: `old` without an architecture in its plan, as before 2024."""
    folder = root / dataset / "nnUNetTrainerNoMirroring__nnUNetPlans__3d_fullres"
    values = {tuple(v) if isinstance(v, list) else v for v in labels.values()}
    heads = heads or (len(values) - 1 if any(isinstance(v, tuple) for v in values) else len(values))
    configuration = {
        "spacing": [2.5, 1.5, 1.25],
        "patch_size": [8, 16, 16],
        "normalization_schemes": [normalisation],
        "use_mask_for_norm": [False],
    }
    if old:
        configuration |= {
            "UNet_class_name": "PlainConvUNet",
            "UNet_base_num_features": 4,
            "unet_max_num_features": 320,
            "conv_kernel_sizes": ARGUMENTS["kernel_sizes"],
            "pool_op_kernel_sizes": ARGUMENTS["strides"],
            "n_conv_per_stage_encoder": ARGUMENTS["n_conv_per_stage"],
            "n_conv_per_stage_decoder": ARGUMENTS["n_conv_per_stage_decoder"],
        }
    else:
        named = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
        configuration["architecture"] = {
            "network_class_name": named,
            "arch_kwargs": ARGUMENTS | NAMED,
            "_kw_requires_import": list(NAMED),
        }
    intensities = {"mean": 100.0, "std": 200.0, "percentile_00_5": -900.0, "percentile_99_5": 1200.0, "max": 3000.0}
    plans = {
        "dataset_name": dataset,
        "transpose_forward": list(transpose),
        "foreground_intensity_properties_per_channel": {"0": intensities},
        "configurations": {"parent": configuration, "3d_fullres": {"inherits_from": "parent", "batch_size": 2}},
    }
    _json(folder / "plans.json", plans)
    _json(
        folder / "dataset.json", {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 9, "file_ending": ".nii.gz"}
    )
    for fold in folds:
        network = nnunet_network(heads, seed=fold)
        (folder / f"fold_{fold}").mkdir()
        checkpoint = {
            "network_weights": network.state_dict() if weights is None else weights,
            "optimizer_state": torch.optim.SGD(network.parameters(), 0.01, momentum=0.9).state_dict(),
            "grad_scaler_state": None,
            "logging": {"mean_fg_dice": [np.float32(0.5), np.float64(0.8)], "epoch_end_timestamps": [1.0]},
            "_best_ema": np.float64(0.8),
            "current_epoch": np.int64(1000),
            "init_args": {"configuration": trained, "fold": fold, "dataset_json": {"labels": labels}},
            "trainer_name": "nnUNetTrainerNoMirroring",
            "inference_allowed_mirroring_axes": None,
        }
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


CLASSES = ("background", "spleen", "kidney_right", "kidney_left", "lung_upper_lobe_left", "lung_lower_lobe_left", "thing")


def monai_bundle(root: Path, *, classes: tuple[str, ...] = CLASSES, network: object = None, weights: object = None) -> Path:
    """Laid out, and configured in the same words, as the whole-body CT bundle of the model zoo."""
    arguments = {"spatial_dims": 3, "in_channels": 1, "out_channels": len(CLASSES), "init_filters": 8}
    arguments |= {"blocks_down": [1, 1], "blocks_up": [1], "norm": ["GROUP", {"num_groups": 4}]}
    inference = {
        "imports": ["$import glob", "$import os"],
        "displayable_configs": {"highres": True, "sw_overlap": 0.25},
        "image_key": "image",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "pixdim": "$[1.5, 1.5, 2.0] if @displayable_configs#highres else [3.0, 3.0, 3.0]",
        "network_def": network or {"_target_": "SegResNet", **arguments},
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "@image_key"},
                {"_target_": "EnsureTyped", "keys": "@image_key"},
                {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
                {"_target_": "Orientationd", "keys": "@image_key", "axcodes": "RAS"},
                {"_target_": "Spacingd", "keys": "@image_key", "pixdim": "@pixdim", "mode": "bilinear"},
                {"_target_": "NormalizeIntensityd", "keys": "@image_key", "nonzero": True},
                {"_target_": "ScaleIntensityd", "keys": "@image_key", "minv": -1.0, "maxv": 1.0},
            ],
        },
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": [16, 16, 8],
            "overlap": "@displayable_configs#sw_overlap",
            "device": "$torch.device('cpu')",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            ],
        },
        "initialize": ["$os.mkdir('pwned')"],
    }
    metadata = {
        "version": "0.2.1",
        "name": "Whole body CT segmentation",
        "network_data_format": {
            "inputs": {"image": {"modality": "CT", "num_channels": 1, "spatial_shape": [16, 16, 8]}},
            "outputs": {"pred": {"num_channels": len(classes), "channel_def": {str(n): c for n, c in enumerate(classes)}}},
        },
    }
    torch.manual_seed(1)
    state = SegResNet(**arguments).state_dict() if weights is None else weights
    _json(root / "configs" / "metadata.json", metadata)
    _json(root / "configs" / "inference.json", inference)
    (root / "models").mkdir()
    torch.save(state, root / "models" / "model.pt")
    (root / "LICENSE").write_text("Apache License 2.0")
    (root / "scripts").mkdir()
    (root / "scripts" / "__init__.py").write_text("raise SystemExit('run')")
    return root


def bundle_network() -> nn.Module:
    """What `monai_bundle` saves by default."""
    torch.manual_seed(1)
    return SegResNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=len(CLASSES),
        init_filters=8,
        blocks_down=[1, 1],
        blocks_up=[1],
        norm=("GROUP", {"num_groups": 4}),
    ).eval()


def vista3d_bundle(root: Path) -> Path:
    """As VISTA3D's: a network by an expression, transforms by reference, bundle code for the rest."""
    from monai.networks.nets.vista3d import vista3d132

    inference = {
        "imports": ["$import scripts"],
        "input_channels": 1,
        "resample_spacing": [1.5, 1.5, 1.5],
        "patch_size": [32, 32, 32],
        "subclass": {"21": "$list(range(33, 57)) + [114]"},
        "network_def": "$monai.networks.nets.vista3d132(encoder_embed_dim=8, in_channels=@input_channels)",
        "preprocessing_transforms": [
            {"_target_": "LoadImaged", "keys": "image", "image_only": True},
            {"_target_": "Spacingd", "keys": "image", "pixdim": "@resample_spacing", "mode": "bilinear"},
            {"_target_": "CropForegroundd", "keys": "image", "margin": 10},
            {"_target_": "monai.apps.vista3d.transforms.VistaPreTransformd", "keys": "image", "subclass": "@subclass"},
            {"_target_": "ScaleIntensityRanged", "a_min": -963.8, "a_max": 1053.7, "b_min": 0, "b_max": 1, "clip": True},
            {"_target_": "Orientationd", "axcodes": "RAS"},
            {"_target_": "CastToTyped", "dtype": "$torch.float32"},
        ],
        "preprocessing": {"_target_": "Compose", "transforms": "$@preprocessing_transforms "},
        "inferer": {"_target_": "scripts.inferer.Vista3dInferer", "roi_size": "@patch_size", "overlap": 0.3},
        "postprocessing": {"_target_": "Compose", "transforms": [{"_target_": "Lambdad", "func": "$lambda x: x"}]},
    }
    classes = {"0": "background", "1": "liver", "3": "spleen", "14": "left kidney", "18": "rectum"}
    metadata = {
        "version": "0.5.9",
        "name": "VISTA3D",
        "network_data_format": {
            "inputs": {"image": {"modality": "CT", "num_channels": 1}},
            "outputs": {"pred": {"channel_def": classes}},
        },
    }
    torch.manual_seed(2)
    _json(root / "configs" / "metadata.json", metadata)
    _json(root / "configs" / "inference.json", inference)
    (root / "models").mkdir()
    torch.save(vista3d132(encoder_embed_dim=8).state_dict(), root / "models" / "model.pt")
    return root


def own_model(folder: Path) -> Path:
    """As `recontour train` writes it."""
    from contour.model import ModelCard, Shape, write_model
    from contour.unet import Architecture, network

    architecture = Architecture(("Parotid_L", "Parotid_R"), (3.0, 2.0, 2.0), (8, 16, 16), (4, 8, 8))
    shape = Shape(
        spacing=(3.0, 2.0, 2.0),
        finest=(1.0, 1.0, 1.0),
        coarsest=(4.0, 4.0, 4.0),
        patch=(8, 16, 16),
        filters=(4, 8, 8),
        windows=architecture.windows,
    )
    card = ModelCard(
        name="parotids",
        version="1",
        kind="recontour-unet",
        structures=architecture.structures,
        sha256="0" * 64,
        licence="Apache-2.0",
        architecture=shape,
    )
    torch.manual_seed(3)
    write_model(folder, card, network(architecture).state_dict())
    return folder


def _json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
