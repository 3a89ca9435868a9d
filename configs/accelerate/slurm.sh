#!/bin/bash
# A training on several machines: sbatch configs/accelerate/slurm.sh RUN.toml /shared/runs/mine [--set A.B=C ...]
# The repository's folder, the run's, the pictures and the model lie where every machine has mounted them.
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

# One launcher on each machine, which starts a process for each of its GPUs (on machines without: PROCESSES).
# CONFIG=configs/accelerate/fsdp2.yaml splits the weights over all of them.
nodes=$SLURM_JOB_NUM_NODES
per_node=${SLURM_GPUS_ON_NODE:-${PROCESSES:-1}}
main=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
export ACCELERATE="--config_file ${CONFIG:-configs/accelerate/two-machines.yaml} --num_machines $nodes
    --num_processes $((nodes * per_node)) --main_process_ip $main --main_process_port ${PORT:-29500}"

# Preempted and queued again, or submitted again, the same command goes on from the newest checkpoint.
srun --kill-on-bad-exit=1 bash -c \
    'exec accelerate launch $ACCELERATE --machine_rank "$SLURM_NODEID" -m train "$@"' \
    t2i "$RUN" --out "$OUT" "$@"
