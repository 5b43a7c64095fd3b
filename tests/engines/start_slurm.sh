#!/bin/bash
# A Slurm cluster of two nodes with one CPU each on this machine, on loopback only. Debian, as root; no systemd needed.
#
#   start_slurm.sh          install what is missing, start what does not run, wait until both nodes are up
#   start_slurm.sh stop     end its jobs, and the daemons that it started
#
# All lies in $SLURM_HOME; clients need SLURM_CONF=$SLURM_HOME/slurm.conf. Jobs in the partition `urgent` push those in
# `main` off the nodes. There is no accounting: sacct fails, as on many clusters.
set -euo pipefail
SLURM_HOME=${SLURM_HOME:-/tmp/tmqc-slurm}
export SLURM_CONF=$SLURM_HOME/slurm.conf PATH=$PATH:/usr/sbin:/sbin # where Debian has the daemons
NODES=(n1 n2)

alive() { [[ -s $1 ]] && kill -0 "$(cat "$1")" 2>/dev/null; }

if [[ ${1:-start} == stop ]]; then
  if scancel --me 2>/dev/null; then sleep 2; fi # what jobs have begun would outlive the nodes
  for file in "$SLURM_HOME"/slurmd-*.pid "$SLURM_HOME"/{slurmctld,munged}.pid; do
    if alive "$file"; then kill "$(cat "$file")"; fi
  done
  exit
fi

missing=()
for package in munge slurmctld slurmd slurm-client; do
  dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
done
if ((${#missing[@]})); then
  apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "${missing[@]}" >/dev/null
fi
mkdir -p "$SLURM_HOME"/{state,log,spool-n1,spool-n2}
chmod 755 "$SLURM_HOME"

if ! munge -n 2>/dev/null | unmunge >/dev/null 2>&1; then # without it no daemon believes another
  [[ -s /etc/munge/munge.key ]] || dd if=/dev/urandom of=/etc/munge/munge.key bs=1 count=1024 status=none
  chown munge:munge /etc/munge/munge.key
  chmod 400 /etc/munge/munge.key
  install -d -o munge -g munge -m 755 /run/munge
  install -d -o munge -g munge -m 700 /var/log/munge /var/lib/munge
  setpriv --reuid=munge --regid=munge --clear-groups munged --force
  cp /run/munge/munged.pid "$SLURM_HOME/munged.pid"
fi

# No cgroups, so that a container will do. Quick: a node that is silent for 20 s is down, one that is queued again waits
# 5 s (cred_expire), a job that is told to end has 60 s before it is preempted, 30 s (KillWait) else.
cat >"$SLURM_CONF" <<CONF
ClusterName=tmqc
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation=$SLURM_HOME/state
SlurmdSpoolDir=$SLURM_HOME/spool-%n
SlurmctldPidFile=$SLURM_HOME/slurmctld.pid
SlurmdPidFile=$SLURM_HOME/slurmd-%n.pid
SlurmctldLogFile=$SLURM_HOME/log/slurmctld.log
SlurmdLogFile=$SLURM_HOME/log/slurmd-%n.log
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
SlurmdTimeout=20
KillWait=30
MinJobAge=3600
SchedulerParameters=sched_interval=5,bf_interval=5,batch_sched_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=17001 CPUs=1 RealMemory=8000
NodeName=n2 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=17002 CPUs=1 RealMemory=8000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=2
CONF

alive "$SLURM_HOME/slurmctld.pid" || slurmctld
for node in "${NODES[@]}"; do
  alive "$SLURM_HOME/slurmd-$node.pid" || slurmd -N "$node"
done
for _ in {1..120}; do
  up=$(sinfo -hN -p main -o '%T' 2>/dev/null | grep -cE 'idle|mixed|allocated' || true)
  [[ $up == "${#NODES[@]}" ]] && exit
  sleep 0.5
done
sinfo -N -l
exit 1
