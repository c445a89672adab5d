"""A recipe goes in; two or more gloo processes train it with their weights sharded by FSDP; a run folder comes out.

accelerate shards on accelerators only. It asks PartialState which kind the processes are of, so this program says
another word there; everything after that (wrapping, gathering, saving) is what runs on GPUs.

torchrun --nproc_per_node 2 -m tests.training.fsdp_on_cpu recipe.yaml [--field value ...]
"""

import os
import sys

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from modeling_clipscratch.cli.command_line import quiet_libraries
from modeling_clipscratch.training.recipe.recipe import parse_recipe
from modeling_clipscratch.training.run import train

if __name__ == "__main__":
    torch.set_num_threads(1)
    quiet_libraries()
    parsed = parse_recipe(sys.argv[1:])
    # The words of configuration/accelerate/gpu_8_fsdp.yaml, as the launcher would pass them on.
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}
    os.environ |= {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    train(*parsed)
