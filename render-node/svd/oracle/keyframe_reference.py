"""What the oracle's programs for keyframes share."""

from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionPipeline
from reference import DTYPES

SAMPLERS = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler}


def load_keyframe_pipeline(model_dir: str, dtype: str) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(
        model_dir, torch_dtype=DTYPES[dtype], safety_checker=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sampler(pipeline: StableDiffusionPipeline, spec: dict):
    """The job's sampler over the folder's noise schedule. The folder's config is taken as the pipeline has corrected it."""
    return SAMPLERS[spec["sampler"]].from_config(
        pipeline.scheduler.config, timestep_spacing=spec["timestep_spacing"]
    )
