"""Models of other libraries that train for minutes, each as its own example for small images does.

A peer has a network of theirs in one of two sizes, the first that of the example or, where that trains for
hours, scaled down; their loss, optimizer, average and sampler; and one of two learning rates, the first that
of the example. It sees images of [-1, 1] in batches of 64, which suit a CPU, and draws with 50 evaluations.
"""

import math
import warnings
from abc import ABC, abstractmethod
from unittest import mock

import torch
from torch import nn
from torch.optim import Adam, AdamW

warnings.filterwarnings("ignore")
BATCH, EVALUATIONS = 64, 50


class Peer(nn.Module, ABC):
    """A model of another library in training."""

    sizes: tuple[dict, dict]
    rates: tuple[float, float]
    decay = 0.0  # of the average of the weights; 0 for none

    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    @abstractmethod
    def loss(self, x0):
        """The mean loss of a batch."""

    @abstractmethod
    def draw(self, num):
        """Samples in [-1, 1]."""

    def optimizer(self, rate):
        return Adam(self.parameters(), lr=rate, fused=True)

    def factor(self, used, steps):
        """The learning rate at a share of the time and a step, by the peak."""
        return 1.0


class Azula(Peer):
    """docs/tutorials/mnist.ipynb, without labels."""

    sizes = {"widths": (16, 32, 64)}, {"widths": (32, 64, 64)}
    rates = 3e-4, 1e-3

    def __init__(self, shape, widths):
        super().__init__(shape)
        from azula.denoise import KarrasDenoiser
        from azula.noise import VPSchedule

        backbone = AzulaBackbone(shape[0], widths)
        self.denoiser = KarrasDenoiser(backbone=backbone, schedule=VPSchedule())

    def loss(self, x0):
        return self.denoiser.loss(x0, torch.rand(len(x0)))

    def draw(self, num):
        from azula.sample import DDIMSampler

        sampler = DDIMSampler(self.denoiser, steps=EVALUATIONS, silent=True)
        return sampler(sampler.init((num, *self.shape)))


class AzulaBackbone(nn.Module):
    """The network of the tutorial."""

    def __init__(self, channels, widths, size=64):
        super().__init__()
        from azula.nn.unet import UNet

        blocks = [2] * len(widths)
        self.net = UNet(channels, channels, hid_channels=widths, hid_blocks=blocks, mod_features=size)
        self.time = nn.Sequential(nn.Linear(1, size), nn.SiLU(), nn.Linear(size, size))

    def forward(self, x, time):
        return self.net(x, self.time(time[..., None]).expand(len(x), -1))


class SmallDiffusion(Peer):
    """examples/fashion_mnist_unet.py, with 32 channels."""

    sizes = {"num_res_blocks": 2}, {"num_res_blocks": 1}
    rates = 7e-4, 2e-3
    decay = 0.999

    def __init__(self, shape, num_res_blocks):
        super().__init__(shape)
        from smalldiffusion import Scaled, ScheduleLogLinear, Unet

        self.schedule = ScheduleLogLinear(sigma_min=0.01, sigma_max=20, N=800)
        options = dict(ch_mult=(1, 1, 2), attn_resolutions=(14,), num_res_blocks=num_res_blocks)
        self.net = Scaled(Unet)(shape[1], shape[0], shape[0], ch=32, **options)

    def loss(self, x0):
        from smalldiffusion import generate_train_sample

        x0, sigma, epsilon, cond = generate_train_sample(x0, self.schedule)
        return self.net.get_loss(x0, sigma, epsilon, cond=cond)

    def draw(self, num):
        from accelerate import Accelerator
        from smalldiffusion import samples

        sigmas = self.schedule.sample_sigmas(EVALUATIONS)
        *_, x0 = samples(self.net, sigmas, gam=1.6, batchsize=num, accelerator=Accelerator(cpu=True))
        return x0

    def optimizer(self, rate):
        return AdamW(self.parameters(), lr=rate, fused=True)


class Diffusers(Peer):
    """examples/unconditional_image_generation/train_unconditional.py, with few channels and levels."""

    sizes = {"widths": (16, 32, 64)}, {"widths": (32, 64, 64)}
    rates = 1e-4, 1e-3
    decay = 0.999

    def __init__(self, shape, widths):
        super().__init__(shape)
        from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

        self.noise = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
        self.sampler = DDIMScheduler.from_config(self.noise.config, timestep_spacing="trailing")
        self.net = UNet2DModel(
            in_channels=shape[0],
            out_channels=shape[0],
            layers_per_block=1,
            block_out_channels=widths,
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            attention_head_dim=None,
        )

    def loss(self, x0):
        epsilon, t = torch.randn_like(x0), torch.randint(1000, (len(x0),))
        return (self.net(self.noise.add_noise(x0, epsilon, t), t).sample - epsilon).square().mean()

    def draw(self, num):
        x = torch.randn(num, *self.shape)
        self.sampler.set_timesteps(EVALUATIONS)
        for t in self.sampler.timesteps:
            x = self.sampler.step(self.net(x, t).sample, t, x).prev_sample
        return x

    def optimizer(self, rate):
        return AdamW(self.parameters(), lr=rate, betas=(0.95, 0.999), weight_decay=1e-6, fused=True)

    def factor(self, used, steps):
        return min(1.0, (steps + 1) / 100) * (1 + math.cos(math.pi * used)) / 2


class Lucidrains(Peer):
    """The README of denoising-diffusion-pytorch, with few channels and levels."""

    sizes = {"dim": 16}, {"dim": 32}
    rates = 8e-5, 1e-3
    decay = 0.995

    def __init__(self, shape, dim):
        super().__init__(shape)
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet

        network = Unet(dim=dim, dim_mults=(1, 2, 4), channels=shape[0], flash_attn=False)
        self.net = GaussianDiffusion(
            network, image_size=shape[1], timesteps=1000, sampling_timesteps=EVALUATIONS
        )

    def loss(self, x0):
        return self.net((x0 + 1) / 2)

    def draw(self, num):
        with mock.patch("denoising_diffusion_pytorch.denoising_diffusion_pytorch.tqdm", lambda x, **_: x):
            return 2 * self.net.sample(batch_size=num) - 1

    def optimizer(self, rate):
        return Adam(self.parameters(), lr=rate, betas=(0.9, 0.99), fused=True)


PEERS = {"azula": Azula, "smalldiffusion": SmallDiffusion, "diffusers": Diffusers, "lucidrains": Lucidrains}
