#!/bin/bash
# A Slurm cluster of two nodes with one CPU each on this machine, on loopback only. Debian, as root; no systemd needed.
#
#   start_slurm.sh          install missing packages, start daemons that are not running, wait for both nodes
#   start_slurm.sh stop     stop its jobs and the daemons started by this script
#
# All files are in $SLURM_HOME; clients need SLURM_CONF=$SLURM_HOME/slurm.conf. Jobs in the partition `urgent` preempt
# those in `main`. There is no accounting, so sacct fails, as on many clusters.
set -euo pipefail
SLURM_HOME=${SLURM_HOME:-/tmp/tmqc-slurm}
export SLURM_CONF=$SLURM_HOME/slurm.conf PATH=$PATH:/usr/sbin:/sbin # location of the daemons on Debian
NODES=(n1 n2)

alive() { [[ -s $1 ]] && kill -0 "$(cat "$1")" 2>/dev/null; }

if [[ ${1:-start} == stop ]]; then
  if scancel --me 2>/dev/null; then sleep 2; fi # otherwise processes of jobs would outlive the nodes
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

if ! munge -n 2>/dev/null | unmunge >/dev/null 2>&1; then # needed for authentication between the daemons
  [[ -s /etc/munge/munge.key ]] || dd if=/dev/urandom of=/etc/munge/munge.key bs=1 count=1024 status=none
  chown munge:munge /etc/munge/munge.key
  chmod 400 /etc/munge/munge.key
  install -d -o munge -g munge -m 755 /run/munge
  install -d -o munge -g munge -m 700 /var/log/munge /var/lib/munge
  setpriv --reuid=munge --regid=munge --clear-groups munged --force
  cp /run/munge/munged.pid "$SLURM_HOME/munged.pid"
fi

# No cgroups, so that it works in a container. Short times: a silent node is down after 20 s, a requeued job waits 5 s
# (cred_expire), a job has 60 s (GraceTime) to end before it is preempted, otherwise 30 s (KillWait).
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
