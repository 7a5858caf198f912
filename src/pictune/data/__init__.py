"""From files to pixels: formats, decoding, checks, splits, the pixel store, augmentation."""
