#!/bin/bash
# An MLflow server as used by teams: with PostgreSQL, artifacts proxied by the server, and a user with a password (admin,
# password1234567), on loopback only. Debian, as root; no systemd needed. Requires `mlflow[auth]` and psycopg.
#
#   start_mlflow.sh                install missing packages, start both if not running, wait until the server answers
#   start_mlflow.sh stop-server    stop only the server; the database keeps running
#   start_mlflow.sh stop           stop both
#
# All files are in $MLFLOW_HOME; PYTHON is an interpreter with mlflow.
set -euo pipefail
MLFLOW_HOME=${MLFLOW_HOME:-/tmp/tmqc-mlflow}
PYTHON=${PYTHON:-python}
PORT=${PORT:-15000}
PG_PORT=15432
DATA=$MLFLOW_HOME/pg

alive() { [[ -s $1 ]] && kill -0 "$(head -1 "$1")" 2>/dev/null; }

if [[ ${1:-start} == stop* ]]; then
  if alive "$MLFLOW_HOME/server.pid"; then kill -- "-$(cat "$MLFLOW_HOME/server.pid")"; fi # including its workers
  rm -f "$MLFLOW_HOME/server.pid"
  if [[ $1 == stop ]] && alive "$DATA/postmaster.pid"; then
    kill -INT "$(head -1 "$DATA/postmaster.pid")"
    while alive "$DATA/postmaster.pid"; do sleep 0.2; done
  fi
  exit
fi

if ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
  apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends postgresql >/dev/null
fi
BIN=$(dirname "$(ls /usr/lib/postgresql/*/bin/initdb | sort -V | tail -1)")
as_postgres() { (cd / && setpriv --reuid=postgres --regid=postgres --init-groups "$@"); } # PostgreSQL refuses to run as root
mkdir -p "$MLFLOW_HOME/files"
if [[ ! -s $DATA/PG_VERSION ]]; then
  install -d -o postgres -g postgres -m 700 "$DATA"
  as_postgres "$BIN/initdb" -D "$DATA" -A trust -E UTF8 --locale=C.UTF-8 >/dev/null
fi
if ! alive "$DATA/postmaster.pid"; then
  as_postgres "$BIN/pg_ctl" -D "$DATA" -w -l "$DATA/log" \
    -o "-p $PG_PORT -c listen_addresses=127.0.0.1 -c unix_socket_directories=$DATA" start >/dev/null
fi
for name in mlflow mlflow_auth; do
  psql -qAt -h 127.0.0.1 -p $PG_PORT -U postgres -c "select 1 from pg_database where datname='$name'" | grep -q 1 ||
    psql -q -h 127.0.0.1 -p $PG_PORT -U postgres -c "create database $name"
done

if ! alive "$MLFLOW_HOME/server.pid"; then
  database=postgresql+psycopg://postgres@127.0.0.1:$PG_PORT
  cat >"$MLFLOW_HOME/auth.ini" <<CONF
[mlflow]
default_permission = READ
database_uri = $database/mlflow_auth
admin_username = admin
admin_password = password1234567
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
CONF
  export MLFLOW_AUTH_CONFIG_PATH=$MLFLOW_HOME/auth.ini MLFLOW_FLASK_SERVER_SECRET_KEY=only-for-tests
  export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false # saves seven processes
  MLFLOW_DISABLE_TELEMETRY=true setsid "$PYTHON" -m mlflow server --app-name basic-auth --host 127.0.0.1 --port "$PORT" \
    --workers 2 --backend-store-uri "$database/mlflow" --artifacts-destination "$MLFLOW_HOME/files" --serve-artifacts \
    >>"$MLFLOW_HOME/server.log" 2>&1 &
  echo $! >"$MLFLOW_HOME/server.pid"
fi
for _ in {1..600}; do
  [[ $(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$PORT/health") == 200 ]] && exit
  alive "$MLFLOW_HOME/server.pid" || break
  sleep 0.5
done
tail -n 5 "$MLFLOW_HOME/server.log"
exit 1
