"""The model's parts and sizes, and how its folder is written: diffusers' layout, weights in fp16."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from motion import FRAMES
from pictures import SIDE

LATENT_CHANNELS = 4
# Two halvings.
LATENT_SIDE = SIDE // 4
EMBEDDING = 32
LOG_VARIANCE = -6.0
# Several deviations of what such layers start with.
REFERENCE = 4.0
SEED = 7


def keep_means(resnet: torch.nn.Module) -> None:
    """For the resnet before the last norm, which has three channels a group.

    A norm takes two numbers of each group away, mean and deviation: with one channel or two, that is how bright and how red the
    picture is. Beside two channels that are the same everywhere, one above and one below, the third keeps its own.
    """
    resnet.conv2.bias.data[1::3] = REFERENCE
    resnet.conv2.bias.data[2::3] = -REFERENCE


def new_vae() -> AutoencoderKLTemporalDecoder:
    """Nearly linear: branches beside the residuals change nothing until they are trained."""
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(96, 32, 96),
        down_block_types=("DownEncoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        sample_size=SIDE,
        # Latents have a deviation of 1 by themselves, see `vae.normalise`: noise, picture and result come in one scale.
        scaling_factor=1.0,
        force_upcast=False,
    )
    for name, module in vae.named_modules():
        if name.endswith((".conv2", "to_out.0")):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    keep_means(vae.encoder.mid_block.resnets[-1])
    keep_means(vae.decoder.up_blocks[-1].resnets[-1].spatial_res_block)
    # Of the posterior's two halves the second starts as next to no noise: a decoder learns nothing from latents below it.
    torch.nn.init.zeros_(vae.quant_conv.weight[LATENT_CHANNELS:])
    torch.nn.init.constant_(vae.quant_conv.bias[LATENT_CHANNELS:], LOG_VARIANCE)
    last = vae.decoder.time_conv_out
    torch.nn.init.zeros_(last.bias)
    torch.nn.init.zeros_(last.weight)
    last.weight.data[:, :, 1, 0, 0] = torch.eye(3)
    return vae


def new_unet() -> UNetSpatioTemporalConditionModel:
    """Attention where it is cheap: at half and quarter resolution. What changes nothing yet is what residuals start as."""
    unet = UNetSpatioTemporalConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=2 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(96, 64, 32),
        down_block_types=("DownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"),
        addition_time_embed_dim=EMBEDDING,
        projection_class_embeddings_input_dim=3 * EMBEDDING,
        layers_per_block=1,
        cross_attention_dim=EMBEDDING,
        num_attention_heads=4,
        num_frames=FRAMES,
    )
    # On a CPU quicker than libtorch's fused attention when it must be differentiated.
    unet.set_attn_processor(AttnProcessor())
    for name, module in unet.named_modules():
        if name.endswith(("res_block.conv2", "proj_out")):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    keep_means(unet.up_blocks[-1].resnets[-1].spatial_res_block)
    return unet


def blind_image_encoder() -> CLIPVisionModelWithProjection:
    """The pipeline asks for one. It is not trained: it answers every picture with zeros."""
    encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=8,
            intermediate_size=16,
            projection_dim=EMBEDDING,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=224,
            patch_size=32,
            hidden_act="gelu",
        )
    )
    torch.nn.init.zeros_(encoder.visual_projection.weight)
    return encoder


def new_scheduler() -> EulerDiscreteScheduler:
    """That of Stable Video Diffusion."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        interpolation_type="linear",
        num_train_timesteps=1000,
        prediction_type="v_prediction",
        sigma_max=700.0,
        sigma_min=0.002,
        steps_offset=1,
        timestep_spacing="leading",
        timestep_type="continuous",
        use_karras_sigmas=True,
    )


def save(folder: Path, vae, unet) -> None:
    """The whole pipeline, in fp16."""
    torch.manual_seed(SEED)
    pipeline = StableVideoDiffusionPipeline(
        vae=vae.half(),
        image_encoder=blind_image_encoder().half(),
        unet=unet.half(),
        scheduler=new_scheduler(),
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224}),
    )
    pipeline.save_pretrained(folder)
