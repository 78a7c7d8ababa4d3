"""Layers whose gradients are quick on a CPU.

oneDNN's gradient of a bf16 weight takes up to eighty times as long as the convolution itself when pictures are small or
kernels 1x1 (60 ms against 0.7 for 64 channels, 24x24, batch 16). As a product of matrices it takes 2.
"""

import torch
import torch.nn.functional as F

# Larger pictures with 3x3 kernels are oneDNN's.
AREA_MAX = 48 * 48


class QuickConvolution(torch.autograd.Function):
    """`conv2d` with the weight's gradient as one product of matrices."""

    @staticmethod
    def forward(ctx, pictures, weight, bias, stride, padding):
        ctx.save_for_backward(pictures, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(pictures, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx, gradient):
        pictures, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_pictures = of_weight = None
        if ctx.needs_input_grad[0]:
            fixed = (ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1)
            mask = (True, False, False)
            of_pictures = torch.ops.aten.convolution_backward(gradient, pictures, weight, None, *fixed, mask)[0]
        if ctx.needs_input_grad[1]:
            of_weight = weight_gradient(pictures, gradient, weight.shape[2:], ctx.stride, ctx.padding)
        of_bias = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return of_pictures, of_weight, of_bias, None, None


def weight_gradient(pictures, gradient, kernel, stride, padding) -> torch.Tensor:
    """What each tap of the kernel saw, times the gradient: (out, in, height, width)."""
    channels, (count, outputs, height, width) = pictures.shape[1], gradient.shape
    (high, wide), (down, right), (above, beside) = kernel, stride, padding
    padded = F.pad(pictures, (beside, beside, above, above)).permute(0, 2, 3, 1).contiguous()
    image, row, column, _ = padded.stride()
    taps = padded.as_strided((count, height, width, high, wide * channels), (image, row * down, column * right, row, 1))
    taps = taps.reshape(count * height * width, high * wide * channels)
    rows = gradient.permute(0, 2, 3, 1).reshape(-1, outputs)
    return (rows.t() @ taps).view(outputs, high, wide, channels).permute(0, 3, 1, 2)


def convolve(pictures, weight, bias, stride, padding):
    """(N, C, H, W)."""
    is_large = pictures.shape[-1] * pictures.shape[-2] > AREA_MAX and weight.shape[-1] > 1
    if is_large or not torch.is_autocast_enabled("cpu"):
        return F.conv2d(pictures, weight, bias, stride, padding)
    return QuickConvolution.apply(pictures.bfloat16(), weight.bfloat16(), None if bias is None else bias.bfloat16(), stride, padding)


def forward_2d(module, pictures):
    return convolve(pictures, module.weight, module.bias, module.stride, module.padding)


def forward_temporal(module, clips):
    """A kernel (3, 1, 1) on (N, C, F, H, W) is one of (3, 1) on (N, C, F, HW)."""
    moved = convolve(clips.flatten(3), module.weight.squeeze(-1), module.bias, (1, 1), (1, 0))
    return moved.unflatten(3, clips.shape[3:])


def forward_norm(module, pictures):
    """Norms of bf16 pictures with f32 weights are slow too."""
    weight, bias = module.weight.to(pictures.dtype), module.bias.to(pictures.dtype)
    return F.group_norm(pictures, module.num_groups, weight, bias, module.eps)


def speed_up(model: torch.nn.Module) -> None:
    """Has the model's layers computed so, wherever autocast is on. Weights stay what they are."""
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.forward = forward_2d.__get__(module)
        elif isinstance(module, torch.nn.Conv3d) and module.kernel_size == (3, 1, 1):
            module.forward = forward_temporal.__get__(module)
        elif isinstance(module, torch.nn.GroupNorm):
            module.forward = forward_norm.__get__(module)
