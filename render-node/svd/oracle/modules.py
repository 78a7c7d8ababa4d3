"""Outputs of single modules of a model, in the reference's layouts.

CASE: {"model": DIR, "dtype", "calls": [{"name", "kind", "path"?, "inputs": [NAME, ..], ..}, ..]}. `path` is a module's path
below its component; the names of inputs are those in INPUTS. OUTPUTS: the result of every call under its name.
"""

import torch
from reference import DTYPES, load_pipeline, main


def image_encoder(pipeline, _, pixels):
    return pipeline.image_encoder(pixel_values=pixels).image_embeds


def vae_encoder(pipeline, _, pixels):
    return pipeline.vae.encode(pixels).latent_dist.mode()


def vae_decoder(pipeline, _, latents):
    """One chunk."""
    return pipeline.vae.decode(latents, num_frames=latents.shape[0]).sample


def unet(pipeline, call, sample, image_embeds, added_time_ids):
    return pipeline.unet(
        sample,
        torch.tensor(call["timestep"]),
        encoder_hidden_states=image_embeds.unsqueeze(1),
        added_time_ids=added_time_ids,
        return_dict=False,
    )[0]


def resnet_2d(pipeline, call, x, time=None):
    return module(pipeline, call)(x, time)


def temporal_resnet(pipeline, call, x, time=None):
    return module(pipeline, call)(x, time)


def spatio_temporal_resnet(pipeline, call, x, time=None):
    return module(pipeline, call)(x, time, image_only_indicator=clips(call))


def vae_attention(pipeline, call, x):
    return module(pipeline, call)(x)


def transformer(pipeline, call, x, image_embeds):
    return module(pipeline, call)(x, image_embeds, image_only_indicator=clips(call), return_dict=False)[0]


def transformer_block(pipeline, call, x, image_embeds):
    return module(pipeline, call)(x, encoder_hidden_states=image_embeds)


def temporal_transformer_block(pipeline, call, x, image_embeds):
    return module(pipeline, call)(x, num_frames=call["frames"], encoder_hidden_states=image_embeds)


def downsampler(pipeline, call, x):
    return module(pipeline, call)(x)


def upsampler(pipeline, call, x):
    return module(pipeline, call)(x, tuple(call["size"]) if "size" in call else None)


def sampler(pipeline, call, latents, predictions):
    """Every step of a schedule, each from the same latents with its own prediction: scaled inputs, then results."""
    scheduler = pipeline.scheduler
    rows = []
    for i in range(call["steps"]):
        scheduler.set_timesteps(call["steps"])
        timestep = scheduler.timesteps[i]
        scaled = scheduler.scale_model_input(latents, timestep)
        rows.append(torch.stack([scaled, scheduler.step(predictions[i], timestep, latents).prev_sample]))
    return torch.stack(rows)


def schedule(pipeline, call):
    """Sigmas, timesteps and the first noise's strength, one after the other."""
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(call["steps"])
    return torch.cat([scheduler.sigmas, scheduler.timesteps, scheduler.init_noise_sigma.reshape(1)])


def module(pipeline, call):
    component, path = call["path"].split(".", 1)
    return getattr(pipeline, component).get_submodule(path)


def clips(call):
    """(B, F) zeros: no picture among them stands for itself."""
    return torch.zeros(call["batch"], call["frames"])


KINDS = {
    kind.__name__: kind
    for kind in (
        image_encoder,
        vae_encoder,
        vae_decoder,
        unet,
        resnet_2d,
        temporal_resnet,
        spatio_temporal_resnet,
        vae_attention,
        transformer,
        transformer_block,
        temporal_transformer_block,
        downsampler,
        upsampler,
        sampler,
        schedule,
    )
}


def answer(case: dict, inputs: dict) -> dict:
    pipeline = load_pipeline(case["model"], case["dtype"])
    dtype = DTYPES[case["dtype"]]

    def result(call):
        arguments = [inputs[name].to(dtype) for name in call["inputs"]]
        return KINDS[call["kind"]](pipeline, call, *arguments)

    return {call["name"]: result(call) for call in case["calls"]}


main(answer)
