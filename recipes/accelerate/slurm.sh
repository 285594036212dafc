#!/bin/bash
# A Slurm job that trains on all GPUs of its machines, and resumes after preemption or a time limit.
#
#   sbatch recipes/accelerate/slurm.sh RECIPE [section.key=value ...]
#   sbatch --nodes=1 --gpus-per-node=4 recipes/accelerate/slurm.sh RECIPE
#
# Submit it in the root of the repository, with the environment active, on a file system that all
# machines share. Told to end, training saves a checkpoint; the job then goes back into the queue
# under its own number, and its next start resumes from there. A run that fails is not repeated.
#SBATCH --job-name=convzoo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log

export PROCESSES=$((SLURM_NNODES * SLURM_GPUS_ON_NODE))
export MAIN_ADDRESS=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MAIN_PORT=$((20000 + SLURM_JOB_ID % 10000)) # jobs may share a machine

# Run a command, pass SIGTERM on to it and wait until it has ended; 143 if it was told to end.
passing_signals() {
    local told= status=0
    trap 'told=1; kill -TERM "$command" 2>/dev/null' TERM
    "$@" &
    command=$!
    while kill -0 "$command" 2>/dev/null; do
        wait "$command" # a signal interrupts it
        status=$?
    done
    return $((told ? 143 : status))
}

on_one_machine() {
    local launch=(
        accelerate launch --config_file recipes/accelerate/2x8gpu.yaml
        --num_machines "$SLURM_NNODES" --num_processes "$PROCESSES"
        --main_process_ip "$MAIN_ADDRESS" --main_process_port "$MAIN_PORT"
        --machine_rank "$SLURM_NODEID"
    )
    # For a single process accelerate would not pass signals on.
    [ "$PROCESSES" -gt 1 ] || launch=(python)
    passing_signals "${launch[@]}" train_accelerate.py "$@"
}

export -f passing_signals on_one_machine
passing_signals srun --kill-on-bad-exit=1 bash -c 'on_one_machine "$@"' task "$@"
status=$?
[ "$status" -ne 143 ] || scontrol requeue "$SLURM_JOB_ID"
exit "$status"
