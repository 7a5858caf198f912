"""Networks, pretrained weights and losses: tensors in, tensors out; no files of pictures, no tasks."""
