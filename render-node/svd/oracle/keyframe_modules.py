"""Outputs of single modules of a keyframe model, in the reference's layouts. CASE, INPUTS and OUTPUTS as in modules.py."""

import torch
from keyframe_reference import load_keyframe_pipeline, sampler
from reference import DTYPES, main


def tokens(pipeline, call):
    """(N, L) of `texts`, as the pipeline asks for them."""
    tokenizer = pipeline.tokenizer
    return tokenizer(
        call["texts"],
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids


def text_encoder(pipeline, call):
    """(N, L, D) of `texts`."""
    return pipeline.text_encoder(tokens(pipeline, call), attention_mask=None)[0]


def vae_decoder(pipeline, _, latents):
    return pipeline.vae.decode(latents).sample


def unet(pipeline, call, latents, text):
    return pipeline.unet(latents, torch.tensor(call["timestep"]), encoder_hidden_states=text, return_dict=False)[0]


def resnet_2d(pipeline, call, x, time=None):
    return module(pipeline, call)(x, time)


def vae_attention(pipeline, call, x):
    return module(pipeline, call)(x)


def transformer(pipeline, call, x, text):
    return module(pipeline, call)(x, encoder_hidden_states=text, return_dict=False)[0]


def transformer_block(pipeline, call, x, text):
    return module(pipeline, call)(x, encoder_hidden_states=text)


def cross_attention(pipeline, call, x, text):
    return module(pipeline, call)(x, encoder_hidden_states=text)


def samples(pipeline, call, latents, predictions):
    """Every step of a schedule, each from the same latents with its own prediction: scaled inputs, then results."""
    scheduler = sampler(pipeline, call["spec"])
    rows = []
    for i in range(call["spec"]["steps"]):
        scheduler.set_timesteps(call["spec"]["steps"])
        timestep = scheduler.timesteps[i]
        scaled = scheduler.scale_model_input(latents, timestep)
        rows.append(torch.stack([scaled, scheduler.step(predictions[i], timestep, latents).prev_sample]))
    return torch.stack(rows)


def schedule(pipeline, call):
    """Timesteps and the first noise's strength, one after the other."""
    scheduler = sampler(pipeline, call["spec"])
    scheduler.set_timesteps(call["spec"]["steps"])
    strength = torch.as_tensor(scheduler.init_noise_sigma).float().reshape(1)
    return torch.cat([scheduler.timesteps.float(), strength])


def module(pipeline, call):
    component, path = call["path"].split(".", 1)
    return getattr(pipeline, component).get_submodule(path)


KINDS = {
    kind.__name__: kind
    for kind in (
        tokens,
        text_encoder,
        vae_decoder,
        unet,
        resnet_2d,
        vae_attention,
        transformer,
        transformer_block,
        cross_attention,
        samples,
        schedule,
    )
}


def answer(case: dict, inputs: dict) -> dict:
    pipeline = load_keyframe_pipeline(case["model"], case["dtype"])
    dtype = DTYPES[case["dtype"]]

    def result(call):
        arguments = [inputs[name].to(dtype) for name in call["inputs"]]
        return KINDS[call["kind"]](pipeline, call, *arguments)

    return {call["name"]: result(call) for call in case["calls"]}


main(answer)
