"""ImageNet's normalisation of images, which all networks here expect."""

import torch

#: Mean and standard deviation of ImageNet's channels, in units of the 0 to 255 of a uint8 image.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


def normalised(images: torch.Tensor) -> torch.Tensor:
    """Turn images of the range 0 to 255 into float32 of ImageNet's mean and scale.

    Parameters
    ----------
    images : torch.Tensor
        Shape (N, 3, S, S), usually uint8.

    Returns
    -------
    torch.Tensor
        float32, shape (N, 3, S, S), channels last in memory.

    Examples
    --------
    >>> grey = torch.full((1, 3, 2, 2), 128, dtype=torch.uint8)
    >>> [round(value, 3) for value in normalised(grey)[0, :, 0, 0].tolist()]
    [0.074, 0.205, 0.426]
    """
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=images.device).view(1, 3, 1, 1)
    return ((images.float() - mean) / std).contiguous(memory_format=torch.channels_last)
