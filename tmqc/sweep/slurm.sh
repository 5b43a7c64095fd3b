#!/bin/bash
#SBATCH --requeue --open-mode=append --signal=USR1@120
# Runs tmqc as a Slurm job: sbatch [options] slurm.sh tmqc ... run.name=NAME
#
# Slurm sends a signal before the time limit (USR1) and before a preemption (TERM): the run saves and ends. If Slurm does
# not requeue the job itself, this script does so after the run has ended. A canceled job is not requeued.
trap : TERM USR1 # bash must wait for the run
job=$SLURM_JOB_ID
if [[ $SLURM_ARRAY_JOB_ID ]]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
if [[ $SLURM_CPUS_PER_TASK ]]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi # srun does not inherit it from sbatch

srun "$@"
code=$?

case $code in
138) again='JobState=RUNNING |Reason=TimeLimit ' ;;                                    # 128 + USR1
143) again='JobState=(RUNNING|PREEMPTED) .*PreemptTime=[0-9]|Reason=TimeLimit ' ;; # 128 + TERM
*) exit $code ;;
esac
if ((${SLURM_RESTART_COUNT:-0} < 50)) && scontrol --oneliner show job "$job" | grep -qE "$again"; then
  scontrol requeue "$job"
fi
exit $code
