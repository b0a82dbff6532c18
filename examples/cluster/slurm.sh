#!/bin/bash
# sbatch --nodes 2 examples/cluster/slurm.sh examples/quickstart.yaml parallel=fsdp
# One process for each GPU; killed or out of time, it is given back to the queue and goes on from the last checkpoint.
#SBATCH --job-name=luthier
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=29400
srun --kill-on-bad-exit=1 luthier train "$@"
