"""The whole assignment in one file: a custom ResNet learns CIFAR-10 in 24 epochs under one cycle.

Minutes on a GPU, hours without. main.py adds checkpoints, mixed precision and faster batches.
"""

import albumentations as A
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader
from torch_lr_finder import LRFinder
from torchvision.datasets import CIFAR10

EPOCHS, BATCH_SIZE = 24, 512
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of the training images, by channel
NORMALISE = [A.Normalize(MEAN, STD), A.ToTensorV2()]
PAD = A.PadIfNeeded(40, 40, border_mode=4)  # 4 is cv2.BORDER_REFLECT_101: mirrored at the edge
# Always one 8x8 hole, of the mean colour. What tutorials of 2023 pass (max_holes) is now ignored.
HOLE = A.CoarseDropout((1, 1), (8, 8), (8, 8), fill=[round(255 * m) for m in MEAN], p=1)


def layer(channels_in, channels_out, *pool):  # no bias: BatchNorm would subtract it again
    convolution = nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False)
    return [convolution, *pool, nn.BatchNorm2d(channels_out), nn.ReLU()]


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)  # the skip connection


def network():  # (N, 3, 32, 32) -> (N, 10) log-probabilities, with 6,573,120 parameters
    first = [*layer(3, 64), *layer(64, 128, nn.MaxPool2d(2))]
    blocks = [Residual(*layer(size, size), *layer(size, size)) for size in (128, 512)]
    between = [*layer(128, 256, nn.MaxPool2d(2)), *layer(256, 512, nn.MaxPool2d(2))]
    fc = nn.Linear(512, 10, bias=False)
    fc.weight.data /= 8  # so that the loss begins at ln 10, the price of guessing, and not at 4.3
    head = [nn.MaxPool2d(4), nn.Flatten(), fc, nn.LogSoftmax(dim=1)]
    return nn.Sequential(*first, blocks[0], *between, blocks[1], *head)


def read_rates(lrs, losses):  # at LRMIN a fifth of the fall is over; LRMAX is half the take-off
    level = min(np.median(losses[:10]), np.log(10))
    clipped = np.fmin(losses, 2 * np.median(losses[:10]))
    smoothed = gaussian_filter1d(clipped, 0.12 / np.log10(lrs[1] / lrs[0]), mode="nearest")
    lowest = smoothed.argmin()
    fifth = (level - smoothed[lowest]) / 5
    take_off = lrs[lowest:][smoothed[lowest:] >= smoothed[lowest] + fifth][0]
    return lrs[smoothed <= level - fifth][0], take_off / 2


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    augment = A.Compose([PAD, A.RandomCrop(32, 32), A.HorizontalFlip(p=0.5), HOLE, *NORMALISE])
    normalise = A.Compose(NORMALISE)
    train_images = CIFAR10("data", True, lambda x: augment(image=np.array(x))["image"], None, True)
    test_images = CIFAR10("data", False, lambda x: normalise(image=np.array(x))["image"])
    train_loader = DataLoader(train_images, BATCH_SIZE, shuffle=True)  # workers would draw alike
    test_loader = DataLoader(test_images, BATCH_SIZE)
    model = network().to(device)
    # Decoupled decay: every step multiplies the weights by 1 - lr * 0.25, about 0.999 at LRMAX.
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.25, fused=True)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)

    finder = LRFinder(model, optimizer, criterion, device)
    finder.range_test(train_loader, start_lr=1e-6, end_lr=1, smooth_f=0, diverge_th=np.inf)
    finder.reset()  # the network as it was before
    lr_min, lr_max = read_rates(np.array(finder.history["lr"]), np.array(finder.history["loss"]))
    print(f"LRMIN {lr_min:.2e}, LRMAX {lr_max:.2e}")
    total = EPOCHS * len(train_loader)  # steps; the rate is highest in the last one of epoch 5
    shape = dict(pct_start=5 / 24, div_factor=lr_max / lr_min, anneal_strategy="linear")
    scheduler = OneCycleLR(optimizer, lr_max, total, final_div_factor=1, **shape)  # ends at LRMIN

    for epoch in range(1, EPOCHS + 1):
        model.train()
        for images, labels in train_loader:
            loss = criterion(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()  # after every batch: the cycle counts steps, not epochs
        model.eval()  # or BatchNorm would use the statistics of the test batches
        with torch.inference_mode():
            predicted = torch.cat([model(images.to(device)).argmax(1) for images, _ in test_loader])
        correct = predicted.cpu().numpy() == test_images.targets
        print(f"epoch {epoch}: loss {loss.item():.4f}, test accuracy {100 * correct.mean():.2f} %")

    fig, axes = plt.subplots(5, 5, figsize=(10, 12))
    for ax, i in zip(axes.flat, np.flatnonzero(~correct), strict=False):
        names = [test_images.classes[label] for label in (predicted[i], test_images.targets[i])]
        ax.imshow(test_images.data[i])
        ax.set(title="{},\nnot {}".format(*names), xticks=[], yticks=[])
    fig.savefig("misclassified_images.png")


if __name__ == "__main__":
    main()
