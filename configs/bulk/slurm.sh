#!/bin/bash
# Generates images for a file of prompts on several machines: sbatch configs/bulk/slurm.sh FILE OUT [options of t2i generate]
# All machines must see FILE, OUT and the model at the same paths.
#SBATCH --job-name=t2i-bulk
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=12:00:00
#SBATCH --requeue
set -euo pipefail

FILE=${1:?"usage: sbatch slurm.sh FILE OUT [options of t2i generate]"}
OUT=${2:?"usage: sbatch slurm.sh FILE OUT [options of t2i generate]"}
shift 2

# Starts one launcher on each machine, which starts one process per GPU (without GPUs: PROCESSES).
nodes=$SLURM_JOB_NUM_NODES
per_node=${SLURM_GPUS_ON_NODE:-${PROCESSES:-1}}
main=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
export ACCELERATE="--multi_gpu --num_machines $nodes --num_processes $((nodes * per_node))
    --main_process_ip $main --main_process_port ${PORT:-29500} --mixed_precision no --dynamo_backend no"

# When preempted and requeued, or submitted again, the same command resumes.
srun --kill-on-bad-exit=1 bash -c \
    'exec accelerate launch $ACCELERATE --machine_rank "$SLURM_NODEID" -m t2i.cli generate --prompts "$@"' \
    t2i "$FILE" --out "$OUT" "$@"
