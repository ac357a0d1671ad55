#!/usr/bin/env bash
# Writes etcd-3.7.3.db of this folder, a snapshot by the pinned etcd, and beside it what etcdutl says of it:
#
#   bench/etcd/build && net/bolt/tests/golden/etcd.sh
#
# Revisions do not depend on the time it is run; member and lease ids do not either.
set -euo pipefail
cd "$(dirname "$0")"
programs=$PWD/../../../../bench/etcd/bin
data=$(mktemp -d)
client=http://127.0.0.1:23793 peer=http://127.0.0.1:23803
"$programs/etcd" --data-dir "$data/etcd" --name golden --listen-client-urls $client --advertise-client-urls $client \
  --listen-peer-urls $peer --initial-advertise-peer-urls $peer --initial-cluster golden=$peer \
  --log-level error 2>"$data/log" &
etcd=$!
trap 'kill $etcd; wait $etcd; rm -rf "$data"' EXIT
ctl() { "$programs/etcdctl" --endpoints $client "$@" >/dev/null 2>"$data/errors"; }
until ctl endpoint health; do sleep 0.1; done

for number in $(seq 30); do ctl put "key/$number" "value $number"; done # revisions 2 to 31
ctl put key/1 again                                                      # 32
ctl del key/2                                                            # 33
printf '\nput txn/a 1\nput txn/b 2\ndel key/3\n\n\n' | ctl txn          # 34, sub revisions 0 to 2
ctl compact 33
curl -sf $client/v3/lease/grant -d '{"ID":"4660","TTL":"5000"}' >/dev/null
curl -sf $client/v3/lease/grant -d '{"ID":"22136","TTL":"6000"}' >/dev/null
ctl put leased value --lease=1234                                        # 35
ctl put large "$(head -c 9000 /dev/zero | tr '\0' x)"                    # 36
ctl put key/2 back                                                       # 37
ctl role add reader
ctl user add alice:secret
# The compaction has ended when its mark is written.
sleep 1
ctl snapshot save "$data/snapshot"
install -m 644 "$data/snapshot" etcd-3.7.3.db
"$programs/etcdutl" snapshot status etcd-3.7.3.db -w json >etcd-3.7.3.status.json
