#!/bin/bash
# Trains on several machines: sbatch configs/accelerate/slurm.sh RUN.toml /shared/runs/mine [--set A.B=C ...]
# All machines must see the repository, the run's folder, the pictures and the model at the same paths.
#SBATCH --job-name=t2i-train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail

RUN=${1:?"usage: sbatch slurm.sh RUN.toml OUT [options of train]"}
OUT=${2:?"usage: sbatch slurm.sh RUN.toml OUT [options of train]"}
shift 2

# Starts one launcher on each machine, which starts one process per GPU (without GPUs: PROCESSES).
# CONFIG=configs/accelerate/fsdp2.yaml shards the weights over all of them.
nodes=$SLURM_JOB_NUM_NODES
per_node=${SLURM_GPUS_ON_NODE:-${PROCESSES:-1}}
main=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
export ACCELERATE="--config_file ${CONFIG:-configs/accelerate/two-machines.yaml} --num_machines $nodes
    --num_processes $((nodes * per_node)) --main_process_ip $main --main_process_port ${PORT:-29500}"

# When preempted and requeued, or submitted again, the same command resumes from the newest checkpoint.
srun --kill-on-bad-exit=1 bash -c \
    'exec accelerate launch $ACCELERATE --machine_rank "$SLURM_NODEID" -m train "$@"' \
    t2i "$RUN" --out "$OUT" "$@"
