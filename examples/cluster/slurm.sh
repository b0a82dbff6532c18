#!/bin/bash
# sbatch --nodes 2 examples/cluster/slurm.sh examples/quickstart.yaml parallel=fsdp
# One process for each GPU. Two minutes before its time is over it saves and ends; the same line goes on from there, and
# Slurm queues it again by itself where it was preempted or a machine was lost.
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
