"""Whether NCCL lets two processes share a GPU: torchrun --nproc-per-node 2 experiments/performance/nccl_on_one_gpu.py."""

import os

import torch
import torch.distributed as dist
from torch import nn

device = torch.device("cuda", 0)
torch.cuda.set_device(device)
try:
    dist.init_process_group("nccl", device_id=device)
    total = torch.ones(3, device=device)
    dist.all_reduce(total)
    norm = nn.SyncBatchNorm(8).to(device)
    norm(torch.randn(4, 8, 5, 5, device=device)).sum().backward()
    print(f"process {os.environ['RANK']}: works, sum {total.tolist()}")
    dist.destroy_process_group()
except RuntimeError as error:  # DistBackendError, with the reason of NCCL in its last line
    print(f"process {os.environ['RANK']}: refused: {str(error).strip().splitlines()[-1]}", flush=True)
    os._exit(0)
