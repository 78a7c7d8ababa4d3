"""Which layers the motion adapters change."""

RANK = 4
# The ends of module names: attention, feed-forward, projections and the resnets' convolutions. Cross-attention sees one
# key, so its queries and keys would change nothing.
TARGETS = {
    "target_modules": [
        "to_q", "to_k", "to_v", "to_out.0", "proj", "net.2", "proj_in", "proj_out", "conv1", "conv2", "conv_shortcut",
    ],
    "exclude_modules": r".*attn2\.to_[qk]",
}  # fmt: skip
